"""The interface of all quantizers, which models, metrics and training use.

Letters: B batch, D code width, K number of codes, *S any spatial axes, M valid vectors of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy.typing as npt
import torch
from einops import rearrange
from torch import Tensor

MAX_CODES = 2**24  # K; more is a mistake


class Quantized(NamedTuple):
    """The output of a quantizer."""

    z_q: Tensor  # (B, D, *S) float32: the vectors of the codes, with a gradient to the quantizer's input
    codes: Tensor  # (B, *S) int64
    loss: Tensor  # (): commitment loss plus codebook loss, 0 for a quantizer without them
    perplexity: Tensor  # (): exp of the entropy of the joint batch's codes, 1 to K


@runtime_checkable
class Quantizer(Protocol):
    """A module between encoder and decoder, which maps vectors to codes and back.

    In training mode, a quantizer updates its state once per `forwards_per_step` forward passes. All processes must call
    it at the same points; its state then equals that of one process with the global batch.
    """

    forwards_per_step: int

    def __call__(self, z: Tensor, mask: Tensor | None = None) -> Quantized:
        """(B, D, *S) float, mask (B, *S) bool (False: padding, which is ignored) -> Quantized, in float32.

        Raises ValueError for vectors of another width.
        """
        ...

    def encode(self, z: Tensor) -> Tensor:
        """(B, D, *S) float -> codes (B, *S) int64. Raises ValueError for vectors of another width."""
        ...

    def decode(self, codes: Tensor) -> Tensor:
        """(B, *S) int64 in [0, K) -> (B, D, *S)."""
        ...

    @property
    def codebook_size(self) -> int:
        """K."""
        ...

    @property
    def dim(self) -> int:
        """D, dimension of the input and output vectors."""
        ...

    @property
    def device(self) -> torch.device:
        """The device of its tensors."""
        ...

    def metrics(self, q: Quantized) -> dict[str, Tensor]:
        """Training metrics of a forward pass, each ()."""
        ...

    def code_weights(self) -> dict[str, Tensor]:
        """The weights that determine the code of a vector, by name; they are part of the model's fingerprint.

        The attribute FINGERPRINT of the configuration lists the fields that are part of it.
        """
        ...

    @property
    def initialised(self) -> bool:
        """Whether the codes have been initialised from data, or need no initialisation."""
        ...

    def initialise(self, passes: Sequence[Tensor]) -> None:
        """Initialises the codes from this process's vectors of each forward pass, (M, D) with any M."""
        ...

    def valid_rows(self, z: Tensor, mask: Tensor | None = None) -> Tensor:
        """The inputs of a forward pass -> the vectors that are not padding, (M, D) float32."""
        ...


def usage_metrics(q: Quantized, usage: Tensor, codebook_size: int) -> dict[str, Tensor]:
    """The training metrics of every quantizer, each (); `usage` is the fraction of codes in use."""
    return {
        "quantizer_loss": q.loss.detach(),
        "perplexity": q.perplexity,
        "usage": usage,
        "dead_codes": (1 - usage) * codebook_size,
    }


def valid_rows(z: Tensor, mask: Tensor | None = None) -> Tensor:
    """(B, D, *S), mask (B, *S) bool or None -> the vectors that are not padding, (M, D) float32, without gradient."""
    rows = rearrange(z.detach().float(), "b d ... -> (b ...) d")
    return rows if mask is None else rows[mask.reshape(-1)]


def check_width(z: Tensor, dim: int) -> None:
    """Raises ValueError for vectors that are not (B, dim, *S)."""
    if z.ndim < 2 or z.shape[1] != dim:
        raise ValueError(f"the quantizer takes (B, {dim}, *S), got {tuple(z.shape)}")


def check_codes(codes: Tensor | npt.NDArray[Any], codebook_size: int, name: str = "codes") -> None:
    """Raises ValueError for codes outside 0..K-1, of any shape; the message calls them `name`."""
    if not math.prod(codes.shape):
        return
    low, high = codes.min().item(), codes.max().item()
    if not 0 <= low <= high < codebook_size:
        raise ValueError(f"{name} must lie in 0..{codebook_size - 1}, got {low}..{high}")


def perplexity(counts: Tensor) -> Tensor:
    """Counts (K,) -> (): exp of the entropy of their fractions, 1 to K; 1 if nothing was counted."""
    fractions = counts / counts.sum().clamp(min=1)
    return torch.exp(-torch.xlogy(fractions, fractions).sum())


def recent_usage(last_used: Tensor, updates: Tensor, window: int) -> Tensor:
    """() fraction of the codes that were chosen within the last `window` updates, 0 to 1.

    last_used: (K,) the update at which each code was last chosen, below 0: never. updates: () updates so far.
    """
    return ((updates - last_used < window) & (last_used >= 0)).float().mean()
