"""The form in which the networks that rate speech (recognition, naturalness, pitch) get a waveform."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vqaudio.data.audio import resampled

Wav = npt.NDArray[np.float32]
SAMPLE_RATE = 16_000  # Hz
PEAK = 0.8


def standardised(wav: Wav, sample_rate: int) -> Wav:
    """(T,) at any rate and level -> (T',) at 16 kHz with a peak of 0.8, so that the level does not matter.

    Silence stays silence. Raises ValueError for what is not mono audio of finite samples.
    """
    if wav.ndim != 1 or not np.isfinite(wav).all():
        raise ValueError(f"audio must be mono (T,) with finite samples, got shape {wav.shape}")
    samples = resampled(wav.astype(np.float32, copy=False), sample_rate, SAMPLE_RATE)
    peak = np.abs(samples).max(initial=0)
    return samples / peak * np.float32(PEAK) if peak > 0 else samples
