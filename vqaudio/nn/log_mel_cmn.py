"""A front-end without level and channel: log-mel relative to a running peak, minus a running mean.

Shapes: B batch, T samples, N frames (N = T / hop), F mel bands.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from vqaudio.fingerprint import FingerprintFields
from vqaudio.nn.mel import FACTS, LeakySum, MelConfig, StandardisedMel, leaky_peak
from vqaudio.nn.modes import evaluating
from vqaudio.nn.moments import Moments

SILENCE = 1e-16  # added to powers, so that digital silence is -160 dB
LOWEST_PEAK = -120.0  # dB, mean power of the bands; 16-bit audio has a floor of about -125. Below it nothing is speech


@dataclass(frozen=True)
class LogMelCMNConfig(MelConfig):
    """Options of LogMelCMN."""

    FINGERPRINT: ClassVar = FingerprintFields(
        always={
            name: name
            for name in (*FACTS, "peak_fall", "dynamic_range", "speech_range", "time_constant", "prior_seconds")
        },
        never=("warp", "equalizer_db"),
    )

    n_mels: int = 80
    """F, number of mel bands"""
    kind: Literal["log_mel_cmn"] = "log_mel_cmn"
    """log_mel_cmn: log-mel below a running peak of the level, with causal mean normalisation (CMN) of each band"""
    peak_fall: float = 3.0
    """how fast the running peak of the level falls, in dB per second"""
    dynamic_range: float = 60.0
    """power this far below the running peak is a floor, in dB"""
    speech_range: float = 30.0
    """frames count towards the mean with weight 1 at the running peak, 0 this far below it, in dB"""
    time_constant: float = 3.0
    """memory of the running mean, in seconds of speech"""
    prior_seconds: float = 1.0
    """weight of the training speech's mean at the start of an utterance, in seconds of speech"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_mels < 1:
            raise ValueError(f"n_mels must be at least 1, got {self.n_mels}")
        for name in ("peak_fall", "dynamic_range", "speech_range", "time_constant", "prior_seconds"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be a finite number above 0, got {getattr(self, name)}")


class LogMelCMN(StandardisedMel):
    """Waveform -> log power in mel bands below a running peak, minus its running mean, standardised. Not trained.

    A gain of the waveform changes nothing (beyond rounding, and levels near the floor of 16-bit audio), and a constant
    filter only until the mean has followed it. It is causal: the peak of the level falls linearly in dB, the mean of a
    band is over past speech only (online cepstral mean normalisation, without the cosine transform), and starts from
    the mean of the training speech.
    """

    prior: Tensor  # (F,) dB below the peak: mean over training speech, the running mean before any speech

    def __init__(self, cfg: LogMelCMNConfig, sample_rate: int = 16000):
        """Raises ValueError as MelFilterbank does."""
        super().__init__(cfg, sample_rate, mean=0.0, std=10.0)  # dB
        self.options = cfg
        rate = sample_rate / cfg.hop_length  # frames per second
        self.fall = cfg.peak_fall / rate
        self.prior_frames = cfg.prior_seconds * rate
        self.sum = LeakySum(math.exp(-1 / (cfg.time_constant * rate)))
        self.register_buffer("prior", torch.full((cfg.n_mels,), -25.0))

    def start(self, batch_size: int) -> tuple[Tensor, ...]:
        """The state before the first sample of `batch_size` streams: past samples, peak, weight and sums of speech."""
        past = self.window.new_zeros(batch_size, self.past_length, 1)
        peak = self.window.new_full((batch_size,), LOWEST_PEAK)
        return past, peak, self.window.new_zeros(batch_size, 1 + self.cfg.n_mels)

    @torch.no_grad()
    def initialise(self, utterances: Callable[[], Iterable[Tensor]]) -> None:
        """Computes the constants from whole utterances (T,) in [-1, 1], which are read twice."""
        with evaluating(self):  # no warping, no equalizer
            prior = Moments()
            for wav in utterances():
                power, _ = self.power(self.whole_frames(wav))
                level = 10 * torch.log10(power.mean(2) + SILENCE)  # (1, N)
                peak = level.amax(1)[:, None]
                prior.add(self._below(power, peak)[level > peak - self.options.speech_range])
            self.prior.copy_(prior.mean)
            self._standardise(utterances(), least_std=0.1)

    def _normalised(
        self, wav: Tensor, state: tuple[Tensor, ...] | None, started: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """(B, T, 1) -> (B, N, F) in dB, next state."""
        past, peak, total = state if state is not None else self.start(len(wav))
        power, past = self.power(wav, past)
        level = 10 * torch.log10(power.mean(2) + SILENCE)  # (B, N)
        if started is not None:
            level = torch.where(started, level, 10 * math.log10(SILENCE))
        peaks = leaky_peak(level.clamp(min=LOWEST_PEAK), peak, self.fall)  # (B, N)
        below = self._below(power, peaks)  # (B, N, F)
        weight = ((level - peaks) / self.options.speech_range + 1).clamp(0, 1)[..., None]  # of speech
        totals = self.sum(torch.cat([weight, weight * below], dim=2), total)  # (B, N, 1 + F)
        mean = (totals[..., 1:] + self.prior_frames * self.prior) / (totals[..., :1] + self.prior_frames)
        return below - mean, (past, peaks[:, -1], totals[:, -1])

    def _below(self, power: Tensor, peak: Tensor) -> Tensor:
        """Powers (B, N, F), peaks in dB (B, N) -> dB below the peak, at least -dynamic_range."""
        relative = (power + SILENCE) * 10 ** (-peak / 10)[..., None]
        return 10 * torch.log10(relative + 10 ** (-self.options.dynamic_range / 10))
