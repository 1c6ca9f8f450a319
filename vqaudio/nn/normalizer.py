"""What stands between an encoder and its quantizer, so that the vectors begin on the codebook's scale.

Letters: B batch, D code width, *S any spatial axes.
"""

from __future__ import annotations

from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vqaudio.nn.joint import sum_over_processes

NormalizerKind = Literal["none", "affine", "frame"]


class Normalizer(nn.Module):
    """(B, D, *S) -> (B, D, *S), without looking at other frames once it is initialised.

    none: as it is. affine: a scale and a shift for each of the D numbers, set by the first training batch to
    zero mean and unit variance, then learned. frame: that affine map, fixed after the first batch, then each
    vector brought to mean 0 and variance 1 over D, so that no vector can shrink towards its code.
    """

    initialised: Tensor  # () bool

    def __init__(self, kind: NormalizerKind, width: int):
        super().__init__()
        if kind not in ("none", "affine", "frame"):
            raise ValueError(f"normalizer must be 'none', 'affine' or 'frame', got {kind!r}")
        self.kind = kind
        if kind != "none":
            self.scale = nn.Parameter(torch.ones(width), requires_grad=kind == "affine")
            self.shift = nn.Parameter(torch.zeros(width), requires_grad=kind == "affine")
            self.register_buffer("initialised", torch.tensor(False))

    def forward(self, z: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, D, *S) float, mask (B, *S) bool (False: padding) -> (B, D, *S) float32."""
        if self.kind == "none":
            return z
        with torch.autocast(z.device.type, enabled=False):
            rows = rearrange(z.float(), "b d ... -> b ... d")
            if self.training and not self.initialised:
                self._initialise(rows.detach() if mask is None else rows.detach()[mask])
            rows = rows * self.scale + self.shift
            if self.kind == "frame":
                rows = F.layer_norm(rows, rows.shape[-1:])
            return rearrange(rows, "b ... d -> b d ...")

    @torch.no_grad()
    def _initialise(self, rows: Tensor) -> None:
        rows = rows.reshape(-1, rows.shape[-1])
        total, count = sum_over_processes(torch.cat([rows, torch.ones_like(rows[:, :1])], dim=1).sum(0)).tensor_split(
            [-1]
        )
        if not count:
            raise ValueError("the first training batch holds nothing but padding; give it speech")
        mean = total / count
        # a second pass: the difference of squares would drown a small variance in rounding
        variance = sum_over_processes((rows - mean).square().sum(0)) / count
        self.scale.copy_(variance.clamp(min=1e-12).rsqrt())
        self.shift.copy_(-mean * self.scale)
        self.initialised.fill_(True)
