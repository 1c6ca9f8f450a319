"""Log-mel front-end: input features of an encoder, and targets of the auxiliary log-mel loss.

Shapes: B batch, T samples, N frames (N = T / hop), F mel bands.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from vqaudio.fingerprint import FingerprintFields
from vqaudio.nn.mel import MelConfig, MelFilterbank

FLOOR = 1e-10  # added to the power of a band, so that silence is -100 dB; a full-scale sine has at most 0.25
MEAN_DB, STD_DB = -65.0, 20.0  # dB; approximate mean and standard deviation over speech


@dataclass(frozen=True)
class LogMelConfig(MelConfig):
    """Options of LogMel. With n_mels 0 it is not used, and the other options have no effect."""

    FINGERPRINT: ClassVar = FingerprintFields(
        always={
            "n_mels": "bands",
            "hop_length": "hop",
            "win_length": "window",
            "f_min": "lowest",
            "f_max": "highest",
        },
        unless_default=("kind",),
        never=("warp", "equalizer_db"),
    )

    kind: Literal["log_mel"] = "log_mel"
    """log_mel: log power in mel bands. Other kinds have other options: `--model.encoder.frontend.kind pcen --help`"""


class LogMel(MelFilterbank):
    """Waveform -> standardised log power in mel bands; no trainable parameters."""

    def forward(
        self, wav: Tensor, state: tuple[Tensor, ...] | None = None, started: Tensor | None = None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """(B, T, 1) in [-1, 1], T a multiple of the hop -> (B, N, F) of about -2 to 2, next state; `started`: unused.

        The state is the past of the window, (B, past_length, 1); None stands for zeros.
        """
        with torch.autocast(wav.device.type, enabled=False):
            mel, past = self.power(wav, state[0] if state else None)
            decibels = 10 * torch.log10(mel + FLOOR)
            return (decibels - MEAN_DB) / STD_DB, (past,)

    def start(self, batch_size: int) -> tuple[Tensor, ...]:
        """The state before the first sample of `batch_size` streams."""
        return (self.window.new_zeros(batch_size, self.past_length, 1),)

    def centred(self, wav: Tensor, num_frames: int) -> Tensor:
        """(B, T) -> (B, N, F): windows centred on the frames, zeros after the end; without gradient."""
        with torch.no_grad():
            return self(self.centre(wav, num_frames)[..., None])[0]
