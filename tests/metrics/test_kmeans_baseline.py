"""The baselines: frames where the tokenizer has them, features against NumPy, nearest centres against scikit-learn."""

from __future__ import annotations

import librosa
import numpy as np
import pytest
from sklearn.metrics import pairwise_distances_argmin

from vqaudio.metrics.kmeans_baseline import FLOOR, KMeansTokenizer, random_codes, spectral_features

RATE, HOP = 16000, 64


def _tones(hertz: list[float], seconds: float = 0.2, seed: int = 0) -> np.ndarray:
    """One tone after the other in a little noise, (T,) float32."""
    time = np.arange(int(seconds * RATE)) / RATE
    wav = np.concatenate([0.3 * np.sin(2 * np.pi * f * time) for f in hertz])
    return (wav + 1e-3 * np.random.default_rng(seed).standard_normal(len(wav))).astype(np.float32)


@pytest.fixture(scope="module")
def units() -> KMeansTokenizer:
    wavs = [_tones([300, 1000, 3000], seed=s) for s in range(4)]
    return KMeansTokenizer.fit(wavs, sample_rate=RATE, hop=HOP, codes=8)


@pytest.mark.parametrize("kind", ["log_mel", "mfcc"])
@pytest.mark.parametrize(
    ("hop", "samples"), [(64, 1), (64, 64), (64, 65), (64, 6400), (640, 1), (640, 641), (512, 7000)]
)
def test_a_frame_for_each_hop_begun(kind, hop: int, samples: int) -> None:
    wav = _tones([500], seconds=0.5)[:samples]
    features = spectral_features(wav, RATE, hop, kind)
    assert features.shape == (-(-samples // hop), 40 if kind == "log_mel" else 39)
    assert features.dtype == np.float32 and np.isfinite(features).all()


@pytest.mark.parametrize("hop", [64, 128, 512, 640])
def test_frames_are_centred_on_the_tokenizers(hop: int) -> None:
    """A click is loudest in the frame in whose middle it is, and as loud in the one before as in the one after."""
    for n in (0, 3, 9):
        wav = np.zeros(10 * hop, np.float32)
        wav[n * hop + hop // 2] = 0.9
        level = np.exp(spectral_features(wav, RATE, hop, "log_mel")).sum(1)
        assert level.argmax() == n
        if 0 < n < 9:
            assert level[n - 1] == pytest.approx(level[n + 1], rel=1e-3)
    assert spectral_features(np.zeros(10 * hop, np.float32), RATE, hop, "log_mel") == pytest.approx(np.log(FLOOR))


def test_log_mel_of_one_frame_by_hand() -> None:
    wav = _tones([440, 2000])
    n = 20
    middle = n * HOP + HOP // 2
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    power = np.abs(np.fft.rfft(wav[middle - 200 : middle + 200] * window, 512)) ** 2
    expected = np.log(librosa.filters.mel(sr=RATE, n_fft=512, n_mels=40) @ power)
    assert spectral_features(wav, RATE, HOP, "log_mel")[n] == pytest.approx(expected, abs=1e-3)


def test_mfcc_are_cepstra_and_their_slopes() -> None:
    wav = _tones([440, 2000, 700])
    log_mel, mfcc = (spectral_features(wav, RATE, HOP, kind) for kind in ("log_mel", "mfcc"))
    basis = np.cos(np.pi * np.arange(13)[:, None] * (np.arange(40) + 0.5) / 40) * np.sqrt(2 / 40)
    basis[0] /= np.sqrt(2)
    assert mfcc[:, :13] == pytest.approx(log_mel @ basis.T, abs=1e-3)
    offsets = np.arange(-4, 5)
    slope = (offsets @ mfcc[30 - 4 : 30 + 5, :13]) / (offsets @ offsets)  # of the line of least squares
    assert mfcc[30, 13:26] == pytest.approx(slope, abs=1e-3)


def test_codes_are_the_nearest_centres(units: KMeansTokenizer) -> None:
    wav = _tones([300, 3000, 1000], seed=9)
    codes = units.encode(wav)
    assert codes.shape == (-(-len(wav) // HOP),) and codes.dtype == np.int64
    assert codes.tolist() == pairwise_distances_argmin(units.features(wav), units.vectors).tolist()
    assert units.vectors.shape == (8, 40) and 0 <= codes.min() <= codes.max() < 8


def test_sounds_have_codes_of_their_own(units: KMeansTokenizer) -> None:
    codes = units.encode(_tones([300, 3000, 300], seed=9))
    frames = len(codes) // 3
    inside = [set(codes[i * frames + 8 : (i + 1) * frames - 8].tolist()) for i in range(3)]
    assert inside[0] == inside[2] and not inside[0] & inside[1]


def test_centres_are_means_of_their_frames() -> None:
    wav = _tones([300, 1000, 3000])
    units = KMeansTokenizer.fit([wav], sample_rate=RATE, hop=HOP, codes=3)
    rows, codes = units.features(wav), units.encode(wav)
    assert rows.mean(0) == pytest.approx(0, abs=1e-3) and rows.std(0) == pytest.approx(1, abs=1e-3)
    assert sorted(set(codes.tolist())) == [0, 1, 2]
    for k in range(3):
        assert units.vectors[k] == pytest.approx(rows[codes == k].mean(0), abs=0.02)


def test_the_same_waveforms_and_seed_give_the_same_centres(units: KMeansTokenizer) -> None:
    wavs = [_tones([300, 1000, 3000], seed=s) for s in range(4)]
    again = KMeansTokenizer.fit(wavs, sample_rate=RATE, hop=HOP, codes=8)
    assert np.array_equal(again.vectors, units.vectors) and np.array_equal(again.scale, units.scale)
    fewer = [KMeansTokenizer.fit(wavs, sample_rate=RATE, hop=HOP, codes=8, max_frames=50, seed=s) for s in (0, 0, 1)]
    assert np.array_equal(fewer[0].vectors, fewer[1].vectors)
    assert not np.array_equal(fewer[0].vectors, fewer[2].vectors)


def test_one_code_names_everything_and_silence_is_a_sound() -> None:
    one = KMeansTokenizer.fit([_tones([300])], sample_rate=RATE, hop=HOP, codes=1, features="mfcc")
    assert not one.encode(_tones([4000])).any()
    silence = KMeansTokenizer.fit([np.zeros(640, np.float32)], sample_rate=RATE, hop=HOP, codes=1)
    assert np.isfinite(silence.vectors).all() and silence.encode(np.zeros(640, np.float32)).tolist() == [0] * 10


def test_random_codes_are_as_many_and_equally_likely() -> None:
    like = [np.zeros(n, dtype=np.int64) for n in (4000, 1, 6000)]
    codes = random_codes(like, 10, seed=1)
    assert [len(own) for own in codes] == [4000, 1, 6000]
    counts = np.bincount(np.concatenate(codes), minlength=10)
    assert len(counts) == 10 and abs(counts - 1000).max() < 4 * np.sqrt(900)
    assert all(np.array_equal(a, b) for a, b in zip(codes, random_codes(like, 10, seed=1), strict=True))
    assert not np.array_equal(codes[0], random_codes(like, 10, seed=2)[0])


def test_invalid_training_data_is_refused(units: KMeansTokenizer) -> None:
    with pytest.raises(ValueError, match="got 20 for 10 frames"):
        KMeansTokenizer.fit([np.ones(640, np.float32)], sample_rate=RATE, hop=HOP, codes=20)
    with pytest.raises(ValueError, match="features must be one of log_mel, mfcc, got 'plp'"):
        KMeansTokenizer.fit([np.ones(640)], sample_rate=RATE, hop=HOP, codes=2, features="plp")  # pyright: ignore
    for wav in (np.zeros(0), np.zeros((2, 5)), np.array([0.0, np.nan])):
        with pytest.raises(ValueError, match=r"a waveform must be \(T,\)"):
            units.encode(wav.astype(np.float32))
