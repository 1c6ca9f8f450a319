"""What the judges of speech get: 16 kHz, a fixed peak, and silence as it is."""

import numpy as np
import pytest

from vqaudio.data.audio import resampled
from vqaudio.metrics.waveform import PEAK, SAMPLE_RATE, standardised


def _noise(count: int) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.1, count).astype(np.float32)


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
@pytest.mark.parametrize("gain", [1e-6, 0.5, 40])
def test_rate_and_level_are_fixed(rate: int, gain: float) -> None:
    wav = _noise(rate)
    found = standardised(wav * np.float32(gain), rate)
    expected = resampled(wav, rate, SAMPLE_RATE)
    assert found.dtype == np.float32 and len(found) == SAMPLE_RATE
    assert np.abs(found).max() == pytest.approx(PEAK)
    assert found == pytest.approx(expected * (PEAK / np.abs(expected).max()), abs=1e-5)


def test_a_gain_of_a_power_of_two_changes_no_bit() -> None:
    assert np.array_equal(standardised(_noise(1000), 8_000), standardised(_noise(1000) * np.float32(1 / 64), 8_000))


def test_silence_stays_silence() -> None:
    for count in (0, 1, 1000):
        assert np.array_equal(standardised(np.zeros(count, np.float32), 16_000), np.zeros(count))


@pytest.mark.parametrize("wav", [np.zeros((2, 100), np.float32), np.array([0, np.nan], np.float32)])
def test_what_is_not_audio_is_refused(wav: np.ndarray) -> None:
    with pytest.raises(ValueError, match="mono"):
        standardised(wav, 16_000)
