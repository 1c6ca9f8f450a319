"""What every quantizer offers: the only part of it that models and metrics use.

Letters: B batch, D code width, K number of codes, *S any spatial axes, M valid vectors of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from einops import rearrange
from torch import Tensor


class Quantized(NamedTuple):
    """What a quantizer returns."""

    z_q: Tensor  # (B, D, *S) float32: the vectors of the codes, with a gradient to the quantizer's input
    codes: Tensor  # (B, *S) int64
    loss: Tensor  # (): what the quantizer adds to the loss: commitment and codebook loss, 0 where there are none
    perplexity: Tensor  # (): exp of the entropy of the joint batch's codes, 1 to K


@runtime_checkable
class Quantizer(Protocol):
    """A module between encoder and decoder: vectors to codes and back.

    A quantizer counts a training step after `forwards_per_step` forward passes in training mode, and all processes
    call it alike: its state is that of one process on the joint batch.
    """

    forwards_per_step: int

    def __call__(self, z: Tensor, mask: Tensor | None = None) -> Quantized:
        """(B, D, *S) float, mask (B, *S) bool (False: padding, which counts nowhere) -> Quantized, in float32.

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
        """D, of the vectors that come in and go out."""
        ...

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        ...

    def metrics(self, q: Quantized) -> dict[str, Tensor]:
        """What a run logs of a forward pass, each ()."""
        ...

    def code_weights(self) -> dict[str, Tensor]:
        """The weights that decide which code a vector gets, by name: what enters the model's fingerprint.

        What of the configuration enters it stands in the FINGERPRINT of the configuration.
        """
        ...

    @property
    def initialised(self) -> bool:
        """Whether it is ready: its codes have been initialised from data, or need not be."""
        ...

    def initialise(self, passes: Sequence[Tensor]) -> None:
        """Initialises the codes from this process's vectors of each forward pass, (M, D) with any M."""
        ...

    def valid_rows(self, z: Tensor, mask: Tensor | None = None) -> Tensor:
        """The inputs of a forward pass -> the vectors that are not padding, (M, D) float32."""
        ...


def valid_rows(z: Tensor, mask: Tensor | None = None) -> Tensor:
    """(B, D, *S), mask (B, *S) bool or None -> the vectors that are not padding, (M, D) float32, without gradient."""
    rows = rearrange(z.detach().float(), "b d ... -> (b ...) d")
    return rows if mask is None else rows[mask.reshape(-1)]


def check_width(z: Tensor, dim: int) -> None:
    """Raises ValueError for vectors that are not (B, dim, *S)."""
    if z.ndim < 2 or z.shape[1] != dim:
        raise ValueError(f"the quantizer takes (B, {dim}, *S), got {tuple(z.shape)}")


def perplexity(counts: Tensor) -> Tensor:
    """Counts (K,) -> (): exp of the entropy of their fractions, 1 to K; 1 if nothing was counted."""
    fractions = counts / counts.sum().clamp(min=1)
    return torch.exp(-torch.xlogy(fractions, fractions).sum())


def recent_usage(last_used: Tensor, updates: Tensor, window: int) -> Tensor:
    """() fraction of the codes that were chosen within the last `window` updates, 0 to 1.

    last_used: (K,) the update at which each code was last chosen, below 0: never. updates: () updates so far.
    """
    return ((updates - last_used < window) & (last_used >= 0)).float().mean()
