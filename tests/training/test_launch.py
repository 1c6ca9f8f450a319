"""Threads of a run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from vqaudio.training import FitConfig, fit
from vqaudio.training.launch import default_threads


class OneNumber(nn.Module):
    """Records the number of threads of each forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.threads: set[int] = set()

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        self.threads.add(torch.get_num_threads())
        return (self.weight * x).square().sum(), {}


class Ones:
    seconds_per_step = 0.0

    def batch(self, step: int, part: int = 0, parts: int = 1) -> dict[str, torch.Tensor]:
        return {"x": torch.ones(1)}


@pytest.mark.parametrize("wanted", [1, 3])
def test_the_number_of_threads_is_set_and_restored(tmp_path: Path, wanted: int) -> None:
    before = torch.get_num_threads()
    model = fit(OneNumber(), Ones(), FitConfig(steps=2, threads=wanted), tmp_path)
    assert model.threads == {wanted}
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("environment", "processors", "expected"),
    [
        ({"ACCELERATE_MIXED_PRECISION": "no", "OMP_NUM_THREADS": "1"}, 2, 2),
        ({"ACCELERATE_MIXED_PRECISION": "no", "OMP_NUM_THREADS": "1", "LOCAL_WORLD_SIZE": "2"}, 2, 1),
        ({"ACCELERATE_MIXED_PRECISION": "no", "OMP_NUM_THREADS": "1", "LOCAL_WORLD_SIZE": "4"}, 2, 1),
        ({"ACCELERATE_MIXED_PRECISION": "no", "OMP_NUM_THREADS": "1", "LOCAL_WORLD_SIZE": "2"}, 9, 4),
        ({"ACCELERATE_MIXED_PRECISION": "no", "OMP_NUM_THREADS": "5"}, 9, 7),  # set by the user; PyTorch has read it
        ({"OMP_NUM_THREADS": "1"}, 9, 7),  # set by the user, not by accelerate launch
        ({}, 9, 7),
    ],
)
def test_default_number_of_threads(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], processors: int, expected: int
) -> None:
    for name in ("ACCELERATE_MIXED_PRECISION", "OMP_NUM_THREADS", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(processors)), raising=False)
    monkeypatch.setattr("torch.get_num_threads", lambda: 7)
    assert default_threads() == expected
