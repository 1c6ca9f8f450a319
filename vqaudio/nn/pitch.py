"""Fundamental frequency (F0) and voicing of frames, from a waveform and as a network predicts them.

Shapes: B batch, T samples, N frames (one per hop), C channels, R frames per code, S speakers, L lags.

The analysis of a frame depends on a fixed window of samples around it and on nothing else, so it does not change with
what lies outside, and needs no search over time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vqaudio.nn.linear import Linear

OCTAVE_COST = 0.1  # per octave: of two peaks of the same height, the one of the shorter period wins
STRENGTH = 0.62  # least autocorrelation of a voiced frame
SILENCE = 1e-7  # power below which a frame is unvoiced: -70 dB of full scale
MEAN_OCTAVES = 7.3  # log2 of 158 Hz, about the middle of the pitch of women and men
SPREAD = (0.5, 2.0)  # least and greatest factor by which `transformed` changes the spread of an utterance
MIN_SPREAD = 1e-3  # octaves
MIN_VOICED = 10  # voiced frames from which a spread is measured
BLOCK_FRAMES = 1024  # frames that are analysed at once


@dataclass(frozen=True)
class PitchConfig:
    """Options of PitchTracker."""

    win_length: int = 0
    """analysis window, in samples; at least two periods of f_min. 0: no pitch"""
    f_min: float = 60.0
    """lowest F0, in Hz"""
    f_max: float = 420.0
    """highest F0, in Hz"""

    def __post_init__(self) -> None:
        if self.win_length < 0 or not 0 < self.f_min < self.f_max < math.inf:
            raise ValueError(f"win_length must be 0 or more, f_min above 0 and below a finite f_max, got {self}")

    def check(self, hop: int, sample_rate: int) -> None:
        """Raises ValueError for a window below two periods of f_min, and for f_max above a quarter of the rate."""
        least = max(2 * sample_rate / self.f_min, hop)
        if self.win_length < least:
            raise ValueError(
                f"pitch.win_length must be at least two periods of f_min and a hop, {2 * sample_rate / self.f_min:.0f} "
                f"and {hop} samples, got {self.win_length}"
            )
        if self.f_max > sample_rate / 4:
            raise ValueError(f"pitch.f_max must be at most a quarter of the sample rate, got {self.f_max} Hz")


class Pitch(NamedTuple):
    """Pitch of frames."""

    voicing: Tensor  # (B, N) float32: 1 voiced, 0 unvoiced
    # (B, N) float32: log2 of F0 in Hz; in unvoiced frames the last voiced value (tracked), or arbitrary (predicted)
    octaves: Tensor

    @classmethod
    def unvoiced(cls, num_frames: int) -> Pitch:
        """(1, N), all unvoiced."""
        return cls(torch.zeros(1, num_frames), torch.full((1, num_frames), MEAN_OCTAVES))

    def repeated(self, count: int) -> Pitch:
        """With the last frame `count` times more."""
        return Pitch(*(F.pad(value, (0, count), mode="replicate") for value in self))

    def frames(self, num_frames: int) -> Pitch:
        """The first `num_frames` frames; missing ones are unvoiced."""
        missing = max(0, num_frames - self.voicing.shape[1])
        octaves = F.pad(self.octaves[:, :num_frames], (0, missing), value=MEAN_OCTAVES)
        return Pitch(F.pad(self.voicing[:, :num_frames], (0, missing)), octaves)


class PitchTracker:
    """Waveform -> pitch of its frames: the highest peak of the autocorrelation of a window around each of them.

    Boersma, "Accurate short-term analysis of the fundamental frequency and the harmonics-to-noise ratio of a sampled
    sound" (1993), without its search for the best path.
    """

    def __init__(self, cfg: PitchConfig, hop: int, sample_rate: int):
        """Raises ValueError as `PitchConfig.check` does."""
        cfg.check(hop, sample_rate)
        self.cfg, self.hop, self.sample_rate = cfg, hop, sample_rate
        self.shortest, self.longest = math.ceil(sample_rate / cfg.f_max), math.floor(sample_rate / cfg.f_min)
        self.size = 2 ** math.ceil(math.log2(cfg.win_length + self.longest + 1))  # FFT
        with torch.device("cpu"):  # also where a model is made without values, to be filled later
            self.window = torch.hann_window(cfg.win_length)
            own = self._autocorrelation(self.window[None])[0]
        self.scale = own / own[0]  # of the window: the autocorrelation falls with the lag

    @property
    def past(self) -> int:
        """Samples before a frame that its window begins with."""
        return (self.cfg.win_length - self.hop) // 2

    @torch.no_grad()
    def __call__(self, wav: Tensor, num_frames: int) -> Pitch:
        """(B, T) in [-1, 1] -> (B, N); frame n is that of the samples n * hop to (n + 1) * hop, zeros after the end."""
        return self.after_past(F.pad(wav, (self.past, 0)), num_frames)

    @torch.no_grad()
    def after_past(self, wav: Tensor, num_frames: int) -> Pitch:
        """As a call, for samples (B, T) that begin `past` samples before the first frame."""
        with torch.autocast(wav.device.type, enabled=False):
            missing = max(0, num_frames * self.hop + self.cfg.win_length - wav.shape[1])
            windows = F.pad(wav.float(), (0, missing)).unfold(1, self.cfg.win_length, self.hop)[:, :num_frames]
            parts = [self._analysed(part) for part in windows.split(BLOCK_FRAMES, dim=1)]
        voicing = torch.cat([voicing for voicing, _ in parts], dim=1)
        return Pitch(voicing, forward_filled(voicing, torch.cat([octaves for _, octaves in parts], dim=1)))

    def _analysed(self, windows: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N, window) -> voicing and octaves (B, N)."""
        windows = windows - windows.mean(2, keepdim=True)
        found = self._autocorrelation(windows * self.window.to(windows.device, non_blocking=True))  # (B, N, L)
        found = found / (found[..., :1] + 1e-9) / self.scale.to(windows.device, non_blocking=True)
        inner = found[..., self.shortest : self.longest + 1]
        before, after = found[..., self.shortest - 1 : self.longest], found[..., self.shortest + 1 : self.longest + 2]
        cost = OCTAVE_COST * torch.log2(torch.arange(inner.shape[-1], device=windows.device) / self.shortest + 1)
        peaks = (inner >= before) & (inner >= after)
        best = torch.where(peaks, inner - cost, -1.0).argmax(2, keepdim=True)
        y0, y1, y2 = (part.gather(2, best)[..., 0] for part in (before, inner, after))
        shift = 0.5 * (y0 - y2) / (y0 - 2 * y1 + y2).clamp(max=-1e-6)  # vertex of the parabola through the peak
        lags = self.shortest + best[..., 0] + shift.clamp(-0.5, 0.5)
        voiced = (y1 > STRENGTH) & peaks.any(2) & (windows.square().mean(2) > SILENCE)
        return voiced.float(), torch.log2(self.sample_rate / lags)

    def _autocorrelation(self, windows: Tensor) -> Tensor:
        """(..., window) -> (..., L), lags 0 to `longest` + 1."""
        power = torch.fft.rfft(windows, self.size).abs().square()
        return torch.fft.irfft(power, self.size)[..., : self.longest + 2]


