"""Causal log-mel front-end: input features of an encoder, and targets of the auxiliary log-mel loss.

Shapes: B batch, T samples, N frames (N = T / hop), F mel bands.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vqaudio.fingerprint import FingerprintFields
from vqaudio.torchaudio_functional import torchaudio_functional

FLOOR = 1e-10  # added to the power of a band, so that silence is -100 dB; a full-scale sine has at most 0.25
MEAN_DB, STD_DB = -65.0, 20.0  # dB; approximate mean and standard deviation over speech
NUM_WARPS = 21  # filterbanks for vocal tract length perturbation, including the unmodified one


@dataclass(frozen=True)
class LogMelConfig:
    """Options of LogMel. With n_mels 0 it is not used, and the other options have no effect."""

    FINGERPRINT: ClassVar = FingerprintFields(
        always={
            "n_mels": "bands",
            "hop_length": "hop",
            "win_length": "window",
            "f_min": "lowest",
            "f_max": "highest",
        },
        never=("warp",),
    )

    n_mels: int = 0
    """F, number of mel bands; 0: not used"""
    hop_length: int = 160
    """samples per frame"""
    win_length: int = 400
    """length of the Hann window in samples; the window ends at the end of the frame"""
    f_min: float = 40.0
    """lower edge of the first band, in Hz"""
    f_max: float = 7600.0
    """upper edge of the last band, in Hz"""
    warp: float = 0.0
    """vocal tract length perturbation in training: frequencies are scaled by a random factor in [1 - warp, 1 + warp]"""

    def __post_init__(self) -> None:
        if self.n_mels < 0 or self.hop_length < 1:
            raise ValueError(
                f"n_mels must be 0 or more and hop_length at least 1, got {self.n_mels} and {self.hop_length}"
            )
        if self.win_length < self.hop_length:
            raise ValueError(
                f"win_length must be at least hop_length ({self.hop_length}), or samples would be skipped, got "
                f"{self.win_length}"
            )
        if not 0 <= self.f_min < self.f_max:
            raise ValueError(f"f_min must be 0 or more and below f_max, got {self.f_min} and {self.f_max} Hz")
        if not 0 <= self.warp < 0.5:
            raise ValueError(f"warp must lie in [0, 0.5), a fraction of the frequency, got {self.warp}")


class LogMel(nn.Module):
    """Waveform -> standardised log power in mel bands; no trainable parameters.

    In training, the frequency axis may be scaled by a random factor per crop (Jaitly and Hinton, "Vocal tract length
    perturbation (VTLP) improves speech recognition", 2013), which reduces speaker information in the codes.
    """

    window: Tensor  # (win_length,)
    banks: Tensor  # (1 or NUM_WARPS, FFT bins, F); the first one is unmodified

    def __init__(self, cfg: LogMelConfig, sample_rate: int = 16000):
        """Raises ValueError for frequencies above half the sample rate, and for empty mel bands."""
        super().__init__()
        if not cfg.n_mels:
            raise ValueError("a log-mel front-end needs bands: n_mels must be at least 1, got 0")
        if cfg.f_max * (1 + cfg.warp) > sample_rate / 2:
            raise ValueError(
                f"f_max * (1 + warp) must be at most {sample_rate / 2:g} Hz, half the sample rate, got "
                f"{cfg.f_max} Hz and {cfg.warp}"
            )
        self.cfg = cfg
        # FFT size, 2 to 4 times the window: zero-padding resolves narrow bands
        self.size = 2 ** (cfg.win_length.bit_length() + 1)
        # not saved, because they follow from the configuration
        with torch.device("cpu"):  # also when the rest of the model is created on the meta device
            self.register_buffer("window", torch.hann_window(cfg.win_length), persistent=False)
            half = NUM_WARPS // 2 if cfg.warp else 0
            factors = [1.0, *(1 + cfg.warp * step / half for step in range(-half, half + 1) if step)]
            banks = torch.stack([self._bank(sample_rate, factor) for factor in factors])
        if not banks.sum(1).all():
            raise ValueError(
                f"{cfg.n_mels} mel bands are too many for a window of {cfg.win_length} samples: some are empty; use "
                "fewer n_mels or a larger win_length"
            )
        self.register_buffer("banks", banks, persistent=False)

    @property
    def past_length(self) -> int:
        """Number of past samples that the first frame depends on."""
        return self.cfg.win_length - self.cfg.hop_length

    def forward(self, wav: Tensor, past: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, T, 1) in [-1, 1], T a multiple of the hop, (B, past_length, 1) -> (B, N, F) of about -2 to 2, next past.

        None as the past stands for zeros.
        """
        with torch.autocast(wav.device.type, enabled=False):
            if past is None:
                past = wav.new_zeros(wav.shape[0], self.past_length, 1)
            wav = torch.cat([past, wav], dim=1).float()
            frames = wav[..., 0].unfold(1, self.cfg.win_length, self.cfg.hop_length) * self.window  # (B, N, window)
            power = torch.fft.rfft(frames, self.size).abs().square()  # (B, N, FFT bins)
            mel = power @ (self._random_banks(len(wav)) if self.training and len(self.banks) > 1 else self.banks[0])
            decibels = 10 * torch.log10(mel + FLOOR)
            return (decibels - MEAN_DB) / STD_DB, wav[:, wav.shape[1] - self.past_length :]

    def centred(self, wav: Tensor, num_frames: int) -> Tensor:
        """(B, T) -> (B, N, F): windows centred on the frames, zeros after the end; without gradient."""
        ahead = self.past_length // 2
        wav = F.pad(wav[:, ahead:], (0, max(0, num_frames * self.cfg.hop_length + ahead - wav.shape[1])))
        with torch.no_grad():
            return self(wav[:, : num_frames * self.cfg.hop_length, None])[0]

    def _random_banks(self, rows: int) -> Tensor:
        """(rows, FFT bins, F): a random filterbank for each row."""
        return self.banks[torch.randint(len(self.banks), (rows,), device=self.banks.device)]

    def _bank(self, sample_rate: int, factor: float) -> Tensor:
        """(FFT bins, F): triangular filters, frequencies scaled by `factor`, normalised by filter sum and window."""
        functional = torchaudio_functional()
        triangles = functional.melscale_fbanks if functional else _melscale_fbanks
        bins = self.size // 2 + 1
        # a lower nominal sample rate assigns lower frequencies to the bins, so that bands move to higher ones
        nominal_rate = 2 * round(sample_rate / factor / 2)
        bank = triangles(bins, self.cfg.f_min, self.cfg.f_max, self.cfg.n_mels, nominal_rate)
        return bank / bank.sum(0).clamp(min=1e-6) / self.window.sum().square()


def _melscale_fbanks(num_bins: int, f_min: float, f_max: float, n_mels: int, sample_rate: int) -> Tensor:
    """(num_bins, n_mels) triangular filters, in Hz and mel (HTK), bit-identical to torchaudio's melscale_fbanks."""
    lowest, highest = (2595.0 * math.log10(1.0 + frequency / 700.0) for frequency in (f_min, f_max))
    corners = 700.0 * (10.0 ** (torch.linspace(lowest, highest, n_mels + 2) / 2595.0) - 1.0)  # in Hz
    widths = corners.diff()
    distances = corners[None] - torch.linspace(0, sample_rate // 2, num_bins)[:, None]  # (num_bins, n_mels + 2)
    rising, falling = -distances[:, :-2] / widths[:-1], distances[:, 2:] / widths[1:]
    return torch.minimum(rising, falling).clamp(min=0)
