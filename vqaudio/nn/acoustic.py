"""Acoustic frames: what vocoders read, from a waveform or as a model predicts it.

Shapes: B batch, N frames, F mel bands.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from vqaudio.nn.pitch import MEAN_OCTAVES, Pitch

NUM_PITCH_FEATURES = 2


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

    def followed_by(self, later: AcousticFrames) -> AcousticFrames:
        """These frames and then the others, (B, N + M)."""
        pitch = Pitch(*(torch.cat(pair, dim=1) for pair in zip(self.pitch, later.pitch, strict=True)))
        return AcousticFrames(torch.cat([self.spectrum, later.spectrum], dim=1), pitch)

    def repeated(self, count: int) -> AcousticFrames:
        """With the last frame `count` times more."""
        last = self.spectrum[:, -1:].expand(-1, count, -1)
        return AcousticFrames(torch.cat([self.spectrum, last], dim=1), self.pitch.repeated(count))
