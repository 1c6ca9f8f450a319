"""Signal metrics: known values, by hand, and against librosa, pesq and pystoi."""

import math
import os
from pathlib import Path

import librosa
import numpy as np
import pesq
import pystoi
import pytest

from vqaudio.data.audio import read_audio
from vqaudio.metrics.pitch import Pitch
from vqaudio.metrics.signal import BANDS, log_mel, mel_cepstral_distortion, pitch_metrics, signal_metrics

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("VQAUDIO_DATA", ROOT / "../shared/data")) / "timit8"
RATE = 16_000


def _tone(hertz: float, seconds: float = 1.0, rate: int = RATE, bend: float = 0.0) -> np.ndarray:
    """Ten harmonics, as in voiced speech; `bend`: depth of a 4 Hz vibrato, in octaves."""
    time = np.arange(round(seconds * rate)) / rate
    phase = 2 * np.pi * np.cumsum(hertz * 2 ** (bend * np.sin(8 * np.pi * time))) / rate
    return np.sum([0.1 * np.sin(k * phase) / k for k in range(1, 11)], axis=0).astype(np.float32)


def _noise(seconds: float, seed: int = 0, level: float = 0.1) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, level, round(seconds * RATE)).astype(np.float32)


@pytest.fixture(scope="module")
def speech() -> list[np.ndarray]:
    if not DATA.is_dir():
        pytest.skip(f"{DATA} is absent; set VQAUDIO_DATA to the folder that holds timit8")
    return [read_audio(path, RATE) for path in sorted(DATA.glob("wav16/*/*_001.flac"))[:3]]


def _values(originals: list[np.ndarray], others: list[np.ndarray], rate: int = RATE) -> dict[str, float]:
    return {name: estimate.value for name, estimate in signal_metrics(originals, others, rate).items()}


# --- known values ---


@pytest.mark.data
def test_identical_signals_have_ideal_metrics(speech: list[np.ndarray]) -> None:
    metrics = _values(speech, speech)
    for name in ("mcd", "log_mel_distance", "f0_rmse", "gross_pitch_error", "voicing_error", "level_difference"):
        assert metrics[name] == 0, name
    for name in ("f0_correlation", "stoi", "estoi"):
        assert metrics[name] == pytest.approx(1, abs=1e-6), name
    assert metrics["pesq"] == pytest.approx(4.644, abs=1e-3)  # the end of its scale
    assert 0.2 < metrics["voiced_fraction"] == metrics["voiced_fraction_original"] < 0.8


@pytest.mark.data
def test_softer_speech_differs_by_its_level_alone(speech: list[np.ndarray]) -> None:
    metrics = _values(speech, [wav / 2 for wav in speech])
    expected = 20 * math.log10(2)
    assert metrics["level_difference"] == pytest.approx(-expected)
    assert metrics["log_mel_distance"] == pytest.approx(expected, abs=0.02)  # but for bands below the floor
    assert metrics["mcd"] == pytest.approx(0, abs=0.1)
    assert metrics["f0_rmse"] == metrics["voicing_error"] == 0
    assert metrics["stoi"] == pytest.approx(1, abs=1e-6) and metrics["pesq"] == pytest.approx(4.644, abs=1e-3)


def test_an_octave_up_is_1200_cents_and_a_gross_error_in_every_frame() -> None:
    inner = slice(800, -800)  # without the edges, where frames reach beyond the tone
    metrics = _values([_tone(110, bend=0.1)[inner]], [_tone(220, bend=0.1)[inner]])
    assert metrics["f0_rmse"] == pytest.approx(1200, abs=10)
    assert metrics["gross_pitch_error"] == 1 and metrics["voicing_error"] < 0.05
    assert metrics["f0_correlation"] == pytest.approx(1, abs=0.01)
    assert metrics["voiced_fraction_original"] > 0.95 and metrics["mcd"] > 1


def test_opposite_f0_contours_correlate_negatively() -> None:
    metrics = _values([_tone(150, bend=0.1)], [_tone(150, bend=-0.1)])
    assert metrics["f0_correlation"] == pytest.approx(-1, abs=0.01)
    swing = 240 * math.sqrt(1 / 2)  # twice 120 cents up and down: the root mean square of a sine
    assert metrics["f0_rmse"] == pytest.approx(swing, rel=0.03)


