"""Normalisation between encoder and quantizer, which brings encoder outputs to the scale of the codebook.

Shapes: B batch, D code width, *S any spatial axes.
"""

from __future__ import annotations

from typing import Any, Literal

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
        self._known_initialised = False  # cached, to avoid a device synchronisation per step
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
        """(B, D, *S) float, mask (B, *S) bool (False: padding) -> (B, D, *S) float32, for `none` the input unchanged.

        Raises ValueError for a first training batch that consists of padding only, except for `batch`.
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
        if self.training and not self._is_initialised():
            with torch.no_grad():
                own = rows.flatten(0, -2) if mask is None else rows[mask]
                mean, variance, count = _moments(own, torch.ones_like(own[:, 0]))
                if not count:
                    raise ValueError(
                        "this training batch consists of padding only; check the lengths of the utterances"
                    )
                self.scale.copy_(variance.clamp(min=MIN_VARIANCE).rsqrt())
                self.shift.copy_(-mean * self.scale)
                self.initialised.fill_(True)
        return rows * self.scale + self.shift

    def _is_initialised(self) -> bool:
        if not self._known_initialised:
            self._known_initialised = bool(self.initialised)
        return self._known_initialised

    def _load_from_state_dict(self, *args: Any, **options: Any) -> None:
        super()._load_from_state_dict(*args, **options)
        self._known_initialised = False

    def _batch_normalised(self, rows: Tensor, mask: Tensor | None) -> Tensor:
        """Nothing here makes the host wait for the device; a batch of padding only leaves the averages as they are."""
        mean, variance = self.mean, self.variance
        if self.training:
            valid = torch.ones_like(rows[..., 0]) if mask is None else mask.to(rows.dtype)
            mean, variance, count = _moments(rows.flatten(0, -2), valid.flatten())
            # the first batch counts in full
            weight = torch.where(self.initialised, 1 - self.decay, 1.0) * (count > 0)
            self.mean.lerp_(mean.detach(), weight)
            self.variance.lerp_(variance.detach(), weight)
            self.initialised |= count > 0
        return (rows - mean) * (variance + 1e-5).rsqrt()


def _moments(rows: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(M, D), (M,) 1 or 0 -> mean and variance (D,) of all valid rows of all processes, with gradients, their count."""
    count = sum_over_processes(valid.sum())
    weight = valid[:, None] > 0
    mean = differentiable_sum(torch.where(weight, rows, 0).sum(0)) / count.clamp(min=1)
    # two passes, because E[x^2] - E[x]^2 loses a small variance to rounding
    squares = torch.where(weight, (rows - mean).square(), 0)
    return mean, differentiable_sum(squares.sum(0)) / count.clamp(min=1), count
