"""What training may disturb, so that a decoder leans on its codes and not on the past alone.

Letters: B batch, T steps, N frames, D code width.
"""

from __future__ import annotations

import torch
from torch import Tensor


def jitter(frames: Tensor, probability: float) -> Tensor:
    """(B, D, N): each frame with probability `share` replaced by the one before or after it.

    Neighbouring codes then have to mean much the same (time-jitter of Chorowski et al., arXiv 1901.08810, who use
    0.12). The first and last frame have one neighbour. Gradients go to the frame that was taken.
    """
    b, d, n = frames.shape
    draws = torch.rand(b, n, device=frames.device)
    step = (draws < probability / 2).long() - ((draws >= probability / 2) & (draws < probability)).long()
    at = torch.arange(n, device=frames.device) + step
    at = torch.where(at < 0, 1, torch.where(at >= n, n - 2, at)).clamp(0, n - 1)  # (B, N)
    return frames.gather(2, at[:, None].expand(b, d, n))


def replace_inputs(x: Tensor, probability: float, replacement: int | None, num_classes: int) -> Tensor:
    """(B, T) int64: each step with probability `share` replaced by the class `by`, or by any of `classes` at random."""
    other = torch.randint_like(x, num_classes) if replacement is None else torch.full_like(x, replacement)
    return torch.where(torch.rand(x.shape, device=x.device) < probability, other, x)
