"""Robustness: how much the codes change when the signal changes and its content does not (gain, noise, ...).

Letters: T samples, N codes.

The edit rate is the Levenshtein distance between the codes of the original and of the changed speech over the number of
the former, both summed over utterances: 0 for equal codes, about 1 for unrelated ones. It is computed on the codes
themselves, which is what a decoder receives, and, with the suffix _merged, on runs of equal codes, as the unit edit
distance of Gat et al. (arXiv 2209.15483), which disregards how long a code lasts.
"""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from vqaudio.metrics.bitrate import merged
from vqaudio.metrics.confidence import Estimate, ratio

Codes = npt.NDArray[np.int64]
Wav = npt.NDArray[np.float32]
SIX_DECIBELS = np.float32(10 ** (6 / 20))
MAX_PEAK = 0.99  # below clipping
PIECE = 60  # seconds: longer utterances are changed and compared in pieces, so that memory does not grow with them
CODECS: dict[str, dict[str, Any]] = {  # for soundfile; compression levels from 0, the best quality, to 1
    "mp3": {"format": "MP3", "subtype": "MPEG_LAYER_III", "bitrate_mode": "VARIABLE", "compression_level": 0.5},
    "opus": {"format": "OGG", "subtype": "OPUS", "compression_level": 0.9},
}


class Change(NamedTuple):
    """Two waveforms whose codes should be the same."""

    before: Wav
    after: Wav
    skipped: int = 0  # first codes of `before` whose samples `after` lacks


def robustness_metrics(
    tokenize: Callable[[Wav], Codes], wavs: Sequence[Wav], *, sample_rate: int, hop: int, seed: int = 0
) -> dict[str, Estimate]:
    """Waveforms (T,) in [-1, 1], and a function from one to its N = ceil(T / hop) codes -> edit rates by name.

    edit_rate_gain_minus6, _gain_plus6: 6 dB softer or louder; where the latter would clip, both signals are scaled
    down. edit_rate_noise_20, _noise_10: white noise at an SNR of so many dB. edit_rate_shift_hop: without the first
    hop, compared with the codes from the second on; _shift_half: without half a hop. edit_rate_resample_8k,
    _resample_44k: resampled to 8 or 44.1 kHz and back. edit_rate_mp3, _opus: coded at about 40 and 30 kbit/s (16 kHz),
    where libsndfile can; `missing_codecs` gives the reason where not. Each also with the suffix _merged. Utterances
    longer than a minute are compared minute by minute.

    Raises ValueError for no waveforms, one that is not longer than a hop, and a number of codes that is not N;
    ModuleNotFoundError without rapidfuzz.
    """
    check_rapidfuzz()
    codecs = sorted(CODECS.keys() - missing_codecs(sample_rate).keys())
    # edits and codes of each utterance
    edits: defaultdict[str, npt.NDArray[np.int64]] = defaultdict(lambda: np.zeros((2, len(wavs)), np.int64))
    for u, wav in enumerate(wavs):
        if wav.ndim != 1 or len(wav) <= hop:
            raise ValueError(f"a waveform must be (T,) with T above {hop}, the hop, got {wav.shape} for utterance {u}")
        generator = np.random.default_rng((seed, u))
        for piece in _pieces(wav, PIECE * sample_rate, hop):
            noise = generator.standard_normal(len(piece), np.float32)
            own = _codes(tokenize, piece, hop)
            for name, change in _changes(piece, noise, sample_rate, hop, codecs).items():
                before = own if change.before is piece else _codes(tokenize, change.before, hop)
                before, after = before[change.skipped :], _codes(tokenize, change.after, hop)
                edits[f"edit_rate_{name}"][:, u] += distance(before, after), len(before)
                before, after = merged(before), merged(after)
                edits[f"edit_rate_{name}_merged"][:, u] += distance(before, after), len(before)
    if not edits:
        raise ValueError("there are no waveforms")
    return {name: ratio(*counts) for name, counts in edits.items()}


