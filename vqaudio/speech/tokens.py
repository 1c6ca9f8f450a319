"""The tokens of one utterance."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from vqaudio.nn.pitch_quantizer import PitchQuantizer
from vqaudio.nn.quantizer_protocol import check_codes

MAX_COUNT = 2**53  # of samples; more is a mistake


@dataclass(frozen=True)
class PitchTokens:
    """Voicing and F0 of one utterance as codes, with everything that is needed to decode them."""

    codes: Tensor
    """(M,) int64, one code for every `hop` samples; M = ceil(num_samples / hop)"""
    hop: int
    """samples per code"""
    model: str
    """fingerprint of the pitch quantizer that computed the codes"""

    def __post_init__(self) -> None:
        if self.codes.ndim != 1 or self.codes.dtype != torch.int64:
            raise ValueError(f"pitch must be (M,) int64, got {tuple(self.codes.shape)} {self.codes.dtype}")
        if not 1 <= self.hop <= MAX_COUNT:
            raise ValueError(f"pitch_hop must lie in 1..{MAX_COUNT}, got {self.hop}")


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
    pitch: PitchTokens | None = None
    """pitch tokens of the same audio; None: the codes predict the pitch"""

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
        if self.pitch is not None and len(self.pitch.codes) != (expected := -(-self.num_samples // self.pitch.hop)):
            raise ValueError(
                f"{self.num_samples} samples at {self.pitch.hop} samples per pitch token require {expected} pitch "
                f"tokens, got {len(self.pitch.codes)}"
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


def check_pitch_tokens(batch: Iterable[Tokens], quantizer: PitchQuantizer | None) -> None:
    """Raises ValueError for pitch tokens of another pitch quantizer than the model's (None: it has none)."""
    for pitch in (tokens.pitch for tokens in batch if tokens.pitch is not None):
        if quantizer is None or pitch.model != quantizer.fingerprint or pitch.hop != quantizer.hop:
            own = "has none" if quantizer is None else f"has {quantizer.fingerprint}, of {quantizer.hop} samples"
            raise ValueError(
                f"these pitch tokens were made by the pitch quantizer {pitch.model}, of {pitch.hop} samples, and this "
                f"model {own}; decode them with the model that made them, or the codes alone (--pitch codes, in Python "
                "dataclasses.replace(tokens, pitch=None))"
            )
        check_codes(pitch.codes, quantizer.cfg.codebook_size, "pitch")


def checked_codes(codes: int | Tensor, codebook_size: int) -> Tensor:
    """A code, or several (N,), as a caller gives them -> (N,) int64.

    Raises ValueError for numbers that are not whole, and for codes outside 0..K-1.
    """
    codes = torch.as_tensor(codes).reshape(-1)
    if codes.is_floating_point():
        raise ValueError(f"codes must be whole numbers, got {codes.dtype}")
    check_codes(codes, codebook_size)
    return codes.long()
