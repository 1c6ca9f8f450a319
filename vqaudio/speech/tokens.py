"""What a model makes of an utterance."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tokens:
    """The codes of one utterance, with all that is needed to speak them again."""

    codes: Tensor
    """(N,) int64, N = ceil(num_samples / hop)"""
    num_samples: int
    """length of the audio, in samples at sample_rate"""
    sample_rate: int
    """of the audio that the codes stand for, in Hz"""
    hop: int
    """samples per code"""
    model: str
    """fingerprint of the model whose codes these are"""

    def __post_init__(self) -> None:
        if self.codes.ndim != 1 or self.codes.dtype != torch.int64:
            raise ValueError(f"codes must be (N,) int64, got {tuple(self.codes.shape)} {self.codes.dtype}")
        if min(self.num_samples, self.sample_rate, self.hop) < 1:
            raise ValueError(
                "num_samples, sample_rate and hop must all be at least 1, "
                f"got {self.num_samples}, {self.sample_rate} and {self.hop}"
            )
        expected = -(-self.num_samples // self.hop)
        if len(self.codes) != expected:
            raise ValueError(
                f"{self.num_samples} samples at {self.hop} samples per code make {expected} codes, "
                f"got {len(self.codes)}"
            )

    @property
    def seconds(self) -> float:
        """Duration of the audio."""
        return self.num_samples / self.sample_rate
