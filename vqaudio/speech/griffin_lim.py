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

from vqaudio.nn.frontend import FLOOR, MEAN_DB, STD_DB, LogMel

ITERATIONS = 32  # each estimates all phases again
MOMENTUM = 0.99
MEL_UPDATES = 6
OVERLAP = 5  # windows over each sample, at least: the phases of fewer are hardly determined

Array = npt.NDArray[np.float32]


def griffin_lim(log_mel: LogMel, spectrum: Tensor, num_samples: int, seed: int = 0) -> Tensor:
    """Standardised log-mel spectra (N, F), as `log_mel.centred` makes them -> waveform (T,) float32 in [-1, 1].

    T is `num_samples`, at most N hops; spectrum n is that of the window in the middle of samples n * hop to
    (n + 1) * hop. The level is that of the spectra; only a waveform with a peak above 1 is scaled down as a whole.
    `seed` gives the initial phases. Raises ValueError for values that are not finite and for another shape.
    """
    import librosa

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
    size = log_mel.size // 2  # every second bin of the zero-padded FFT: still at least the length of the window
    step = max(1, min(hop, log_mel.cfg.win_length // OVERLAP))
    count = 1 + -(-max(num_samples, size) // step)
    levels = resample(spectrum.detach().cpu().numpy().astype(np.float32), hop, step, count)
    decibels = np.minimum(levels * STD_DB + MEAN_DB, 0)  # no signal in [-1, 1] has more power in a band
    power = invert_mel(log_mel, np.maximum(10 ** (decibels / 10) - FLOOR, 0))
    wav = librosa.griffinlim(
        np.sqrt(power[::2]),  # (K, M)
        n_iter=ITERATIONS,
        hop_length=step,
        win_length=log_mel.cfg.win_length,
        n_fft=size,
        momentum=MOMENTUM,
        random_state=seed,
        dtype=np.float32,
    )[:num_samples]
    return torch.from_numpy(wav / max(1.0, np.abs(wav).max()))


def resample(spectrum: Array, hop: int, step: int, count: int) -> Array:
    """Spectra (N, F) at n * hop + hop / 2 -> spectra (M, F) at m * step, interpolated linearly; M is `count`.

    Before the first and after the last spectrum, these are repeated.
    """
    position = np.clip((np.arange(count) * step - hop / 2) / hop, 0, len(spectrum) - 1)
    before = position.astype(int)
    after = np.minimum(before + 1, len(spectrum) - 1)
    weight = (position - before).astype(np.float32)[:, None]
    return spectrum[before] + weight * (spectrum[after] - spectrum[before])


def invert_mel(log_mel: LogMel, power: Array) -> Array:
    """Power in mel bands (M, F) -> power in the bins of the FFT (K, M) of the same sums, none of it negative.

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
