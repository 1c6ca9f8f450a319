"""The cross-entropy in parts equals PyTorch's, and its memory is a fraction of it."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from vqaudio.nn.cross_entropy import cross_entropy_of_each

PEAK = """
import sys, torch
from torch.nn import functional as F
from vqaudio.nn.cross_entropy import cross_entropy_of_each
rows, classes = 400_000, 256
logits = torch.ones(rows, classes, dtype=torch.bfloat16).requires_grad_()
target = torch.zeros(rows, dtype=torch.long)
before = peak_memory()
whole = sys.argv[1] == "whole"
losses = F.cross_entropy(logits.float(), target, reduction="none") if whole else cross_entropy_of_each(logits, target)
losses.sum().backward()
megabytes = (peak_memory() - before) / 1024
print(megabytes / (2 * rows * classes / 2**20))  # in multiples of the logits
"""


def _inputs(dtype: torch.dtype, rows: int = 70, classes: int = 13) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rows)
    logits = (torch.randn(rows, classes, generator=generator) * 5).to(dtype).requires_grad_()
    target = torch.randint(classes, (rows,), generator=generator)
    weight = torch.rand(rows, generator=generator) * (torch.rand(rows, generator=generator) < 0.8)
    return logits, target, weight


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rows", [1, 32, 70, 1000])
@pytest.mark.parametrize("classes", [13, 256])
def test_values_and_gradients_are_those_of_pytorch_to_the_bit(dtype: torch.dtype, rows: int, classes: int) -> None:
    logits, target, weight = _inputs(dtype, classes=classes)
    again = logits.detach().clone().requires_grad_()
    losses = cross_entropy_of_each(logits, target, rows)
    expected = F.cross_entropy(again.float(), target, reduction="none")
    assert losses.dtype == torch.float32 and torch.equal(losses, expected)
    (losses * weight).sum().backward()
    (expected * weight).sum().backward()
    assert logits.grad is not None and again.grad is not None
    assert logits.grad.dtype == dtype and torch.equal(logits.grad, again.grad)


def test_no_rows_have_no_losses() -> None:
    logits, target, _ = _inputs(torch.float32, rows=0)
    losses = cross_entropy_of_each(logits, target)
    losses.sum().backward()
    assert losses.shape == (0,) and logits.grad is not None and logits.grad.shape == (0, 13)


def test_half_precision_is_not_used_under_autocast() -> None:
    logits, target, _ = _inputs(torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = cross_entropy_of_each(logits, target)
    assert torch.equal(losses, F.cross_entropy(logits.float(), target, reduction="none"))


@pytest.mark.long
def test_peak_memory_is_that_of_the_gradient(peak_memory: str) -> None:
    """In multiples of bfloat16 logits, of which their gradient is 1: 2.3 in parts, 6.0 in one."""
    found = {}
    for how in ("whole", "parts"):
        run = subprocess.run(
            [sys.executable, "-c", peak_memory + PEAK, how], capture_output=True, text=True, check=True
        )
        found[how] = float(run.stdout)
    assert found["parts"] < 3
    assert found["whole"] > 1.4 * found["parts"]
