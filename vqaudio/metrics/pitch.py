"""F0 and voicing of speech by SwiftF0 (Nieradzik, 2025, arXiv 2508.18440), a small network that runs on the CPU.

Compared with librosa.pyin and YIN (de Cheveigné and Kawahara, 2002) in docs/evaluation.md (Signal), by wrong voicing of
frames whose voicing follows from the phone (vowels, nasals and approximants; voiceless stops and fricatives, silence).
VOICED is the threshold that its authors calibrated.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from vqaudio.metrics.waveform import SAMPLE_RATE, Wav, standardised

if TYPE_CHECKING:
    from swift_f0 import SwiftF0

FRAME = 0.01  # seconds from one frame to the next
LOWEST, HIGHEST = 60.0, 500.0  # Hz
VOICED = 0.5  # a frame is voiced if its confidence is at least this
PADDING = 512  # samples of silence after the end, so that the network's last frame lies beyond it


class Pitch(NamedTuple):
    hertz: npt.NDArray[np.float64]  # (N,) meaningless in unvoiced frames
    voiced: npt.NDArray[np.bool_]  # (N,)


def pitch(wav: Wav, sample_rate: int) -> Pitch:
    """(T,) -> N = ceil(T / hop) frames of 10 ms; frame n is centred on sample n * hop. The level does not matter.

    The network's frames are 16 ms apart: its confidence is interpolated, and the logarithm of F0 of its voiced frames.
    Raises ValueError for what is not mono audio of finite samples, ModuleNotFoundError without swift-f0.
    """
    samples, hop = standardised(wav, sample_rate), round(FRAME * sample_rate)
    found = _detector().detect(np.pad(samples, (0, PADDING)), SAMPLE_RATE, LOWEST, HIGHEST)
    times = np.arange(0, len(wav), hop) / sample_rate
    known = found.confidence >= VOICED
    if not known.any():
        return Pitch(np.full(len(times), LOWEST), np.zeros(len(times), bool))
    octaves = np.interp(times, found.timestamps[known], np.log2(found.pitch_hz[known]))
    return Pitch(2**octaves, np.interp(times, found.timestamps, found.confidence) >= VOICED)


def check_tracker() -> None:
    """Raises ModuleNotFoundError, with what to install, where swift-f0 is missing."""
    try:
        import swift_f0  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("F0 needs swift-f0: pip install 'vqaudio[metrics]'") from error


@functools.cache
def _detector() -> SwiftF0:
    """On one thread: it is fast enough, and PyTorch's threads are left alone."""
    check_tracker()
    from swift_f0 import SwiftF0

    return SwiftF0(threads=1)
