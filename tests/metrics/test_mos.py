"""Predicted opinion scores of speech, noise and silence, and as the published program computes them."""

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vqaudio.data.audio import read_audio
from vqaudio.metrics.mos import SCORES, WINDOW, naturalness_metrics
from vqaudio.metrics.waveform import standardised

pytest.importorskip("speechmos", reason="DNSMOS is absent: pip install 'vqaudio[metrics]'")
ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("VQAUDIO_DATA", ROOT / "../shared/data")) / "vctk_mini"
FLITE = read_audio(ROOT / "egs/mini/wav16/flite_rms/flite_rms_020.flac", 16_000)


@pytest.fixture(scope="module")
def clean() -> np.ndarray:
    """Scores of FLITE."""
    return _values(FLITE)


def _noise(count: int) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.1, count).astype(np.float32)


def _values(wav: np.ndarray, rate: int = 16_000) -> np.ndarray:
    return np.array([naturalness_metrics([wav], rate)[name].value for name in SCORES])


def test_silence_and_what_is_too_short_have_the_lowest_score() -> None:
    for wav in (np.zeros(16_000, np.float32), np.zeros(0, np.float32), _noise(1599)):
        assert np.array_equal(_values(wav), [1, 1, 1])


def test_the_mean_over_waveforms_has_an_interval(clean: np.ndarray) -> None:
    soft = FLITE * np.float32(1 / 256)  # the level does not matter
    found = naturalness_metrics([np.zeros(16_000, np.float32), soft], 16_000)
    for score, estimate in zip(clean, found.values(), strict=True):
        assert estimate == pytest.approx(((1 + score) / 2, 1, score, 2))


def test_noise_is_worse(clean: np.ndarray) -> None:
    noisy, noise = _values(FLITE + _noise(len(FLITE))), _values(_noise(len(FLITE)))
    assert ((noise >= 1) & (noise < noisy) & (noisy < clean) & (clean < 5)).all()
    assert noise.max() < 1.3 and clean[0] > 2.5


def test_the_scores_are_those_of_the_published_program(clean: np.ndarray) -> None:
    from speechmos import dnsmos

    expected: Any = dnsmos.run(standardised(np.resize(FLITE, WINDOW), 16_000), sr=16_000)
    assert clean == pytest.approx([expected[key] for key in SCORES.values()], abs=1e-6)


@pytest.mark.data
def test_real_speech_is_better_than_noisy_speech() -> None:
    if not DATA.is_dir():
        pytest.skip(f"{DATA} is absent; set VQAUDIO_DATA to the folder that holds vctk_mini")
    wav = read_audio(sorted(DATA.glob("wav16/p225/*.flac"))[0], 16_000)
    noisy = wav + _noise(len(wav)) * np.float32(np.sqrt(np.square(wav).mean()))  # at 20 dB
    found, worse = _values(wav), _values(noisy)
    assert found.min() > 2.7 and found[0] > worse[0] + 0.3 and found[2] > worse[2] + 0.3


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "speechmos", None)
    with pytest.raises(ModuleNotFoundError, match=r"speechmos: pip install 'vqaudio\[metrics\]'"):
        _values(_noise(16_000))