def missing_codecs(sample_rate: int) -> dict[str, str]:
    """Codecs (mp3, opus) that libsndfile cannot use at this sample rate -> the reason."""
    import soundfile

    missing = {}
    for name in CODECS:
        try:
            coded(np.zeros(sample_rate // 10, np.float32), sample_rate, name)
        except soundfile.LibsndfileError as error:  # its full text holds a memory address
            missing[name] = f"{name} at {sample_rate} Hz: {error.error_string.removeprefix('Error : ')}"
        except ValueError as error:  # libsndfile was built without this codec
            missing[name] = f"{name} at {sample_rate} Hz: {error}"
    return missing


def coded(wav: Wav, sample_rate: int, name: str) -> Wav:
    """(T,) -> (T,) in [-1, 1] after encoding and decoding, with the delay of the codec removed."""
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, wav, sample_rate, **CODECS[name])
    file.seek(0)
    decoded, _ = soundfile.read(file, dtype="float32")
    return _in_range(aligned(decoded, wav))


def aligned(late: npt.NDArray[Any], wav: Wav) -> Wav:
    """(T',), (T,) -> (T,): the former, shifted by whole samples to the maximum of its correlation with the latter.

    MP3 files without a header with the encoder delay start with it: 1,105 samples and more.
    """
    size = len(late) + len(wav)
    correlation = np.fft.irfft(np.fft.rfft(late, size) * np.fft.rfft(wav, size).conj(), size)
    delay = int(np.argmax(correlation))  # 0 for silence
    if delay >= len(late):  # a negative delay
        late, delay = np.pad(late, (size - delay, 0)), 0
    return _fitted(late[delay:], len(wav))


def distance(before: Codes, after: Codes) -> int:
    """Levenshtein distance: the least number of insertions, deletions and substitutions."""
    from rapidfuzz.distance import Levenshtein

    return Levenshtein.distance(before.tolist(), after.tolist())


def check_rapidfuzz() -> None:
    """Raises ModuleNotFoundError, with what to install, where rapidfuzz is missing."""
    try:
        import rapidfuzz  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("edit distances need rapidfuzz: pip install 'vqaudio[metrics]'") from error


def _pieces(wav: Wav, length: int, hop: int) -> Iterator[Wav]:
    """(T,) -> its consecutive pieces of `length` samples; the last has more than a hop, and may be longer by one."""
    start = 0
    while len(wav) - start > length + hop:
        yield wav[start : start + length]
        start += length
    yield wav[start:]


def _changes(wav: Wav, noise: Wav, sample_rate: int, hop: int, codecs: Iterable[str]) -> dict[str, Change]:
    """(T,), standard normal noise (T,) -> changes by name."""
    level = np.sqrt(np.mean(np.square(wav, dtype=np.float64)))
    room = MAX_PEAK / (SIX_DECIBELS * max(np.abs(wav).max(), 1e-6))
    soft = wav if room >= 1 else wav * np.float32(room)
    changes = {
        "gain_minus6": Change(wav, wav / SIX_DECIBELS),
        "gain_plus6": Change(soft, soft * SIX_DECIBELS),
        "shift_hop": Change(wav, wav[hop:], 1),
        "shift_half": Change(wav, wav[hop // 2 :]),
    }
    for decibels in (20, 10):
        changes[f"noise_{decibels}"] = Change(wav, _in_range(wav + level * 10 ** (-decibels / 20) * noise))
    for name, rate in {"8k": 8000, "44k": 44100}.items():
        changes[f"resample_{name}"] = Change(wav, _resampled_twice(wav, sample_rate, rate))
    return changes | {name: Change(wav, coded(wav, sample_rate, name)) for name in codecs}


def _resampled_twice(wav: Wav, sample_rate: int, rate: int) -> Wav:
    """(T,) -> (T,) in [-1, 1], resampled to another rate and back."""
    import soxr

    back = soxr.resample(soxr.resample(wav, sample_rate, rate), rate, sample_rate)
    return _in_range(_fitted(back, len(wav)))


def _codes(tokenize: Callable[[Wav], Codes], wav: Wav, hop: int) -> Codes:
    codes = np.asarray(tokenize(wav))
    expected = -(-len(wav) // hop)
    if codes.shape != (expected,):
        raise ValueError(f"{len(wav)} samples with a hop of {hop} make {expected} codes, got {codes.shape}")
    return codes


def _in_range(wav: npt.NDArray[Any]) -> Wav:
    return np.clip(wav, -1, 1).astype(np.float32)


def _fitted(wav: npt.NDArray[Any], length: int) -> Wav:
    """Cut, or padded with zeros, to `length` samples."""
    return np.pad(wav[:length], (0, max(0, length - len(wav))))
