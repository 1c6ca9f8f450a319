"""Log-mel spectra by a causal filterbank: what an encoder may hear instead of samples, and what may be asked of codes.

Letters: B batch, T samples, N frames (N = T / hop), F bands.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FLOOR = 1e-10  # added to a band's power, so that silence is -100 dB; a sine of full scale has at most 0.25
MEAN_DB, STD_DB = -65.0, 20.0  # dB: about the mean and the standard deviation over speech
NUM_WARPS = 21  # filterbanks among which training draws, one of them as it is


@dataclass(frozen=True)
class LogMelConfig:
    """Of a LogMel. Without bands there is none, and the rest has no effect."""

    n_mels: int = 0
    """F, mel bands; 0: no filterbank"""
    hop_length: int = 160
    """samples per frame"""
    win_length: int = 400
    """samples under the Hann window of a frame, which ends where the frame ends"""
    f_min: float = 40.0
    """in Hz, where the first band begins"""
    f_max: float = 7600.0
    """in Hz, where the last band ends"""
    warp: float = 0.0
    """in training, most by which all frequencies of a crop are stretched or shrunk, as a share"""

    def __post_init__(self) -> None:
        if self.n_mels < 0 or self.hop_length < 1:
            raise ValueError(
                f"n_mels must be 0 or more and hop_length at least 1, got {self.n_mels} and {self.hop_length}"
            )
        if self.win_length < self.hop_length:
            raise ValueError(
                f"win_length must be at least hop_length ({self.hop_length}), or samples are lost, got {self.win_length}"
            )
        if not 0 <= self.f_min < self.f_max:
            raise ValueError(f"f_min must be 0 or more and below f_max, got {self.f_min} and {self.f_max} Hz")
        if not 0 <= self.warp < 0.5:
            raise ValueError(f"warp must lie in [0, 0.5), a share of the frequency, got {self.warp}")


class LogMel(nn.Module):
    """Samples to standardised log power in mel bands. It has nothing to learn.

    A crop that is trained on may have its frequencies stretched by a random factor, as if by a vocal tract of another
    length (Jaitly and Hinton, "Vocal tract length perturbation", 2013), so that codes say less of who speaks.
    """

    window: Tensor  # (window,)
    banks: Tensor  # (1 or WARPS, FFT bins, F), the first as it is

    def __init__(self, cfg: LogMelConfig, sample_rate: int = 16000):
        """Raises ValueError for frequencies beyond half the sample rate, and more bands than the window can fill."""
        super().__init__()
        if not cfg.n_mels:
            raise ValueError("a filterbank needs bands, got 0")
        if cfg.f_max * (1 + cfg.warp) > sample_rate / 2:
            raise ValueError(
                f"f_max, stretched by warp, must be at most {sample_rate / 2:g} Hz, half the sample rate, got "
                f"{cfg.f_max} Hz and {cfg.warp}"
            )
        self.cfg = cfg
        self.size = 2 ** (
            cfg.win_length.bit_length() + 1
        )  # of the transform: 2 to 4 times the window, for narrow bands
        # not saved: they follow from the configuration
        with torch.device("cpu"):  # computed even where the rest of a model only gets its shapes
            self.register_buffer("window", torch.hann_window(cfg.win_length), persistent=False)
            half = NUM_WARPS // 2 if cfg.warp else 0
            factors = [1.0, *(1 + cfg.warp * step / half for step in range(-half, half + 1) if step)]
            banks = torch.stack([self._bank(sample_rate, factor) for factor in factors])
        if not banks.sum(1).all():
            raise ValueError(
                f"{cfg.n_mels} bands are too many for a window of {cfg.win_length} samples: some hear nothing"
            )
        self.register_buffer("banks", banks, persistent=False)

    @property
    def past_length(self) -> int:
        """Samples that the first frame needs from before."""
        return self.cfg.win_length - self.cfg.hop_length

    def forward(self, wav: Tensor, past: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, T, 1) in [-1, 1], T a multiple of the hop, (B, past_length, 1) -> (B, N, F) about -2 to 2, the next past.

        None as the past stands for silence.
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
        """(B, T) -> (B, N, F): windows around the middles of so many frames, zeros after the end; no gradient."""
        ahead = self.past_length // 2
        wav = F.pad(wav[:, ahead:], (0, max(0, num_frames * self.cfg.hop_length + ahead - wav.shape[1])))
        with torch.no_grad():
            return self(wav[:, : num_frames * self.cfg.hop_length, None])[0]

    def _random_banks(self, rows: int) -> Tensor:
        """(rows, FFT bins, F): a filterbank for each."""
        return self.banks[torch.randint(len(self.banks), (rows,), device=self.banks.device)]

    def _bank(self, sample_rate: int, factor: float) -> Tensor:
        """(FFT bins, F): triangles at `factor` times their frequencies, each of sum 1 over the window's power."""
        from torchaudio.functional import melscale_fbanks

        bins = self.size // 2 + 1
        # the mel scale of a slower clock: its bins carry lower names, so a band lies at higher frequencies
        clock = 2 * round(sample_rate / factor / 2)
        bank = melscale_fbanks(bins, self.cfg.f_min, self.cfg.f_max, self.cfg.n_mels, clock)
        return bank / bank.sum(0).clamp(min=1e-6) / self.window.sum().square()
