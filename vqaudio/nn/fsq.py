"""Finite scalar quantization (Mentzer et al., arXiv 2309.15505): a few dimensions, each rounded to one of its levels.

Letters: B batch, D code width, F quantized dimensions, K number of codes (the product of the levels), *S any spatial
axes, M vectors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from einops import rearrange
from torch import Tensor, nn

from vqaudio.fingerprint import FingerprintFields
from vqaudio.nn.distributed import sum_over_processes
from vqaudio.nn.linear import Linear
from vqaudio.nn.quantizer_protocol import (
    MAX_CODES,
    Quantized,
    check_width,
    perplexity,
    recent_usage,
    usage_metrics,
    valid_rows,
)

MARGIN = 1e-3  # relative distance of the bound beyond the outermost levels, as in vector-quantize-pytorch


@dataclass(frozen=True)
class FSQConfig:
    """Paper: levels of 5 or more each; (8, 5, 5, 5) for about 2^10 codes, (7, 5, 5, 5, 5) for about 2^12."""

    FINGERPRINT: ClassVar = FingerprintFields(always={"kind": "kind", "levels": "levels"}, by_weights=("dim",))

    kind: Literal["fsq"] = "fsq"
    """finite scalar quantization, without a codebook"""
    levels: tuple[int, ...] = (8, 5, 5, 5)
    """number of levels of each quantized dimension; their product is K, the number of codes"""
    dim: int = 64
    """D, dimension of the vectors; if it is not the number of quantized dimensions, linear layers project in and out"""

    def __post_init__(self) -> None:
        if not self.levels or min(self.levels) < 3:
            raise ValueError(f"levels must be one or more numbers, all at least 3, got {self.levels}")
        if self.dim < 1:
            raise ValueError(f"dim must be at least 1, got {self.dim}")
        if self.codebook_size > MAX_CODES:
            raise ValueError(f"levels must have a product of at most {MAX_CODES}, got {self.levels}")

    @property
    def codebook_size(self) -> int:
        """K, number of codes."""
        return math.prod(self.levels)


class FSQ(nn.Module):
    """Rounds each dimension to one of its levels, with the straight-through gradient.

    A code is the mixed-radix number of the rounded levels; the first dimension is the lowest digit. There is no
    codebook, therefore no codebook loss, no commitment loss and nothing to initialise.
    """

    levels: Tensor  # (F,) int64
    half_width: Tensor  # (F,): levels // 2, which scales rounded values to [-1, 1]
    basis: Tensor  # (F,) int64: weight of each digit
    scale: Tensor  # (F,): parameters of `bound`, as are offset and shift
    offset: Tensor  # (F,)
    shift: Tensor  # (F,)
    last_used: Tensor  # (K,) int64: the update at which a code was last chosen
    updates: Tensor  # () int64: updates so far

    def __init__(self, cfg: FSQConfig):
        super().__init__()
        self.cfg = cfg
        # not saved: they follow from the configuration
        with torch.device("cpu"):  # computed even if the rest of the model is created on the meta device
            levels = torch.tensor(cfg.levels)
            self.register_buffer("levels", levels, persistent=False)
            self.register_buffer("half_width", (levels // 2).float(), persistent=False)
            self.register_buffer("basis", torch.tensor([1, *cfg.levels[:-1]]).cumprod(0), persistent=False)
            # scale * tanh(x + shift) - offset, as in the paper's appendix A.1, but with atanh in place of tan, so that
            # 0 stays 0
            scale = (levels - 1) * (1 + MARGIN) / 2
            offset = torch.where(levels % 2 == 0, 0.5, 0.0)  # an even number of levels has no middle one
            self.register_buffer("scale", scale, persistent=False)
            self.register_buffer("offset", offset, persistent=False)
            self.register_buffer("shift", torch.atanh(offset / scale), persistent=False)  # 0 stays 0
        self.register_buffer("last_used", torch.full((cfg.codebook_size,), -1))
        self.register_buffer("updates", torch.tensor(0))
        projects = cfg.dim != len(cfg.levels)
        self.project_in = Linear(cfg.dim, len(cfg.levels)) if projects else nn.Identity()
        self.project_out = Linear(len(cfg.levels), cfg.dim) if projects else nn.Identity()
        self.forwards_per_step = 1
        self._counts: list[Tensor] = []  # (K,) of each forward pass since the last update

    def forward(self, z: Tensor, mask: Tensor | None = None) -> Quantized:
        """(B, D, *S) float, mask (B, *S) bool (False: padding, which is ignored) -> Quantized with loss 0."""
        check_width(z, self.cfg.dim)
        with torch.autocast(z.device.type, enabled=False):  # half precision would round to other levels
            bounded = self._bounded(z.float())
            rounded = bounded.round().detach()
            codes = self.index(rounded)
            straight_through = rounded + (bounded - bounded.detach())  # exactly the rounded value
            z_q = self._out(straight_through / self.half_width)
        counts = self._count(codes, mask)
        if self.training:
            self._counts.append(counts)
            if len(self._counts) >= self.forwards_per_step:
                self._update()
        return Quantized(z_q, codes, z_q.new_zeros(()), perplexity(counts))

    def encode(self, z: Tensor) -> Tensor:
        """(B, D, *S) float -> codes (B, *S) int64."""
        check_width(z, self.cfg.dim)
        with torch.autocast(z.device.type, enabled=False):
            return self.index(self._bounded(z.detach().float()).round())

    def decode(self, codes: Tensor) -> Tensor:
        """(B, *S) int64 in [0, K) -> (B, D, *S)."""
        with torch.autocast(codes.device.type, enabled=False):
            return self._out(self.rounded(codes) / self.half_width)

    def bound(self, x: Tensor) -> Tensor:
        """(..., F) -> (..., F), bounded such that rounding always gives one of the levels."""
        return self.scale * torch.tanh(x + self.shift) - self.offset

    def index(self, rounded: Tensor) -> Tensor:
        """(..., F) integer values from -(levels // 2) to (levels - 1) // 2 -> codes (...) int64."""
        digits = rounded.nan_to_num() + self.half_width  # NaN has no level; it stays in z_q, and so in the loss
        return (digits.long() * self.basis).sum(-1)

    def rounded(self, codes: Tensor) -> Tensor:
        """Codes (...) int64 -> (..., F) float32: the inverse of `index`."""
        return (codes[..., None] // self.basis) % self.levels - self.half_width

    @property
    def codebook_size(self) -> int:
        """K."""
        return self.cfg.codebook_size

    @property
    def dim(self) -> int:
        """D."""
        return self.cfg.dim

    @property
    def device(self) -> torch.device:
        """The device of its tensors."""
        return self.updates.device

    def usage(self, window: int = 100) -> Tensor:
        """() fraction of the codes that were chosen within the last `window` updates, 0 to 1."""
        return recent_usage(self.last_used, self.updates, window)

    def metrics(self, q: Quantized) -> dict[str, Tensor]:
        """Training metrics of a forward pass, each ()."""
        return usage_metrics(q, self.usage(), self.codebook_size)

    def code_weights(self) -> dict[str, Tensor]:
        """The weights that determine the code of a vector."""
        return self.project_in.state_dict(prefix="quantizer.project_in.")

    # --- codebook initialisation: there is nothing to initialise ---

    @property
    def initialised(self) -> bool:
        """Always true: there is no codebook."""
        return True

    def initialise(self, passes: Sequence[Tensor]) -> None:
        """Does nothing: the levels are fixed."""

    def valid_rows(self, z: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, D, *S), mask (B, *S) -> the vectors that are not padding, (M, D) float32."""
        return valid_rows(z, mask)

    def _bounded(self, z: Tensor) -> Tensor:
        """(B, D, *S) float32 -> (B, *S, F)."""
        return self.bound(self.project_in(rearrange(z, "b d ... -> b ... d")))

    def _out(self, values: Tensor) -> Tensor:
        """(B, *S, F) in [-1, 1] -> (B, D, *S)."""
        return rearrange(self.project_out(values), "b ... d -> b d ...")

    @torch.no_grad()
    def _count(self, codes: Tensor, mask: Tensor | None) -> Tensor:
        """(B, *S), (B, *S) -> how often each code was chosen in the global batch, (K,) float32."""
        weight = torch.ones_like(codes, dtype=torch.float32) if mask is None else mask.float()
        counts = torch.zeros(self.codebook_size, device=codes.device).index_add_(0, codes.flatten(), weight.flatten())
        return sum_over_processes(counts) if self.training else counts

    @torch.no_grad()
    def _update(self) -> None:
        """Records which codes were chosen in the forward passes of the step."""
        counts = torch.stack(self._counts).sum(0)
        self._counts.clear()
        self.updates += counts.sum() > 0  # otherwise all processes had only padding
        self.last_used.copy_(torch.where(counts > 0, self.updates, self.last_used))
