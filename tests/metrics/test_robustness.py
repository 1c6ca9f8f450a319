"""Edit rates: distances by hand and by the textbook algorithm, tokenizers with known codes, aligned codecs."""

from __future__ import annotations

import io
import sys
from itertools import groupby

import numpy as np
import pytest
import soundfile

from vqaudio.metrics import robustness
from vqaudio.metrics.bitrate import merged
from vqaudio.metrics.confidence import Estimate
from vqaudio.metrics.robustness import aligned, coded, distance, missing_codecs, robustness_metrics

RATE, HOP = 16000, 80
NAMES = ["gain_minus6", "gain_plus6", "shift_hop", "shift_half", "noise_20", "noise_10", "resample_8k", "resample_44k"]
SIX = 10 ** (6 / 20)


def _glide(seed: int = 0, peak: float = 0.4, samples: int = 8040) -> np.ndarray:
    """A harmonic glide with varying level, (T,) float32; the length is a multiple of the hop plus half a hop."""
    time = np.arange(samples) / RATE
    phase = 2 * np.pi * np.cumsum(120 + 40 * np.sin(2 * np.pi * (2 + seed) * time)) / RATE
    wav = np.sum([np.sin(k * phase) / k for k in range(1, 15)], axis=0) * (1.1 + np.sin(2 * np.pi * 3 * time))
    return (peak * wav / np.abs(wav).max()).astype(np.float32)


def _levels(wav: np.ndarray) -> np.ndarray:
    """Codes that only encode the level of each frame, in steps of 6 dB."""
    frames = np.pad(wav, (0, -len(wav) % HOP)).reshape(-1, HOP)
    return np.floor(np.log(np.abs(frames).max(1) + 1e-9) / np.log(SIX)).astype(np.int64)


def _textbook(a: list[int], b: list[int]) -> int:
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return row[-1]


def _decibels(wav: np.ndarray, changed: np.ndarray) -> float:
    return 10 * np.log10(np.mean(wav.astype(float) ** 2) / np.mean((changed.astype(float) - wav) ** 2))


@pytest.mark.parametrize(
    ("a", "b", "edits"),
    [
        ([], [], 0),
        ([1, 2, 3], [], 3),
        ([1, 2, 3], [1, 2, 3], 0),
        ([1, 2, 3], [1, 9, 3], 1),
        ([1, 2, 3, 4], [2, 3, 4, 5], 2),
        ([300, 300, 7], [7, 300], 2),
    ],
)
def test_distances_by_hand(a: list[int], b: list[int], edits: int) -> None:
    assert distance(np.array(a, dtype=np.int64), np.array(b, dtype=np.int64)) == edits == _textbook(a, b)


def test_distances_are_those_of_the_textbook() -> None:
    rng = np.random.default_rng(0)
    for size in (2, 5, 600):
        a, b = rng.integers(size, size=150), rng.integers(size, size=rng.integers(100, 200))
        assert distance(a, b) == _textbook(a.tolist(), b.tolist())


def test_merged_codes_are_those_of_the_runs() -> None:
    codes = np.random.default_rng(0).integers(3, size=200)
    assert merged(codes).tolist() == [code for code, _ in groupby(codes.tolist())]


