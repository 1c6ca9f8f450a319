"""Per-channel energy normalisation (PCEN): a front-end with automatic gain control in each mel band.

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
from vqaudio.nn.mel import FACTS, LeakySum, MelConfig, StandardisedMel
from vqaudio.nn.modes import evaluating


@dataclass(frozen=True)
class PCENConfig(MelConfig):
    """Options of PCEN, named as in librosa.pcen, with the defaults of the paper (but eps: powers are of [-1, 1])."""

    FINGERPRINT: ClassVar = FingerprintFields(
        always={name: name for name in (*FACTS, "gain", "bias", "power", "time_constant", "eps")},
        never=("warp", "equalizer_db"),
    )

    n_mels: int = 80
    """F, number of mel bands"""
    kind: Literal["pcen"] = "pcen"
    """pcen: per-channel energy normalisation (Wang et al., arXiv 1607.05666)"""
    gain: float = 0.98
    """alpha, strength of the gain control: 0 none, 1 all of it"""
    bias: float = 2.0
    """delta, added before the compression"""
    power: float = 0.5
    """r, exponent of the compression"""
    time_constant: float = 0.4
    """memory of the smoothed energy, in seconds"""
    eps: float = 1e-9
    """added to the smoothed energy, so that silence is not amplified; a full-scale sine has at most 0.25"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_mels < 1:
            raise ValueError(f"n_mels must be at least 1, got {self.n_mels}")
        if not 0 <= self.gain <= 1:
            raise ValueError(f"gain must lie in [0, 1], got {self.gain}")
        for name in ("bias", "power", "time_constant", "eps"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be a finite number above 0, got {getattr(self, name)}")


class PCEN(StandardisedMel):
    """Waveform -> (E / (eps + M)^gain + bias)^power - bias^power per band, standardised. No trainable parameters.

    E is the power in a band and M its causal exponential average over the past, unbiased at the start of an utterance
    (as if nothing came before it). A gain of the waveform by g dB changes E / M^gain by (1 - gain) g dB.
    """

    def __init__(self, cfg: PCENConfig, sample_rate: int = 16000):
        """Raises ValueError as MelFilterbank does."""
        super().__init__(cfg, sample_rate, mean=0.3, std=0.3)
        self.options = cfg
        frames = cfg.time_constant * sample_rate / cfg.hop_length
        # the coefficient of the paper's smoother that has this time constant, as in librosa
        self.smoothing = (math.sqrt(1 + 4 * frames**2) - 1) / (2 * frames**2)
        self.sum = LeakySum(1 - self.smoothing)

    def start(self, batch_size: int) -> tuple[Tensor, ...]:
        """The state before the first sample of `batch_size` streams: past samples, weight and sums of energies."""
        past = self.window.new_zeros(batch_size, self.past_length, 1)
        return past, self.window.new_zeros(batch_size, 1 + self.cfg.n_mels)

    @torch.no_grad()
    def initialise(self, utterances: Callable[[], Iterable[Tensor]]) -> None:
        """Computes mean and standard deviation of the output from whole utterances (T,) in [-1, 1]."""
        with evaluating(self):  # no warping, no equalizer
            self._standardise(utterances(), least_std=1e-3)

    def _normalised(
        self, wav: Tensor, state: tuple[Tensor, ...] | None, started: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """(B, T, 1) -> (B, N, F) before standardisation, next state."""
        past, total = state if state is not None else self.start(len(wav))
        energy, past = self.power(wav, past)
        weight = torch.ones_like(energy[..., :1]) if started is None else started[..., None].to(energy.dtype)
        totals = self.sum(self.smoothing * torch.cat([weight, weight * energy], dim=2), total)  # (B, N, 1 + F)
        smooth = totals[..., 1:] / totals[..., :1].clamp(min=1e-6)
        c = self.options
        ratio = energy / (c.eps + smooth) ** c.gain
        return (ratio + c.bias) ** c.power - c.bias**c.power, (past, totals[:, -1])
