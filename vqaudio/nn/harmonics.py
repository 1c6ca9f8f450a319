"""Makes the harmonics in log-mel spectra those of another pitch.

Low mel bands resolve the harmonics of voiced speech, so its spectrum contains F0, and a vocoder that is trained on
both spectrum and F0 takes F0 from the spectrum. A spectrum that is predicted from codes and another speaker has blurred
harmonics, not those of the given F0, and the vocoder then does not follow the given one.

The fine structure of a spectrum is what smoothing over frequency takes away. In speech, that of a voiced frame is about
`depth` times the fine structure of equal harmonics at its F0, with another depth in each band. So in voiced frames a
spectrum S becomes S - correlation * fine(S) + depth * fine(equal harmonics), where `correlation` is that of the two in
speech.

Shapes: B batch, N frames, F mel bands, P values of F0, K FFT bins.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vqaudio.nn.acoustic import AcousticFrames
from vqaudio.nn.log_mel import STD_DB, LogMel, LogMelConfig
from vqaudio.nn.pitch import Pitch, PitchConfig

SMOOTHING = 300.0  # Hz either side of a band that its smoothed value depends on
STEPS = 48  # values of F0 per octave; linear in between
NEIGHBOURS = 2  # harmonics at either side of the nearest one that a bin has power of
NOISE = 0.01  # between the harmonics, relative to their mean power: as deep as valleys are in speech
STEADY = 0.04  # octaves that F0 may differ by from the frame before to the frame after one that is measured
MIN_FRAMES = 100  # steady frames from which depth and correlation are measured


class Harmonics(nn.Module):
    """Acoustic frames -> the same with the harmonics of their pitch; no trainable parameters.

    F0 outside `pitch.f_min` to 2 * `pitch.f_max` is clamped.
    """

    depth: Tensor  # (F,) of the fine structure in speech, relative to that of equal harmonics; 0: not measured
    correlation: Tensor  # (F,) in [0, 1], of the two
    smoothing: Tensor  # (F, F)
    combs: Tensor  # (P, F) fine structure of equal harmonics, standardised as by `LogMel`

    def __init__(self, spectrum: LogMelConfig, pitch: PitchConfig, sample_rate: int):
        super().__init__()
        log_mel = LogMel(spectrum, sample_rate)
        self.lowest, self.octaves = math.log2(pitch.f_min), math.log2(pitch.f_max / pitch.f_min) + 1
        count = math.ceil(STEPS * self.octaves) + 1
        with torch.device("cpu"):  # not saved, because they follow from the configuration
            smoothing = _smoothing(log_mel, sample_rate)
            hertz = 2 ** (self.lowest + torch.arange(count) / STEPS)
            decibels = 10 * torch.log10(_powers(log_mel, hertz, sample_rate))
            combs = decibels - decibels @ smoothing.T
            self.register_buffer("smoothing", smoothing, persistent=False)
            self.register_buffer("combs", combs / STD_DB, persistent=False)
        self.register_buffer("depth", torch.zeros(spectrum.n_mels))
        self.register_buffer("correlation", torch.zeros(spectrum.n_mels))

    @property
    def measured(self) -> bool:
        """Whether depth and correlation are measured; else the frames stay as they are."""
        return bool(self.correlation.any())

    def forward(self, frames: AcousticFrames) -> AcousticFrames:
        """Frames (B, N) -> the same, in voiced ones another spectrum; float32."""
        with torch.autocast(frames.spectrum.device.type, enabled=False):
            spectrum = frames.spectrum.float()
            moved = self.depth * self._comb(frames.pitch) - self.correlation * self._fine(spectrum)
            return frames._replace(spectrum=spectrum + (frames.pitch.voicing > 0)[..., None] * moved)

    @torch.no_grad()
    def measure(self, speech: Iterable[AcousticFrames]) -> None:
        """Sets depth and correlation from the frames of speech, (B, N) each; unchanged with too few voiced frames.

        Only frames whose F0 is steady count: where it moves, harmonics are blurred, and F0 is less certain.
        """
        sums, count = self.combs.new_zeros(3, len(self.depth), dtype=torch.float64), 0
        for frames in speech:
            steady = _steady(frames.pitch)
            fine, comb = (x[steady].double() for x in (self._fine(frames.spectrum), self._comb(frames.pitch)))
            sums += torch.stack([(comb * fine).sum(0), comb.square().sum(0), fine.square().sum(0)])
            count += len(fine)
        if count < MIN_FRAMES:
            return
        together = sums[0].clamp(min=0)
        self.depth.copy_(together / sums[1].clamp(min=1e-9))
        self.correlation.copy_(together / (sums[1] * sums[2]).sqrt().clamp(min=1e-9))

    def _fine(self, spectrum: Tensor) -> Tensor:
        """(B, N, F) -> what smoothing takes away, (B, N, F)."""
        return spectrum - spectrum @ self.smoothing.T

    def _comb(self, pitch: Pitch) -> Tensor:
        """(B, N) -> the fine structure of equal harmonics (B, N, F)."""
        place = STEPS * (pitch.octaves.float() - self.lowest).clamp(0, self.octaves)
        below = place.floor().clamp(max=len(self.combs) - 2).long()
        return torch.lerp(self.combs[below], self.combs[below + 1], (place - below)[..., None])


def _steady(pitch: Pitch) -> Tensor:
    """(B, N) -> (B, N) bool: voiced frames between voiced ones with about the same F0."""
    voicing, octaves = (F.pad(value, (1, 1)) for value in pitch)
    voiced = voicing[:, :-2] * voicing[:, 1:-1] * voicing[:, 2:] > 0
    return voiced & ((octaves[:, 2:] - octaves[:, :-2]).abs() < STEADY)


def _smoothing(log_mel: LogMel, sample_rate: int) -> Tensor:
    """The matrix (F, F) that averages bands by a Hann window of SMOOTHING Hz either side."""
    bank = log_mel.banks[0]  # (K, F)
    centres = _bins(log_mel, sample_rate) @ bank / bank.sum(0)
    distances = (centres[:, None] - centres) / SMOOTHING
    weights = torch.cos(distances.clamp(-1, 1) * math.pi / 2).square()
    return weights / weights.sum(1, keepdim=True)


def _powers(log_mel: LogMel, hertz: Tensor, sample_rate: int) -> Tensor:
    """F0 (P,) -> power in each band of equal harmonics of it and some noise, as windows show it on average, (P, F)."""
    bins = _bins(log_mel, sample_rate)
    nearest = (bins / hertz[:, None]).round()[..., None]  # (P, K, 1)
    harmonics = nearest + torch.arange(-NEIGHBOURS, NEIGHBOURS + 1)
    # phases of different harmonics are independent, so their powers add
    offsets = (harmonics * hertz[:, None, None] - bins[:, None]) * log_mel.cfg.win_length / sample_rate
    hann = 0.5 * torch.sinc(offsets) + 0.25 * (torch.sinc(offsets - 1) + torch.sinc(offsets + 1))
    power = (hann.square() * (harmonics >= 1)).sum(2)  # (P, K)
    banks = log_mel.banks[0]
    return (power / power.mean(1, keepdim=True) + NOISE) @ banks


def _bins(log_mel: LogMel, sample_rate: int) -> Tensor:
    """Frequencies of the FFT bins (K,), in Hz."""
    return torch.arange(log_mel.size // 2 + 1) * (sample_rate / log_mel.size)