def forward_filled(voicing: Tensor, octaves: Tensor) -> Tensor:
    """(B, N), (B, N) -> octaves (B, N), in unvoiced frames those of the last voiced one, MEAN_OCTAVES before it."""
    positions = torch.arange(1, voicing.shape[1] + 1, device=voicing.device)
    last = (positions * (voicing > 0)).cummax(1).values  # (B, N) position of the last voiced frame, 0 before it
    return F.pad(octaves, (1, 0), value=MEAN_OCTAVES).gather(1, last)


def centre_and_spread(voiced: Tensor) -> tuple[Tensor, Tensor]:
    """Octaves of voiced frames (M,) -> median (), half the distance of the quantiles 16 % and 84 % ().

    Of a normal distribution mean and standard deviation. Some frames whose octave is wrong hardly change them.
    """
    low, middle, high = voiced.quantile(torch.tensor([0.16, 0.5, 0.84], device=voiced.device))
    return middle, ((high - low) / 2).clamp(min=MIN_SPREAD)


def transformed(pitch: Pitch, centre: Tensor, spread: Tensor) -> Pitch:
    """The pitch of an utterance (1, N) with the `centre_and_spread` of another speaker, both () in octaves.

    Linear transformation of log F0 to the target speaker's statistics (Gaussian-normalised F0 conversion), with median
    and half the 16-84 % quantile range in place of mean and standard deviation. The spread is changed by a factor in
    SPREAD, and not for utterances with fewer than MIN_VOICED voiced frames.
    """
    voiced = pitch.octaves[pitch.voicing > 0]
    if not len(voiced):
        return pitch
    own_centre, own_spread = centre_and_spread(voiced)
    factor = (spread / own_spread).clamp(*SPREAD) if len(voiced) >= MIN_VOICED else torch.ones(())
    return pitch._replace(octaves=centre + factor * (pitch.octaves - own_centre))


class PitchLosses(NamedTuple):
    """Sums over the frames of each code; 0 in padding."""

    cross_entropy: Tensor  # (B, N) of voicing, in nats
    squared_error: Tensor  # (B, N) of F0 in voiced frames, in octaves squared
    num_voiced: Tensor  # (B, N)
    num_frames: Tensor  # () valid frames


