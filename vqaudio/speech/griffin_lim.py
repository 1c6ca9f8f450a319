"""Griffin-Lim vocoder: a log-mel spectrogram, as a model predicts it from codes, to a waveform. Nothing is trained.

Griffin and Lim, "Signal estimation from modified short-time Fourier transform" (1984), with the momentum of Perraudin,
Balazs and Sondergaard, "A fast Griffin-Lim algorithm" (2013). All of it runs on one thread of the CPU and without
BLAS, so that the samples depend on the spectrogram, their number and the seed only.

Letters: N spectra, F mel bands, K FFT bins, M spectra of Griffin-Lim, T samples.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vqaudio.nn.log_mel import FLOOR, MEAN_DB, STD_DB, LogMel

ITERATIONS = 32  # each estimates all phases again
MOMENTUM = 0.99
MEL_UPDATES = 6
OVERLAP = 5  # windows over each sample, at least: fewer hardly determine the phases
BLOCK = 2**19  # samples; longer utterances are made in such blocks, so that memory does not grow with the phases
FADE = 800  # samples; the length of the cross-fade between two blocks

Array = npt.NDArray[np.float32]


def griffin_lim(log_mel: LogMel, spectrum: Tensor, num_samples: int, seed: int = 0) -> Tensor:
    """Standardised log-mel spectra (N, F), as `log_mel.centred` makes them -> waveform (T,) float32 in [-1, 1].

    T is `num_samples`, at most N hops; spectrum n is that of the window in the middle of samples n * hop to
    (n + 1) * hop. The level is that of the spectra; only a waveform with a peak above 1 is scaled down as a whole.
    `seed` gives the initial phases. Raises ValueError for values that are not finite and for another shape.
    """
    hop, bands = log_mel.cfg.hop_length, log_mel.cfg.n_mels
    if spectrum.ndim != 2 or spectrum.shape[1] != bands or not 0 < num_samples <= len(spectrum) * hop:
        raise ValueError(
            f"spectrum must be (N, {bands}) with N * {hop} at least num_samples ({num_samples}, at least 1), got "
            f"{tuple(spectrum.shape)}"
        )
    if not spectrum.isfinite().all():
        raise ValueError(
            "the spectrum has values that are not finite; the weights that it was predicted with are damaged"
        )
    levels = spectrum.detach().cpu().numpy().astype(np.float32)
    wav = np.empty(num_samples, np.float32)
    for start in range(0, num_samples, BLOCK):
        first, end = max(0, start - FADE), min(start + BLOCK, num_samples)
        block = _block(log_mel, levels, first, end, seed)
        rising = np.sin(np.linspace(0, np.pi / 2, start - first, dtype=np.float32))  # blocks have unrelated phases
        wav[first:start] = rising[::-1] * wav[first:start] + rising * block[: start - first]
        wav[start:end] = block[start - first :]
    return torch.from_numpy(wav / max(np.float32(1), np.abs(wav).max()))


def _block(log_mel: LogMel, spectrum: Array, first: int, end: int, seed: int) -> Array:
    """Spectra (N, F) -> the samples `first` to `end`."""
    import librosa

    size = log_mel.size // 2  # every second bin of the zero-padded FFT: still at least the length of the window
    step = max(1, min(log_mel.cfg.hop_length, log_mel.cfg.win_length // OVERLAP))
    count = 1 + -(-max(end - first, size) // step)
    levels = resample(spectrum, log_mel.cfg.hop_length, first + step * np.arange(count))
    decibels = np.minimum(levels * STD_DB + MEAN_DB, 0)  # no signal in [-1, 1] has more power in a band
    power = invert_mel(log_mel, np.maximum(10 ** (decibels / 10) - FLOOR, 0))
    return librosa.griffinlim(
        np.sqrt(power[::2]),  # (K, M)
        n_iter=ITERATIONS,
        hop_length=step,
        win_length=log_mel.cfg.win_length,
        n_fft=size,
        momentum=MOMENTUM,
        random_state=seed,
        dtype=np.float32,
    )[: end - first]


def resample(spectrum: Array, hop: int, times: npt.NDArray[np.integer]) -> Array:
    """Spectra (N, F) of the times n * hop + hop / 2, in samples -> spectra (M, F) of `times` (M,), interpolated.

    The interpolation is linear; before the first and after the last spectrum, these are repeated.
    """
    position = np.clip((times - hop / 2) / hop, 0, len(spectrum) - 1)
    before = position.astype(int)
    after = np.minimum(before + 1, len(spectrum) - 1)
    weight = (position - before).astype(np.float32)[:, None]
    return (spectrum[before] + weight * (spectrum[after] - spectrum[before])).astype(np.float32)


def invert_mel(log_mel: LogMel, power: Array) -> Array:
    """Power in mel bands (M, F) -> power in the bins of the FFT (K, M) that adds up to it; none is negative.

    A few multiplicative updates from a flat spectrum, which keep it smooth (Richardson, 1972; Lucy, 1974). Bins outside
    all bands get 0.
    """
    from scipy.sparse import csr_array  # its products have the same bits whatever the number of threads

    bank = csr_array(log_mel.banks[0].cpu().numpy().T)  # (F, K)
    back, weights = csr_array(bank.T), bank.sum(axis=0)[:, None]  # (K, F), (K, 1)
    found = np.broadcast_to((weights > 0).astype(np.float32), (len(weights), len(power)))
    tiny = np.finfo(np.float32).tiny
    for _ in range(MEL_UPDATES):
        found = found * (back @ (power.T / np.maximum(bank @ found, tiny))) / np.maximum(weights, tiny)
    return found
