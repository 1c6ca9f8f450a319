"""Normalisation between encoder and quantizer, which brings encoder outputs to the scale of the codebook.

Shapes: B batch, D code width, *S any spatial axes.
"""

from __future__ import annotations

from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vqaudio.nn.distributed import differentiable_sum, sum_over_processes

NormalizerKind = Literal["none", "affine", "batch", "frame", "unit"]
MIN_VARIANCE = 1e-12


class Normalizer(nn.Module):
    """(B, D, *S) -> (B, D, *S). Frames are independent of each other, except for `batch` in training.

    none    identity
    affine  scale and shift per dimension, initialised by the first training batch to zero mean and unit variance, then
            trained
    batch   batch normalisation over the global batch without affine parameters (Ioffe and Szegedy, arXiv 1502.03167);
            moving averages in evaluation
    frame   a fixed affine map as above, then layer normalisation of each vector, so that no vector can shrink towards
            its code
    unit    a fixed affine map as above, then scaling of each vector to norm sqrt(D)
    """

    initialised: Tensor  # () bool
    mean: Tensor  # (D,)
    variance: Tensor  # (D,)

    def __init__(self, kind: NormalizerKind, width: int, decay: float = 0.9):
        """width: D. decay: of the moving averages of `batch`. Raises ValueError for an unknown kind."""
        super().__init__()
        if kind not in ("none", "affine", "batch", "frame", "unit"):
            raise ValueError(f"normalizer must be 'none', 'affine', 'batch', 'frame' or 'unit', got {kind!r}")
        self.kind, self.decay = kind, decay
        if kind == "none":
            return
        self.register_buffer("initialised", torch.tensor(False))
        if kind == "batch":
            self.register_buffer("mean", torch.zeros(width))
            self.register_buffer("variance", torch.ones(width))
        else:
            self.scale = nn.Parameter(torch.ones(width), requires_grad=kind == "affine")
            self.shift = nn.Parameter(torch.zeros(width), requires_grad=kind == "affine")

    def forward(self, z: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, D, *S) float, mask (B, *S) bool (False: padding) -> (B, D, *S) float32.

        Raises ValueError for a training batch that consists of padding only.
        """
        if self.kind == "none":
            return z
        with torch.autocast(z.device.type, enabled=False):
            rows = rearrange(z.float(), "b d ... -> b ... d")
            rows = self._batch_normalised(rows, mask) if self.kind == "batch" else self._affine(rows, mask)
            if self.kind == "frame":
                rows = F.layer_norm(rows, rows.shape[-1:])
            if self.kind == "unit":
                rows = F.rms_norm(rows, rows.shape[-1:], eps=1e-6)
            return rearrange(rows, "b ... d -> b d ...")

    def _affine(self, rows: Tensor, mask: Tensor | None) -> Tensor:
        """Apply scale and shift; the first training batch initialises them."""
        if self.training and not self.initialised:
            with torch.no_grad():
                mean, variance = _moments(rows, mask)
                self.scale.copy_(variance.clamp(min=MIN_VARIANCE).rsqrt())
                self.shift.copy_(-mean * self.scale)
                self.initialised.fill_(True)
        return rows * self.scale + self.shift

    def _batch_normalised(self, rows: Tensor, mask: Tensor | None) -> Tensor:
        mean, variance = self.mean, self.variance
        if self.training:
            mean, variance = _moments(rows, mask)
            decay = self.decay if self.initialised else 0.0
            self.mean.lerp_(mean.detach(), 1 - decay)
            self.variance.lerp_(variance.detach(), 1 - decay)
            self.initialised.fill_(True)
        return (rows - mean) * (variance + 1e-5).rsqrt()


def _moments(rows: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """(B, *S, D), mask (B, *S) -> mean and variance (D,) of all valid rows on all processes, with gradients."""
    rows = rows.flatten(0, -2) if mask is None else rows[mask]  # (M, D)
    count = sum_over_processes(torch.tensor(float(rows.shape[0]), device=rows.device))
    if not count:
        raise ValueError("this training batch consists of padding only; check the lengths of the utterances")
    mean = differentiable_sum(rows.sum(0)) / count
    # two passes, because E[x^2] - E[x]^2 loses a small variance to rounding
    return mean, differentiable_sum((rows - mean).square().sum(0)) / count
