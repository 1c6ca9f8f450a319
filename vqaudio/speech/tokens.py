"""The tokens of one utterance."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from vqaudio.nn.quantizer_protocol import check_codes

MAX_COUNT = 2**53  # of samples; more is a mistake


@dataclass(frozen=True)
class Tokens:
    """The codes of one utterance, with everything that is needed to decode them."""

    codes: Tensor
    """(N,) int64, one code per frame; N = ceil(num_samples / hop)"""
    num_samples: int
    """length of the audio, in samples at `sample_rate`"""
    sample_rate: int
    """sample rate of the model, in Hz"""
    hop: int
    """samples per code"""
    model: str
    """fingerprint of the model that computed the codes"""

    def __post_init__(self) -> None:
        if self.codes.ndim != 1 or self.codes.dtype != torch.int64:
            raise ValueError(f"codes must be (N,) int64, got {tuple(self.codes.shape)} {self.codes.dtype}")
        if min(self.num_samples, self.sample_rate, self.hop) < 1:
            raise ValueError(
                "num_samples, sample_rate and hop must all be at least 1, "
                f"got {self.num_samples}, {self.sample_rate} and {self.hop}"
            )
        if max(self.num_samples, self.sample_rate, self.hop) > MAX_COUNT:
            raise ValueError(f"num_samples, sample_rate and hop must all be at most {MAX_COUNT}")
        expected = -(-self.num_samples // self.hop)
        if len(self.codes) != expected:
            raise ValueError(
                f"{self.num_samples} samples at {self.hop} samples per code require {expected} codes, "
                f"got {len(self.codes)}"
            )

    @property
    def seconds(self) -> float:
        """Duration of the audio, in seconds."""
        return self.num_samples / self.sample_rate


def check_tokens(batch: Iterable[Tokens], fingerprint: str, sample_rate: int, hop: int, codebook_size: int) -> None:
    """Raises ValueError for tokens that a model with these properties cannot decode."""
    for tokens in batch:
        if tokens.model != fingerprint:
            raise ValueError(
                f"these tokens were made by model {tokens.model}, this is model {fingerprint}; "
                "decode them with the model that made them"
            )
        if (tokens.sample_rate, tokens.hop) != (sample_rate, hop):
            raise ValueError(
                f"sample_rate and hop must be those of the model, {sample_rate} and {hop}, "
                f"got {tokens.sample_rate} and {tokens.hop}"
            )
        checked_codes(tokens.codes, codebook_size)


def checked_codes(codes: int | Tensor, codebook_size: int) -> Tensor:
    """A code, or several (N,), as a caller gives them -> (N,) int64.

    Raises ValueError for numbers that are not whole, and for codes outside 0..K-1.
    """
    codes = torch.as_tensor(codes).reshape(-1)
    if codes.is_floating_point():
        raise ValueError(f"codes must be whole numbers, got {codes.dtype}")
    check_codes(codes, codebook_size)
    return codes.long()
