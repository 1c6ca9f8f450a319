"""How a class is drawn from logits: one rule for all samplers, so that they can be compared step by step.

Letters: B streams, T steps, Q classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import torch
from torch import Tensor

Generators = torch.Generator | Sequence[torch.Generator] | None


class DrawOptions(TypedDict, total=False):
    """How codes are drawn."""

    temperature: float
    top_k: int | None
    generator: Generators


def check_controls(steps: int, temperature: float, top_k: int | None) -> None:
    """Raises ValueError, in words, for controls that mean nothing."""
    if steps < 0:
        raise ValueError(f"steps must be 0 or more, got {steps}")
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"temperature must be a finite number, 0 (greedy) or more, got {temperature}")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be at least 1 (1 is greedy), got {top_k}; leave it out to draw from all classes")


def uniforms(streams: int, steps: int, generator: Generators) -> Tensor:
    """(B, T) numbers in [0, 1), all the randomness of a generation, drawn on the CPU beforehand.

    With one generator for each stream, what a stream becomes does not depend on its neighbours.
    """
    if isinstance(generator, Sequence):
        if len(generator) != streams:
            raise ValueError(f"{streams} streams need as many generators (or a single one), got {len(generator)}")
        return torch.stack([torch.rand(steps, generator=g) for g in generator]) if streams else torch.zeros(0, steps)
    return torch.rand(streams, steps, generator=generator)


def draw(logits: Tensor, uniform: Tensor, temperature: float, top_k: int | None) -> Tensor:
    """Logits (B, Q), uniform (B,) -> classes (B,) int64, by inverting the cumulative distribution.

    Temperature 0 and top_k 1 take the most likely class, the first of equals.
    """
    if temperature == 0 or top_k == 1:
        return logits.argmax(1)
    logits = logits.float()
    if top_k is not None and top_k < logits.shape[1]:
        threshold = logits.topk(top_k, dim=1).values[:, -1:]
        logits = logits.masked_fill(logits < threshold, float("-inf"))
    # less the largest first: a tiny temperature must not make infinities of all
    cumulative = torch.softmax((logits - logits.amax(1, keepdim=True)) / temperature, 1).cumsum(1)
    # scaled by the total, which rounding leaves near 1; "right" passes over classes of probability 0
    found = torch.searchsorted(cumulative, (uniform[:, None] * cumulative[:, -1:]), right=True)
    return found.squeeze(1).clamp(max=logits.shape[1] - 1)
