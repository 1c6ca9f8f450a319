"""Corrects a waveform so that its log-mel spectrum is a given one, window by window.

In short windows, the spectrum of filtered noise deviates from that of its filter, by 4 to 5 dB. These deviations
degrade ASR and are audible as roughness. A WaveNet after some hours of training deviates as much from the spectrum that
it is conditioned on, for several frames at a time, which raises the WER. The gain of each mel band brings the power of
the band to the given value; fine structure and phases stay as they are.

Shapes: B batch, N frames, T samples (T = N * hop), F mel bands, K FFT bins.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vqaudio.nn.log_mel import FLOOR, MEAN_DB, STD_DB, LogMel, LogMelConfig

GAIN = (0.1, 10.0)  # least and greatest, of the amplitude
PER_FRAME = 2  # windows
BLOCK_FRAMES = 4  # that `extend` corrects at once


class CorrectionState(NamedTuple):
    """State between two pieces."""

    past: Tensor  # (B, window - step) samples before the piece
    inside: Tensor  # (window - step,) 1 for those that are part of the utterance, 0 before it
    tail: Tensor  # (B, window - step) overlapping windows so far
    spectra: Tensor | None  # (B, past_frames, F) before the piece; None: there was none, the first one is repeated


class PendingCorrection(NamedTuple):
    """State between two pieces of one utterance, of any length."""

    correction: CorrectionState
    wav: Tensor  # (T,) samples that are not corrected yet
    spectra: Tensor  # (1, N, F) of their frames
    to_skip: int  # samples still to drop: the delay of the first ones


def check_correction(cfg: LogMelConfig) -> None:
    """Raises ValueError for windows that half a hop does not divide, or that do not overlap enough."""
    step = cfg.hop_length // PER_FRAME
    if cfg.hop_length % PER_FRAME or cfg.win_length % step or cfg.win_length < 3 * step:
        raise ValueError(
            "the spectral correction of vocoders (istft, acoustic.correction) needs spectrum.win_length to be a "
            "multiple of half of an even spectrum.hop_length, "
            f"at least three times that half, got {cfg.win_length} and {cfg.hop_length}; a WaveNet can go without "
            "(acoustic.correction False)"
        )


class SpectralCorrection(nn.Module):
    """Waveform and log-mel spectra -> waveform with these spectra; no trainable parameters.

    Windows, bands and standardisation are those of `LogMel`, with two windows per frame. They end at the end of their
    half of the frame, so the output comes `delay` samples after the input.
    """

    spread: Tensor  # (F, K) share of each band in the gain of a bin

    def __init__(self, cfg: LogMelConfig, sample_rate: int):
        """Raises ValueError as `check_correction` does."""
        check_correction(cfg)
        super().__init__()
        self.log_mel = LogMel(cfg, sample_rate)
        self.hop, self.num_bands, self.step = cfg.hop_length, cfg.n_mels, cfg.hop_length // PER_FRAME
        self.delay = cfg.win_length - self.step  # samples
        # centres of the windows of frame n, in frames, relative to the centre of frame n
        self.centres = [i / PER_FRAME - cfg.win_length / (2 * cfg.hop_length) for i in range(PER_FRAME)]
        self.past_frames = int(-(self.centres[0] // 1))
        bank = self.log_mel.banks[0]  # (K, F)
        self.register_buffer("spread", (bank / bank.sum(1, keepdim=True).clamp(min=1e-9)).T, persistent=False)

    def start(self, rows: int) -> CorrectionState:
        """Before the first sample of `rows` utterances."""
        silence = self.spread.new_zeros(rows, self.delay)
        return CorrectionState(silence, self.spread.new_zeros(self.delay), silence, None)

    def forward(
        self, wav: Tensor, spectra: Tensor, state: CorrectionState, valid: int | None = None
    ) -> tuple[Tensor, CorrectionState]:
        """(B, T), standardised spectra of its frames (B, N, F) -> (B, T), `delay` samples later; next state.

        valid: samples of `wav` that are part of the utterance; None: all. Of a window that reaches beyond the utterance
        the target power is that of its share within.
        """
        window = self.log_mel.window
        own = torch.arange(wav.shape[1], device=wav.device) < (wav.shape[1] if valid is None else valid)
        covered = torch.cat([state.inside, own.to(state.inside)])
        shares = covered.unfold(0, len(window), self.step) @ window.square() / window.square().sum()  # (2 N,)
        before = spectra[:, :1].expand(-1, self.past_frames, -1) if state.spectra is None else state.spectra
        known = torch.cat([before, spectra], dim=1)  # (B, past_frames + N, F)
        samples = torch.cat([state.past, wav], dim=1)
        windows = samples.unfold(1, len(window), self.step) * window  # (B, 2 N, window)
        spectrum = torch.fft.rfft(windows, self.log_mel.size)  # (B, 2 N, K)
        power = spectrum.abs().square() @ self.log_mel.banks[0]
        wanted = 10 ** ((self._at_windows(known, spectra.shape[1]) * STD_DB + MEAN_DB).clamp(max=0) / 10)
        wanted = wanted * shares[:, None]
        gain = torch.log(wanted / (power + FLOOR)).mul(0.5).clamp(*torch.tensor(GAIN).log().tolist())
        inside = self.spread.sum(0) > 0  # bins of no band get no power
        corrected = spectrum * (torch.exp(gain @ self.spread) * inside)
        parts = torch.fft.irfft(corrected, self.log_mel.size)[..., : len(window)] * window
        parts = parts / (window.square().sum() / self.step)
        steps = wav.shape[1]
        added = F.fold(parts.mT, (1, steps + self.delay), (1, len(window)), stride=(1, self.step))[:, 0, 0]
        added = added + F.pad(state.tail, (0, steps))
        known = known[:, known.shape[1] - self.past_frames :]
        return added[:, :steps], CorrectionState(samples[:, steps:], covered[steps:], added[:, steps:], known)

    # --- one utterance in pieces of any length ---

    def begin(self) -> PendingCorrection:
        """The state before the first sample."""
        none = self.spread.new_zeros(0)
        return PendingCorrection(self.start(1), none, self.spread.new_zeros(1, 0, self.num_bands), self.delay)

    def extend(
        self, wav: Tensor, spectra: Tensor, state: PendingCorrection, padding: int = 0
    ) -> tuple[Tensor, PendingCorrection]:
        """The next samples (T,) and the spectra of their frames (1, N, F) -> the samples that are complete, next state.

        padding: how many of the samples, at the end, lie after the utterance. Computed in blocks of BLOCK_FRAMES
        frames, so the samples have the same bits however the utterance is divided.
        """
        wav, spectra = torch.cat([state.wav, wav]), torch.cat([state.spectra, spectra], dim=1)
        size, correction, to_skip = BLOCK_FRAMES * self.hop, state.correction, state.to_skip
        found, valid = [wav[:0]], len(wav) - padding
        with torch.autocast(wav.device.type, enabled=False):
            while len(wav) >= size:
                block = wav[None, :size].contiguous(), spectra[:, :BLOCK_FRAMES].contiguous()
                corrected, correction = self(*block, correction, max(0, min(valid, size)))
                skipped = min(to_skip, size)
                found.append(corrected[0, skipped:])
                wav, spectra, to_skip, valid = wav[size:], spectra[:, BLOCK_FRAMES:], to_skip - skipped, valid - size
        return torch.cat(found), PendingCorrection(correction, wav, spectra, to_skip)

    def finish(self, state: PendingCorrection) -> Tensor:
        """End of the utterance -> the remaining samples (T,)."""
        if not (remaining := len(state.wav) + self.delay - state.to_skip):
            return state.wav
        frames = -(-(len(state.wav) + self.delay) // (BLOCK_FRAMES * self.hop)) * BLOCK_FRAMES
        known = state.spectra if state.spectra.shape[1] else state.correction.spectra
        assert known is not None  # nothing remains where nothing was corrected
        later = known[:, -1:].expand(-1, frames - state.spectra.shape[1], -1)
        zeros = state.wav.new_zeros(frames * self.hop - len(state.wav))
        return self.extend(zeros, later, state, len(zeros))[0][:remaining]

    def _at_windows(self, known: Tensor, count: int) -> Tensor:
        """Spectra of past_frames + N frames -> of the windows of the last N, interpolated, (B, 2 N, F)."""
        found = []
        for centre in self.centres:
            first = int(centre // 1) + self.past_frames
            weight = centre % 1
            earlier, later = known[:, first : first + count], known[:, first + 1 : first + 1 + count]
            found.append(earlier + weight * (later - earlier) if weight else earlier)
        return rearrange(found, "i b n f -> b (n i) f")
