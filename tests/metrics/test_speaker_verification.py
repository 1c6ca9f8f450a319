"""The verifier against the package whose weights it has, and its error rate against scikit-learn's ROC curve."""

import importlib.util
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from vqaudio.data.audio import read_audio
from vqaudio.metrics.speaker_verification import SpeakerVerifier, equal_error_rate

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("VQAUDIO_DATA", ROOT / "../shared/data")) / "vctk_mini"
needs_weights = pytest.mark.skipif(
    importlib.util.find_spec("resemblyzer") is None, reason="Resemblyzer is absent: pip install 'vqaudio[metrics]'"
)


def _sound(seconds: float, rate: int = 16000, pitch: float = 120.0) -> np.ndarray:
    """A buzz with a moving formant, which the network treats as speech."""
    time = np.arange(round(seconds * rate)) / rate
    buzz = sum(np.sin(2 * np.pi * pitch * k * time) / k for k in range(1, 20))
    return (0.1 * buzz * (1.1 + np.sin(2 * np.pi * 3 * time))).astype(np.float32)


@pytest.fixture(scope="module")
def verifier() -> SpeakerVerifier:
    return SpeakerVerifier()


@needs_weights
@pytest.mark.parametrize("seconds", [0.01, 1.0, 1.6, 2.0, 2.37, 2.38, 4.0, 5.3])
def test_vectors_are_those_of_the_package(verifier: SpeakerVerifier, seconds: float) -> None:
    """At -30 dBFS, where both leave the level alone; for all ways in which a last window can be filled."""
    package = pytest.importorskip("resemblyzer", reason="Resemblyzer cannot be imported", exc_type=ImportError)
    wav = _sound(seconds)
    wav *= 10 ** (-30 / 20) / np.sqrt(np.mean(wav**2))
    expected = package.VoiceEncoder("cpu", verbose=False).embed_utterance(wav)
    np.testing.assert_allclose(verifier.embed(wav, 16000), expected, atol=1e-4)


@needs_weights
def test_a_vector_has_length_1_independent_of_level_and_rate(verifier: SpeakerVerifier) -> None:
    vector = verifier.embed(_sound(3.0), 16000)
    assert vector.shape == (256,) and vector.dtype == np.float32
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(verifier.embed(_sound(3.0) / 50, 16000), vector, atol=1e-4)
    assert verifier.embed(_sound(3.0, rate=48000), 48000) @ vector > 0.99
    assert verifier.embed(_sound(3.0, pitch=220.0), 16000) @ vector < 0.9
    np.testing.assert_array_equal(verifier.embed(_sound(3.0), 16000), vector)


@needs_weights
def test_silence_is_a_vector_too(verifier: SpeakerVerifier) -> None:
    assert np.linalg.norm(verifier.embed(np.zeros(8000), 16000)) == pytest.approx(1, abs=1e-5)


@needs_weights
@pytest.mark.parametrize(
    ("wav", "rate", "message"),
    [
        (np.zeros(0), 16000, r"T at least 1, got \(0,\)"),
        (np.zeros((1, 9)), 16000, r"got \(1, 9\)"),
        (np.array([0.1, np.nan]), 16000, "finite"),
        (np.ones(9), 0, "at least 1 Hz, got 0"),
    ],
)
def test_what_is_no_waveform_is_refused(verifier: SpeakerVerifier, wav, rate: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        verifier.embed(wav, rate)


def test_missing_weights_are_reported_with_the_extra(monkeypatch) -> None:
    monkeypatch.delitem(sys.modules, "resemblyzer", raising=False)
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'vqaudio\[metrics\]'"):
        SpeakerVerifier()


@needs_weights
@pytest.mark.skipif(not DATA.is_dir(), reason=f"{DATA} is absent; set VQAUDIO_DATA to the folder of vctk_mini")
def test_real_speakers_are_distinguished(verifier: SpeakerVerifier) -> None:
    files = [path for name in ("p225", "p226", "p257") for path in sorted((DATA / "wav16" / name).glob("*"))[:3]]
    vectors = np.stack([verifier.embed(read_audio(path, 16000), 16000) for path in files])
    speakers = np.arange(len(files)) // 3
    above = np.triu_indices(len(files), 1)
    same = (speakers[:, None] == speakers)[above]
    assert equal_error_rate((vectors @ vectors.T)[above], same) < 0.1


@pytest.mark.parametrize("digits", [1, 6])  # of the scores: with many ties, and with none
def test_the_error_rate_is_where_the_roc_curve_crosses(digits: int) -> None:
    from scipy.interpolate import interp1d
    from scipy.optimize import brentq
    from sklearn.metrics import roc_curve

    rng = np.random.default_rng(0)
    same = rng.random(200) < 0.2
    scores = np.round(rng.normal(size=200) + same, digits)
    weights = rng.integers(0, 4, size=200)
    accepted, hits, _ = roc_curve(same, scores, sample_weight=weights, drop_intermediate=False)
    expected = brentq(lambda x: 1 - x - interp1d(accepted, hits)(x), 0, 1)
    assert equal_error_rate(scores, same, weights) == pytest.approx(expected, abs=1e-6)
    repeated = equal_error_rate(scores.repeat(weights), same.repeat(weights))
    assert equal_error_rate(scores, same, weights) == pytest.approx(repeated, abs=1e-12)


@pytest.mark.parametrize(
    ("scores", "same", "expected"),
    [
        ([3, 2, 1, 0], [True, True, False, False], 0.0),
        ([0, 1, 2, 3], [True, True, False, False], 1.0),
        ([3, 2, 1, 0], [True, False, True, False], 0.5),
        ([1, 1, 1, 1], [True, False, True, False], 0.5),  # all equal: chance
        ([4, 3, 2, 1, 0, -1], [True, True, False, True, False, False], 1 / 3),
    ],
)
def test_error_rates_by_hand(scores: list[float], same: list[bool], expected: float) -> None:
    assert equal_error_rate(scores, same) == pytest.approx(expected)


def test_trials_of_one_kind_have_no_error_rate() -> None:
    assert np.isnan(equal_error_rate([1, 2], [True, True])) and np.isnan(equal_error_rate([1, 2], [False, False]))