class PitchHead(nn.Module):
    """Linear prediction of voicing and F0 from the conditioning of the decoder, and the pitch of each speaker.

    F0 is predicted relative to the centre of the speaker.
    """

    centre: Tensor  # (S,) or (1,) without speakers: `centre_and_spread` of log2 F0
    spread: Tensor  # 0: not measured

    def __init__(self, cfg: PitchConfig, channels: int, hop: int, frame_hop: int, num_speakers: int, sample_rate: int):
        """channels: C; hop: samples per code, a multiple of frame_hop. Raises ValueError as PitchTracker does."""
        super().__init__()
        self.tracker = PitchTracker(cfg, frame_hop, sample_rate)
        self.out = Linear(channels, 2 * (hop // frame_hop))
        self.register_buffer("centre", torch.full((max(1, num_speakers),), MEAN_OCTAVES))
        self.register_buffer("spread", torch.zeros(max(1, num_speakers)))

    def forward(self, cond: Tensor, speaker: Tensor | None) -> tuple[Tensor, Tensor]:
        """(B, C, N), (B,) -> logits of voicing, log2 of F0 in Hz, both (B, N * R)."""
        logits, relative = rearrange(self.out(cond.mT), "b n (r two) -> two b (n r)", two=2)
        return logits, relative + self._of(speaker, self.centre)

    def predict(self, cond: Tensor, speaker: Tensor | None) -> Pitch:
        """(B, C, N), (B,) -> the pitch of the N * R frames."""
        logits, octaves = self(cond, speaker)
        return Pitch((logits > 0).float(), octaves)

    def losses(self, cond: Tensor, speaker: Tensor | None, wav: Tensor, mask: Tensor) -> PitchLosses:
        """(B, C, N), (B,), waveforms (B, T), mask (B, N) bool -> PitchLosses."""
        logits, octaves = (predicted.float() for predicted in self(cond, speaker))
        true = self.tracker(wav, logits.shape[1])
        nats = F.binary_cross_entropy_with_logits(logits, true.voicing, reduction="none")
        squared = (octaves - true.octaves).square() * true.voicing
        nats, squared, voiced = (
            x.unflatten(1, (mask.shape[1], -1)).sum(2) * mask for x in (nats, squared, true.voicing)
        )
        return PitchLosses(nats, squared, voiced, mask.sum() * (logits.shape[1] // mask.shape[1]))

    @torch.no_grad()
    def errors(self, cond: Tensor, speaker: Tensor | None, wav: Tensor, mask: Tensor) -> Tensor:
        """As `losses` -> (3,) float64 on the CPU, sums over all valid frames.

        Frames with the wrong voicing, squared error of F0 in octaves squared over voiced frames, voiced frames.
        """
        predicted = self.predict(cond, speaker)
        true = self.tracker(wav, predicted.voicing.shape[1])
        valid = mask.repeat_interleave(predicted.voicing.shape[1] // mask.shape[1], dim=1)
        wrong, voiced = (predicted.voicing != true.voicing) * valid, true.voicing * valid
        squared = (predicted.octaves - true.octaves).square() * voiced
        return torch.stack([wrong.sum(), squared.sum(), voiced.sum()]).double().cpu()

    def transformed(self, pitch: Pitch, speaker: Tensor | None) -> Pitch:
        """As `transformed` above, to the statistics of `speaker` (1,); unchanged where these are not measured."""
        spread = self._of(speaker, self.spread)[0, 0]
        return transformed(pitch, self._of(speaker, self.centre)[0, 0], spread) if spread > 0 else pitch

    def distance(self, source: Tensor, target: Tensor) -> Tensor:
        """Speakers (B,), others (B,) -> octaves (B,) between their centres; 0 where either is not measured."""
        measured = (self.spread[source] > 0) & (self.spread[target] > 0)
        return (self.centre[target] - self.centre[source]) * measured

    def measure(self, speaker: int, wavs: list[Tensor]) -> None:
        """Sets centre and spread of a speaker from utterances (T,); unchanged with too few voiced frames."""
        voiced = []
        for wav in wavs:
            pitch = self.tracker(wav[None], -(-len(wav) // self.tracker.hop))
            voiced.append(pitch.octaves[pitch.voicing > 0])
        if sum(map(len, voiced)) >= MIN_VOICED:
            self.centre[speaker], self.spread[speaker] = centre_and_spread(torch.cat(voiced))

    def _of(self, speaker: Tensor | None, values: Tensor) -> Tensor:
        """(B, 1)."""
        return values[:1, None] if speaker is None else values[speaker][:, None]