def test_the_range_of_pitch_does_not_change_its_correlation() -> None:
    """A voice with another range follows the same contour, by another factor in each utterance."""
    originals, others = [_tone(110, bend=0.1), _tone(200, bend=0.02)], [_tone(150, bend=0.03), _tone(120, bend=0.1)]
    assert _values(originals, others)["f0_correlation"] == pytest.approx(1, abs=0.01)


def test_correlations_of_pitch_are_weighted_by_the_frames_that_have_one(monkeypatch: pytest.MonkeyPatch) -> None:
    same, opposite = (_tone(150, bend=0.1), _tone(150, bend=0.1)), (_tone(150, 3, bend=0.1), _tone(150, 3, bend=-0.1))
    unvoiced = _tone(150, 2, bend=0.1), _noise(2)
    originals, others = (list(wavs) for wavs in zip(same, opposite, unvoiced, strict=True))
    assert _values(originals, others)["f0_correlation"] == pytest.approx((1 - 3) / 4, abs=0.03)
    constant = Pitch(np.full(100, 123.4), np.ones(100, bool))
    monkeypatch.setattr("vqaudio.metrics.signal.pitch", lambda wav, rate: constant)
    assert math.isnan(pitch_metrics([same[0]], [same[1]], RATE)["f0_correlation"].value)


def test_pitch_metrics_are_those_of_all_metrics() -> None:
    originals = [_tone(110, bend=0.1), _tone(150), np.concatenate([_tone(130), _noise(1)])]
    others = [_tone(220, bend=0.1), _tone(150, bend=-0.1), np.concatenate([_tone(140), _tone(120)])]
    found = pitch_metrics(originals, others, RATE)
    assert set(found) == {"f0_correlation", "voicing_error", "voiced_fraction", "voiced_fraction_original"}
    expected = signal_metrics(originals, others, RATE)
    assert found == {name: expected[name] for name in found} and 0.1 < found["voicing_error"].value < 0.4
    with pytest.raises(ValueError, match="3 originals and 2 others"):
        pitch_metrics(originals, others[:2], RATE)


def test_different_mean_pitch_does_not_correlate() -> None:
    """Two signals with constant F0 and independent noise are uncorrelated about their means."""
    low = [_tone(100) + _noise(1, seed, 0.03) for seed in (0, 1)]
    high = [_tone(200) + _noise(1, seed, 0.03) for seed in (2, 3)]
    assert abs(_values([low[0], high[0]], [low[1], high[1]])["f0_correlation"]) < 0.4


def test_noise_has_no_voiced_frames() -> None:
    metrics = _values([_tone(120)], [_noise(1)])
    assert metrics["voiced_fraction_original"] > 0.95 and metrics["voiced_fraction"] < 0.05
    assert metrics["voicing_error"] > 0.9


def test_silence_has_no_pitch_level_pesq_or_stoi() -> None:
    silence, left_out = np.zeros(RATE, np.float32), []
    metrics = signal_metrics([silence], [silence], RATE, left_out=left_out)
    assert metrics["mcd"].value == metrics["log_mel_distance"].value == metrics["voiced_fraction"].value == 0
    for name in ("f0_rmse", "f0_correlation", "gross_pitch_error", "level_difference", "pesq", "stoi", "estoi"):
        assert math.isnan(metrics[name].value), name
    assert metrics["pesq"].count == 0 and metrics["mcd"].count == 1
    assert left_out[0] == "utterance 0 has no level_difference: the original is silent" and len(left_out) == 4


def test_pairs_with_undefined_metrics_are_named_and_not_counted() -> None:
    """PESQ needs a quarter of a second, STOI about 0.4 s; for tones of a second both are defined."""
    originals = [_tone(110), _noise(0.2), _tone(130)]
    left_out: list[str] = []
    metrics = signal_metrics(originals, originals, RATE, names=["a", "b", "c"], left_out=left_out)
    assert metrics["pesq"].count == metrics["stoi"].count == 2 and metrics["mcd"].count == 3
    assert [sentence.split(":")[0] for sentence in left_out] == [
        f"utterance b has no {n}" for n in ("pesq", "stoi", "estoi")
    ]
    assert "buffer" in left_out[0].lower() and "frames" in left_out[1]
    with pytest.warns(UserWarning, match="utterance 0 has no (pesq|stoi|estoi): ") as warned:
        signal_metrics([_noise(0.2)], [_noise(0.2)], RATE)
    assert len(warned) == 3