def test_codes_that_never_change_have_no_edits() -> None:
    wavs = [_glide(seed) for seed in range(3)]
    metrics = robustness_metrics(lambda wav: np.full(-(-len(wav) // HOP), 7), wavs, sample_rate=RATE, hop=HOP)
    names = [*NAMES, *(name for name in ("mp3", "opus") if name not in missing_codecs(RATE))]
    assert list(metrics) == [f"edit_rate_{name}{kind}" for name in names for kind in ("", "_merged")]
    # without half a hop there is one code fewer
    assert metrics.pop("edit_rate_shift_half") == pytest.approx(Estimate(1 / 101, 1 / 101, 1 / 101, 3))
    assert set(metrics.values()) == {Estimate(0, 0, 0, 3)}


def test_edits_are_summed_over_all_utterances() -> None:
    """Where speech is changed its first code is: one edit in 5 and one in 9 codes, one in each single run."""
    wavs = [_glide(samples=5 * HOP), _glide(1, samples=9 * HOP)]

    def tokenize(wav: np.ndarray) -> np.ndarray:
        codes = np.zeros(-(-len(wav) // HOP), dtype=np.int64)
        codes[0] = not any(np.array_equal(wav, own) for own in wavs)
        return codes

    metrics = robustness_metrics(tokenize, wavs, sample_rate=RATE, hop=HOP)
    for name in set(NAMES) - {"shift_hop"}:
        assert metrics[f"edit_rate_{name}"] == pytest.approx(Estimate(2 / 14, 1 / 9, 1 / 5, 2)), name
        assert metrics[f"edit_rate_{name}_merged"] == Estimate(1, 1, 1, 2), name
    assert metrics["edit_rate_shift_hop"].value == 2 / 12


def test_long_utterances_are_compared_in_pieces_of_a_minute() -> None:
    rate, hop = 100, 10
    wav = np.random.default_rng(0).uniform(-0.5, 0.5, 2 * 60 * rate + hop).astype(np.float32)
    lengths: list[int] = []

    def tokenize(wav: np.ndarray) -> np.ndarray:
        lengths.append(len(wav))
        return np.arange(-(-len(wav) // hop))

    metrics = robustness_metrics(tokenize, [wav], sample_rate=rate, hop=hop)
    assert max(lengths) == 60 * rate + hop and lengths.count(60 * rate) > 1
    assert metrics["edit_rate_shift_hop"].value > 0 and metrics["edit_rate_shift_hop"].count == 1


def test_a_tokenizer_that_only_encodes_level() -> None:
    quiet, loud = _glide(0, 0.3), _glide(1, 0.97)  # the latter leaves no room for 6 dB
    metrics = robustness_metrics(_levels, [quiet, loud], sample_rate=RATE, hop=HOP)
    codes = [_levels(wav) for wav in (quiet, loud)]
    softer = sum(distance(own, own - 1) for own in codes) / 202
    assert softer > 0.05
    assert metrics["edit_rate_gain_minus6"].value == pytest.approx(softer)
    turned_down = _levels(loud * np.float32(0.99 / SIX / 0.97))
    louder = (distance(codes[0], codes[0] + 1) + distance(turned_down, turned_down + 1)) / 202
    assert metrics["edit_rate_gain_plus6"].value == pytest.approx(louder)
    half = sum(distance(_levels(wav), _levels(wav[40:])) for wav in (quiet, loud)) / 202
    assert metrics["edit_rate_shift_half"].value == pytest.approx(half) and half > 0
    assert metrics["edit_rate_shift_hop"].value == 0  # frame by frame the same
    merged_softer = sum(distance(merged(own), merged(own) - 1) for own in codes)
    assert metrics["edit_rate_gain_minus6_merged"].value == merged_softer / sum(len(merged(own)) for own in codes)


def test_the_changes_match_their_names() -> None:
    low, inputs = _glide(peak=0.4), []
    wav = low + (0.05 * np.sin(2 * np.pi * 6000 / RATE * np.arange(len(low)))).astype(np.float32)

    def tokenize(changed: np.ndarray) -> np.ndarray:
        inputs.append(changed)
        return _levels(changed)

    robustness_metrics(tokenize, [wav], sample_rate=RATE, hop=HOP)
    changed = dict(
        zip(NAMES, inputs[1:], strict=False)
    )  # nothing clips, so the unchanged utterance is tokenized once, first
    assert np.array_equal(inputs[0], wav)
    assert changed["gain_minus6"] == pytest.approx(wav * 10**-0.3) and changed["gain_plus6"] == pytest.approx(wav * SIX)
    assert np.array_equal(changed["shift_hop"], wav[80:]) and np.array_equal(changed["shift_half"], wav[40:])
    for decibels in (20, 10):
        assert _decibels(wav, changed[f"noise_{decibels}"]) == pytest.approx(decibels, abs=0.2)
    assert _decibels(wav, changed["resample_8k"]) < 15 and _decibels(low, changed["resample_8k"]) > 25  # without 6 kHz
    assert _decibels(wav, changed["resample_44k"]) > 35
    for own in inputs:
        assert own.dtype == np.float32 and np.abs(own).max() <= 1 and len(own) in (8040, 8000, 7960)


@pytest.mark.parametrize("delay", [-700, -1, 0, 1, 1105])
def test_a_delayed_waveform_is_realigned_to_the_sample(delay: int) -> None:
    wav = _glide(seed=2)
    late = np.pad(wav, (max(0, delay), 300))[max(0, -delay) :]
    noisy = late + 0.05 * np.random.default_rng(0).standard_normal(len(late)).astype(np.float32)
    valid = slice(max(0, -delay), None)
    assert np.array_equal(aligned(late, wav)[valid], wav[valid])
    assert np.abs(aligned(noisy, wav)[valid] - wav[valid]).max() < 0.3
    assert not aligned(np.zeros(900, np.float32), wav[:800]).any()


@pytest.mark.parametrize("name", ["mp3", "opus"])
def test_coded_audio_is_aligned(name: str) -> None:
    if name in missing_codecs(RATE):
        pytest.skip(missing_codecs(RATE)[name])
    wav = _glide(seed=1)
    back = coded(wav, RATE, name)
    assert back.shape == wav.shape and back.dtype == np.float32
    assert 10 < _decibels(wav, back) < 45
    assert np.array_equal(back, coded(wav, RATE, name))


def test_the_delay_of_an_mp3_without_a_header_is_removed() -> None:
    if "mp3" in missing_codecs(RATE):
        pytest.skip(missing_codecs(RATE)["mp3"])
    wav, file = _glide(), io.BytesIO()
    soundfile.write(
        file, wav, RATE, format="MP3", subtype="MPEG_LAYER_III", bitrate_mode="CONSTANT", compression_level=0.9
    )
    file.seek(0)
    late, _ = soundfile.read(file, dtype="float32")
    assert len(late) > len(wav) and _decibels(wav, late[: len(wav)]) < 3
    assert _decibels(wav, aligned(late, wav)) > 10


def test_a_coding_that_libsndfile_lacks_is_left_out_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    reason = missing_codecs(11025)["opus"]
    assert reason.startswith("opus at 11025 Hz: ") and "16000" in reason and reason == missing_codecs(11025)["opus"]
    metrics = robustness_metrics(_levels, [_glide()], sample_rate=11025, hop=HOP)
    assert "edit_rate_opus" not in metrics and "edit_rate_resample_44k" in metrics
    monkeypatch.setitem(robustness.CODECS, "mp3", {"format": "MP3", "subtype": "OPUS"})  # rejected by soundfile
    assert set(missing_codecs(11025)) == {"mp3", "opus"}


def test_silence_stays_silent() -> None:
    metrics = robustness_metrics(_levels, [np.zeros(800, np.float32)], sample_rate=RATE, hop=HOP)
    for name in ("gain_minus6", "gain_plus6", "noise_20", "noise_10", "shift_hop", "resample_8k", "resample_44k"):
        assert metrics[f"edit_rate_{name}"] == Estimate(0, 0, 0, 1)


def test_the_same_seed_gives_the_same_metrics() -> None:
    def signs(wav: np.ndarray) -> np.ndarray:
        return (wav[::HOP] > 0).astype(np.int64)

    wavs = [_glide(seed) for seed in range(3)]
    first, again, other = (robustness_metrics(signs, wavs, sample_rate=RATE, hop=HOP, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert {name for name in first if first[name] != other[name]} >= {"edit_rate_noise_10"}
    assert {name for name in first if first[name] != other[name]} <= {
        f"edit_rate_noise_{decibels}{kind}" for decibels in (10, 20) for kind in ("", "_merged")
    }


def test_what_cannot_be_compared_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="there are no waveforms"):
        robustness_metrics(_levels, [], sample_rate=RATE, hop=HOP)
    with pytest.raises(ValueError, match=r"T above 80, the hop, got \(80,\) for utterance 1"):
        robustness_metrics(_levels, [_glide(), _glide(samples=80)], sample_rate=RATE, hop=HOP)
    with pytest.raises(ValueError, match=r"8040 samples with a hop of 40 make 201 codes, got \(101,\)"):
        robustness_metrics(_levels, [_glide()], sample_rate=RATE, hop=40)
    monkeypatch.setitem(sys.modules, "rapidfuzz", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'vqaudio\[metrics\]'"):
        robustness_metrics(_levels, [_glide()], sample_rate=RATE, hop=HOP)
