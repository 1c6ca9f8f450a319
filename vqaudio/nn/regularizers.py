"""Regularisation of autoregressive decoders against posterior collapse: they corrupt the past, or the codes.

Shapes: B batch, T steps, N frames, D code width.
"""

from __future__ import annotations

import torch
from torch import Tensor


def jitter(frames: Tensor, probability: float) -> Tensor:
    """Time-jitter (Chorowski et al., arXiv 1901.08810): (B, D, N) -> (B, D, N).

    Each frame is replaced by one of its neighbours with probability `probability` (0.12 in the paper). The first and
    last frame have one neighbour. Gradients flow to the frame that was copied.
    """
    b, d, n = frames.shape
    draws = torch.rand(b, n, device=frames.device)
    step = (draws < probability / 2).long() - ((draws >= probability / 2) & (draws < probability)).long()
    at = torch.arange(n, device=frames.device) + step
    at = torch.where(at < 0, 1, torch.where(at >= n, n - 2, at)).clamp(0, n - 1)  # (B, N)
    return frames.gather(2, at[:, None].expand(b, d, n))


def replace_inputs(x: Tensor, probability: float, replacement: int | None, num_classes: int) -> Tensor:
    """(B, T) int64: each step is replaced with probability `probability`, by `replacement` or a random class."""
    other = torch.randint_like(x, num_classes) if replacement is None else torch.full_like(x, replacement)
    return torch.where(torch.rand(x.shape, device=x.device) < probability, other, x)


def noisy_past(x: Tensor, largest: float, num_classes: int) -> Tensor:
    """(B, T) int64: with normal noise of a standard deviation drawn from 0 to `largest` classes for each row.

    What is no class, as the start of a sequence, stays.
    """
    deviation = largest * torch.rand(len(x), 1, device=x.device)
    noise = torch.round(deviation * torch.randn(x.shape, device=x.device)).long()
    return torch.where(x < num_classes, (x + noise).clamp(0, num_classes - 1), x)
