"""What stands between an encoder and its quantizer, so that the vectors begin on the codebook's scale.

Letters: B batch, D code width, *S any spatial axes.
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
    """(B, D, *S) -> (B, D, *S). In evaluation, and in training but for `batch`, no frame hears of another.

    none    as it is
    affine  a scale and a shift for each of the D numbers, set by the first training batch to zero mean and unit
            variance, then learned
    batch   each of the D numbers to zero mean and unit variance over the joint batch; in evaluation by moving averages
            of mean and variance (Ioffe and Szegedy, arXiv 1502.03167, without the affine map that follows there)
    frame   the affine map of the first batch, fixed; then each vector to mean 0 and variance 1 over D, so that no
            vector can shrink towards its code
    unit    the affine map of the first batch, fixed; then each vector to norm sqrt(D), its direction kept
    """

    initialised: Tensor  # () bool
    mean: Tensor  # (D,)
    variance: Tensor  # (D,)

    def __init__(self, kind: NormalizerKind, width: int, decay: float = 0.9):
        """decay: of the moving averages of `batch`, per training batch."""
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

        Raises ValueError where statistics are wanted of a batch that holds nothing but padding.
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
        """Scale and shift, which the first training batch sets."""
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
            remembered = self.decay if self.initialised else 0.0
            self.mean.lerp_(mean.detach(), 1 - remembered)
            self.variance.lerp_(variance.detach(), 1 - remembered)
            self.initialised.fill_(True)
        return (rows - mean) * (variance + 1e-5).rsqrt()


def _moments(rows: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """(B, *S, D) and mask (B, *S) of each process -> mean and variance (D,) of all that is valid, with gradients."""
    rows = rows.flatten(0, -2) if mask is None else rows[mask]  # (M, D)
    count = sum_over_processes(torch.tensor(float(rows.shape[0]), device=rows.device))
    if not count:
        raise ValueError("this training batch holds nothing but padding; give it speech")
    mean = differentiable_sum(rows.sum(0)) / count
    # a second pass: the difference of squares would drown a small variance in rounding
    return mean, differentiable_sum((rows - mean).square().sum(0)) / count
