"""Power of a waveform in mel bands, and recursive averages over its frames: what all front-ends have in common.

Shapes: B batch, T samples, N frames (N = T / hop), F mel bands, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vqaudio.nn.moments import Moments
from vqaudio.torchaudio_functional import torchaudio_functional

NUM_WARPS = 21  # filterbanks for vocal tract length perturbation, including the unmodified one
FACTS = ("kind", "n_mels", "hop_length", "win_length", "f_min", "f_max")  # fields of all front-ends that change codes
EQUALIZER_WAVES = 4  # cosines over the bands, of 1 to so many half periods, that a random equalizer is the sum of
BLOCK_FRAMES = 64  # frames whose recursive averages are computed at once


@dataclass(frozen=True)
class MelConfig:
    """Options of MelFilterbank, which all front-ends share."""

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
    equalizer_db: float = 0.0
    """random equalizer in training: standard deviation in dB of a smooth curve over the bands, constant in a crop, that
    is added to the level of the bands, as other microphones, rooms and speakers do; 0: none"""

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
        if not 0 <= self.f_min < self.f_max < math.inf:
            raise ValueError(
                f"f_min must be 0 or more and below f_max, which must be finite, got {self.f_min} and {self.f_max} Hz"
            )
        if not 0 <= self.warp < 0.5:
            raise ValueError(f"warp must lie in [0, 0.5), a fraction of the frequency, got {self.warp}")
        if not 0 <= self.equalizer_db <= 30:
            raise ValueError(f"equalizer_db must lie in 0 to 30 dB, got {self.equalizer_db}")


class MelFilterbank(nn.Module):
    """Waveform -> power in mel bands; no trainable parameters.

    In training, the frequency axis may be scaled by a random factor per crop (Jaitly and Hinton, "Vocal tract length
    perturbation (VTLP) improves speech recognition", 2013), and bands raised and lowered by a random equalizer. Both
    reduce the information on speaker and recording in the codes.
    """

    window: Tensor  # (win_length,)
    banks: Tensor  # (1 or NUM_WARPS, FFT bins, F); the first one is unmodified

    def __init__(self, cfg: MelConfig, sample_rate: int = 16000):
        """Raises ValueError for frequencies above half the sample rate, and for empty mel bands."""
        super().__init__()
        if not cfg.n_mels:
            raise ValueError("a mel filterbank needs bands: n_mels must be at least 1, got 0")
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
        """Number of past samples that the window of the first frame covers."""
        return self.cfg.win_length - self.cfg.hop_length

    def power(self, wav: Tensor, past: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, T, 1) in [-1, 1], T a multiple of the hop, (B, past_length, 1) -> (B, N, F) float32, next past.

        A full-scale sine has at most 0.25. None as the past stands for zeros. To be called with autocast off.
        """
        if past is None:
            past = wav.new_zeros(wav.shape[0], self.past_length, 1)
        wav = torch.cat([past, wav], dim=1).float()
        frames = wav[..., 0].unfold(1, self.cfg.win_length, self.cfg.hop_length) * self.window  # (B, N, window)
        power = torch.fft.rfft(frames, self.size).abs().square()  # (B, N, FFT bins)
        mel = power @ (self._random_banks(len(wav)) if self.training and len(self.banks) > 1 else self.banks[0])
        if self.training and self.cfg.equalizer_db:
            mel = mel * 10 ** (self._random_equalizers(len(wav)) / 10)
        return mel, wav[:, wav.shape[1] - self.past_length :]

    def centre(self, wav: Tensor, num_frames: int) -> Tensor:
        """(B, T) -> (B, num_frames * hop): advanced so that the windows lie around the frames, zeros after the end."""
        ahead = self.past_length // 2
        wav = F.pad(wav[:, ahead:], (0, max(0, num_frames * self.cfg.hop_length + ahead - wav.shape[1])))
        return wav[:, : num_frames * self.cfg.hop_length]

    def whole_frames(self, wav: Tensor) -> Tensor:
        """An utterance (T,) -> (1, N * hop, 1), N = ceil(T / hop), zeros after the end."""
        return F.pad(wav.to(self.window), (0, -len(wav) % self.cfg.hop_length))[None, :, None]

    def _random_banks(self, rows: int) -> Tensor:
        """(rows, FFT bins, F): a random filterbank for each row."""
        return self.banks[torch.randint(len(self.banks), (rows,), device=self.banks.device)]

    def _random_equalizers(self, rows: int) -> Tensor:
        """(rows, 1, F) in dB: for each row a sum of EQUALIZER_WAVES cosines over the bands with random weights."""
        waves = torch.arange(1, EQUALIZER_WAVES + 1, device=self.banks.device)[:, None]
        bands = (torch.arange(self.cfg.n_mels, device=self.banks.device) + 0.5) / self.cfg.n_mels
        weights = torch.randn(rows, EQUALIZER_WAVES, device=self.banks.device)
        curves = weights @ torch.cos(torch.pi * waves * bands) * (2 / EQUALIZER_WAVES) ** 0.5  # of variance 1
        return self.cfg.equalizer_db * curves[:, None]

    def _bank(self, sample_rate: int, factor: float) -> Tensor:
        """(FFT bins, F): triangular filters, frequencies scaled by `factor`, normalised by filter sum and window."""
        functional = torchaudio_functional()
        triangles = functional.melscale_fbanks if functional else melscale_fbanks
        bins = self.size // 2 + 1
        # a lower nominal sample rate assigns lower frequencies to the bins, so that bands move to higher ones
        nominal_rate = 2 * round(sample_rate / factor / 2)
        bank = triangles(bins, self.cfg.f_min, self.cfg.f_max, self.cfg.n_mels, nominal_rate)
        return bank / bank.sum(0).clamp(min=1e-6) / self.window.sum().square()


def melscale_fbanks(num_bins: int, f_min: float, f_max: float, n_mels: int, sample_rate: int) -> Tensor:
    """(num_bins, n_mels) triangular filters, in Hz and mel (HTK), bit-identical to torchaudio's melscale_fbanks."""
    lowest, highest = (2595.0 * math.log10(1.0 + frequency / 700.0) for frequency in (f_min, f_max))
    corners = 700.0 * (10.0 ** (torch.linspace(lowest, highest, n_mels + 2) / 2595.0) - 1.0)  # in Hz
    widths = corners.diff()
    distances = corners[None] - torch.linspace(0, sample_rate // 2, num_bins)[:, None]  # (num_bins, n_mels + 2)
    rising, falling = -distances[:, :-2] / widths[:-1], distances[:, 2:] / widths[1:]
    return torch.minimum(rising, falling).clamp(min=0)


class StandardisedMel(MelFilterbank):
    """A filterbank whose output is processed further, and standardised by constants of the training speech."""

    mean: Tensor  # (F,) of the output over the training speech, before standardisation
    std: Tensor  # (F,) its standard deviation
    initialised: Tensor  # () bool: whether the constants were computed from speech

    def __init__(self, cfg: MelConfig, sample_rate: int, mean: float, std: float):
        """mean, std: used until `initialise`. Raises ValueError as MelFilterbank does."""
        super().__init__(cfg, sample_rate)
        self.register_buffer("mean", torch.full((cfg.n_mels,), mean))
        self.register_buffer("std", torch.full((cfg.n_mels,), std))
        self.register_buffer("initialised", torch.tensor(False))

    def forward(
        self, wav: Tensor, state: tuple[Tensor, ...] | None = None, started: Tensor | None = None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """(B, T, 1) in [-1, 1], T a multiple of the hop -> (B, N, F) of about -2 to 2, next state.

        started: (B, N) bool, False for frames before an utterance; they leave the state as it is before its start.
        """
        with torch.autocast(wav.device.type, enabled=False):
            output, state = self._normalised(wav, state, started)
            return (output - self.mean) / self.std, state

    def _normalised(
        self, wav: Tensor, state: tuple[Tensor, ...] | None, started: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """(B, T, 1) -> (B, N, F) before standardisation, next state."""
        raise NotImplementedError

    def _standardise(self, utterances: Iterable[Tensor], least_std: float) -> None:
        """Computes mean and standard deviation from whole utterances (T,) in [-1, 1]; called in evaluation mode."""
        output = Moments()
        for wav in utterances:
            output.add(self._normalised(self.whole_frames(wav), None, None)[0][0])
        self.mean.copy_(output.mean)
        self.std.copy_(output.std.clamp(min=least_std))
        self.initialised.fill_(True)


class LeakySum(nn.Module):
    """Sums over the past with exponentially decreasing weights: s[n] = decay * s[n - 1] + x[n].

    Computed as matrix products over blocks of BLOCK_FRAMES frames, hundreds of times as fast as frame by frame.
    """

    kernel: Tensor  # (BLOCK_FRAMES, BLOCK_FRAMES): weight of each frame of a block in each later one
    carried: Tensor  # (BLOCK_FRAMES, 1): weight of the sum before the block

    def __init__(self, decay: float):
        """decay: in (0, 1), per frame."""
        super().__init__()
        with torch.device("cpu"):
            lags = [[i - j for j in range(BLOCK_FRAMES)] for i in range(BLOCK_FRAMES)]
            kernel = torch.tensor([[decay**lag if lag >= 0 else 0.0 for lag in row] for row in lags])
            carried = torch.tensor([[decay ** (i + 1)] for i in range(BLOCK_FRAMES)])
        self.register_buffer("kernel", kernel, persistent=False)
        self.register_buffer("carried", carried, persistent=False)

    def forward(self, x: Tensor, before: Tensor) -> Tensor:
        """(B, N, C), the sum before the first frame (B, C) -> (B, N, C)."""
        found = []
        for block in x.split(BLOCK_FRAMES, dim=1):
            n = block.shape[1]
            found.append(self.kernel[:n, :n] @ block + self.carried[:n] * before[:, None])
            before = found[-1][:, -1]
        return torch.cat(found, dim=1)


def leaky_peak(level: Tensor, before: Tensor, fall: float) -> Tensor:
    """p[n] = max(level[n], p[n - 1] - fall): (B, N), the peak before the first frame (B,), fall per frame -> (B, N)."""
    found = []
    for block in level.split(BLOCK_FRAMES, dim=1):
        ramp = fall * torch.arange(block.shape[1], device=level.device, dtype=level.dtype)
        peak = torch.maximum((block + ramp).cummax(dim=1).values, before[:, None] - fall) - ramp
        found.append(peak)
        before = peak[:, -1]
    return torch.cat(found, dim=1)