# --- independent libraries ---


@pytest.mark.data
def test_pesq_and_stoi_are_those_of_their_packages(speech: list[np.ndarray]) -> None:
    others = [wav + _noise(len(wav) / RATE, 1, 0.005) for wav in speech]
    metrics = _values(speech, others)
    pairs = list(zip(speech, others, strict=True))
    assert metrics["pesq"] == pytest.approx(np.mean([pesq.pesq(RATE, a, b, "wb") for a, b in pairs]), abs=1e-5)
    assert metrics["stoi"] == pytest.approx(np.mean([pystoi.stoi(a, b, RATE) for a, b in pairs]), abs=1e-5)
    extended = np.mean([pystoi.stoi(a, b, RATE, extended=True) for a, b in pairs])
    assert metrics["estoi"] == pytest.approx(extended, abs=1e-5)


def test_the_mel_spectrum_is_that_of_librosa() -> None:
    wav = _tone(110)
    power = librosa.feature.melspectrogram(y=wav, sr=RATE, n_fft=512, win_length=400, hop_length=160, n_mels=80)
    assert log_mel(wav, RATE) == pytest.approx(librosa.power_to_db(power.T, amin=1e-9, top_db=None), abs=1e-3)


# --- mel-cepstral distortion by hand ---


def _ripple(order: int, decibels: float) -> np.ndarray:
    """(B,): a cosine over the bands."""
    return decibels * np.cos(np.pi * order * (np.arange(BANDS) + 0.5) / BANDS)


@pytest.mark.parametrize(("order", "share"), [(0, 0), (1, 1), (13, 1), (14, 0)])
def test_mcd_of_a_spectral_ripple_by_hand(order: int, share: float) -> None:
    """The root mean square of a cosine of 6 dB; none of the level (order 0), nor of finer ripples than the 13th."""
    spectrum = np.random.default_rng(0).normal(size=(5, BANDS))
    distance, length = mel_cepstral_distortion(spectrum, spectrum + _ripple(order, 6.0))
    assert length == 5
    assert distance / length == pytest.approx(share * 6 / math.sqrt(2), abs=1e-6)


def test_time_is_warped() -> None:
    """Frames that last longer cost nothing; the path has a step for each of them."""
    spectrum = np.random.default_rng(0).normal(size=(6, BANDS)) * 10
    distance, length = mel_cepstral_distortion(spectrum, spectrum.repeat([1, 3, 1, 2, 1, 1], axis=0))
    assert distance == pytest.approx(0, abs=1e-6) and length == 9


# --- at the door ---


def test_the_same_pairs_give_the_same_metrics() -> None:
    pairs = [_tone(110), _tone(150)], [_tone(112)[:-60], _tone(140)]
    first = signal_metrics(*pairs, RATE)
    assert first == signal_metrics(*pairs, RATE)
    assert first["mcd"].low < first["mcd"].value < first["mcd"].high


def test_another_sample_rate_gives_similar_metrics() -> None:
    """24 kHz shows PESQ the same band, and mel bands up to 12 kHz."""
    slow, fast = (_values([_tone(110, rate=r)], [_tone(120, rate=r)], r) for r in (16_000, 24_000))
    assert fast["f0_rmse"] == pytest.approx(slow["f0_rmse"], abs=2)
    assert fast["pesq"] == pytest.approx(slow["pesq"], abs=0.1)


@pytest.mark.parametrize(
    ("originals", "others", "message"),
    [
        ([], [], "0 originals and 0 others"),
        ([_noise(1)], [], "1 originals and 0 others"),
        ([_noise(0.05)], [_noise(0.05)], "pair 0 has 800 and 800 samples"),
        ([_noise(1), _noise(1)], [_noise(1), _noise(1.2)], "pair 1 has 16000 and 19200"),
        ([_noise(1)[None]], [_noise(1)], "pair 0 is not mono"),
        ([_noise(1)], [_noise(1) * np.float32(np.inf)], "pair 0 is not mono audio .* finite"),
    ],
)
def test_what_is_no_pair_is_refused(originals: list[np.ndarray], others: list[np.ndarray], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        signal_metrics(originals, others, RATE)


def test_names_are_as_many_as_pairs() -> None:
    with pytest.raises(ValueError, match="1 pairs have 2 names"):
        signal_metrics([_noise(1)], [_noise(1)], RATE, names=["a", "b"])
