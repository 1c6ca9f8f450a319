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
