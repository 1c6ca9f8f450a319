"""Acoustic frames (log-mel spectrum, voicing, F0), the conditioning of the vocoders.

They are measured from speech or predicted from codes.

Shapes: B batch, N frames, F mel bands, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from vqaudio.nn.context import ContextConfig
from vqaudio.nn.log_mel import LogMelConfig
from vqaudio.nn.pitch import MEAN_OCTAVES, Pitch
from vqaudio.nn.spectral_correction import check_correction

NUM_PITCH_FEATURES = 2


@dataclass(frozen=True)
class AcousticConfig(ContextConfig):
    """Options of what lies between acoustic frames and the WaveNet. Without dilations it is not conditioned on them."""

    upsampling: int = 1
    """conditioning vectors of the WaveNet per frame, a divisor of spectrum.hop_length: linearly interpolated between
    the outputs for two frames, where with 1 the conditioning changes in steps"""
    correction: bool = True
    """whether the waveform of the WaveNet is corrected to have the spectrum of the frames, and no power outside its
    bands; adds a latency of spectrum.win_length - spectrum.hop_length / 2 samples, and is computed in blocks of four
    frames"""
    harmonics: bool = False
    """whether the spectra that the WaveNet is conditioned on, and corrected to, get the harmonics of its conditioning
    pitch, so that it follows this pitch in conversions too. Their depth is measured at the start of training"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.upsampling < 1:
            raise ValueError(f"acoustic.upsampling must be at least 1, got {self.upsampling}")

    def check(self, spectrum: LogMelConfig) -> None:
        """Raises ValueError for frames of another hop or window than these options allow."""
        if spectrum.hop_length % self.upsampling:
            raise ValueError(
                f"acoustic.upsampling must divide spectrum.hop_length ({spectrum.hop_length} samples), got "
                f"{self.upsampling}"
            )
        if self.correction:
            check_correction(spectrum)


class AcousticFrames(NamedTuple):
    """Spectrum and pitch of frames."""

    spectrum: Tensor  # (B, N, F), standardised as by `LogMel`
    pitch: Pitch  # (B, N)

    def features(self) -> Tensor:
        """(B, F + NUM_PITCH_FEATURES, N): spectrum, voicing, and F0 in octaves of voiced frames."""
        voicing, octaves = self.pitch
        pitch = torch.stack([voicing, voicing * (octaves - MEAN_OCTAVES)], dim=2)
        return rearrange(torch.cat([self.spectrum, pitch], dim=2), "b n f -> b f n")

    def part(self, start: int, end: int | None) -> AcousticFrames:
        """Frames `start` to `end` (None: to the last one)."""
        return AcousticFrames(self.spectrum[:, start:end], Pitch(*(value[:, start:end] for value in self.pitch)))

    @classmethod
    def joined(cls, parts: Sequence[AcousticFrames]) -> AcousticFrames:
        """Consecutive frames, one part after the other."""
        pitch = Pitch(*(torch.cat(values, dim=1) for values in zip(*(part.pitch for part in parts), strict=True)))
        return cls(torch.cat([part.spectrum for part in parts], dim=1), pitch)

    def repeated(self, count: int) -> AcousticFrames:
        """With the last frame `count` times more."""
        last = self.spectrum[:, -1:].expand(-1, count, -1)
        return AcousticFrames(torch.cat([self.spectrum, last], dim=1), self.pitch.repeated(count))


def upsampled(vectors: Tensor, before: Tensor | None, factor: int) -> Tensor:
    """(B, C, N) of frames, (B, C, 1) of the frame before (None: as the first one) -> (B, C, N * factor).

    Linear interpolation. A frame's vector is reached at its end: half a frame late, and without look-ahead.
    """
    if factor == 1:
        return vectors
    times = (torch.arange(factor, device=vectors.device) + 0.5) / factor
    previous = torch.cat([vectors[:, :, :1] if before is None else before, vectors[:, :, :-1]], dim=2)[..., None]
    return (previous + times * (vectors[..., None] - previous)).flatten(2)
