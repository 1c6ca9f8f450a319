"""Do the codes stay the same when the speech does? Edits per code after changes that a listener hardly minds.

Letters: T samples, N codes.

How much codes change is the least number of codes to put in, take out or exchange (Levenshtein's distance) that makes
those of the changed speech from those of the speech itself, over the number of the latter, both summed over all
utterances: 0 where nothing changes, and about 1 where nothing stays. It is told twice: of the codes as they are, which
is what a decoder gets, and, in the figures that end in _merged, of runs, each run of one code taken for one: after the
unit edit distance of Gat et al. (Augmentation invariant discrete representation for generative spoken language
modeling, arXiv 2209.15483), which has no regard for how long a code stays.
"""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from vqaudio.metrics.bitrate import merged
from vqaudio.metrics.confidence import Estimate, ratio

Codes = npt.NDArray[np.int64]
Wav = npt.NDArray[np.float32]
SIX_DECIBELS = np.float32(10 ** (6 / 20))
LOUDEST = 0.99  # a peak that is not clipped yet
CODECS: dict[str, dict[str, Any]] = {  # for soundfile; levels run from 0, the best, to 1
    "mp3": {"format": "MP3", "subtype": "MPEG_LAYER_III", "bitrate_mode": "VARIABLE", "compression_level": 0.5},
    "opus": {"format": "OGG", "subtype": "OPUS", "compression_level": 0.9},
}


class Change(NamedTuple):
    """Two waveforms whose codes should be the same."""

    before: Wav
    after: Wav
    skipped: int = 0  # codes of `before` that stand for what `after` lacks


def robustness_metrics(
    tokenize: Callable[[Wav], Codes], wavs: Sequence[Wav], *, sample_rate: int, hop: int, seed: int = 0
) -> dict[str, Estimate]:
    """Waveforms (T,) in [-1, 1], and what makes N = ceil(T / hop) codes of one -> edits per code, by names.

    edit_rate_gain_minus6, _gain_plus6: 6 dB softer or louder; where the latter would clip, both are turned down.
    edit_rate_noise_20, _noise_10: white noise so many dB below the utterance. edit_rate_shift_hop: without the first
    hop, against the codes from the second on; _shift_half: without half a hop. edit_rate_resample_8k, _resample_44k: at
    8 or 44.1 kHz and back. edit_rate_mp3, _opus: coded at about 40 and 30 kbit/s (16 kHz), where libsndfile can;
    `missing_codecs` tells why there is no figure. Each of them also with _merged behind.

    Raises ValueError for no waveforms, one that is not longer than a hop, and a number of codes that is not N;
    ModuleNotFoundError without rapidfuzz.
    """
    check_rapidfuzz()
    codecs = sorted(CODECS.keys() - missing_codecs(sample_rate).keys())
    edits: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)  # of each utterance, and its codes
    for u, wav in enumerate(wavs):
        if wav.ndim != 1 or len(wav) <= hop:
            raise ValueError(f"a waveform must be (T,) with T above {hop}, the hop, got {wav.shape} for utterance {u}")
        noise = np.random.default_rng((seed, u)).standard_normal(len(wav), np.float32)
        own = _codes(tokenize, wav, hop)
        for name, change in _changes(wav, noise, sample_rate, hop, codecs).items():
            before = own if change.before is wav else _codes(tokenize, change.before, hop)
            before, after = before[change.skipped :], _codes(tokenize, change.after, hop)
            edits[f"edit_rate_{name}"].append((distance(before, after), len(before)))
            before, after = merged(before), merged(after)
            edits[f"edit_rate_{name}_merged"].append((distance(before, after), len(before)))
    if not edits:
        raise ValueError("there are no waveforms")
    return {name: ratio(*zip(*counts, strict=True)) for name, counts in edits.items()}


def missing_codecs(sample_rate: int) -> dict[str, str]:
    """Names of the codecs (mp3, opus) that have no figures at this rate, and why."""
    import soundfile

    missing = {}
    for name in CODECS:
        try:
            coded(np.zeros(sample_rate // 10, np.float32), sample_rate, name)
        except soundfile.LibsndfileError as error:  # whose full text names an address in memory
            missing[name] = f"{name} at {sample_rate} Hz: {error.error_string.removeprefix('Error : ')}"
        except ValueError as error:  # a libsndfile that was built without it
            missing[name] = f"{name} at {sample_rate} Hz: {error}"
    return missing


def coded(wav: Wav, sample_rate: int, name: str) -> Wav:
    """(T,) -> (T,) in [-1, 1], as it comes back from a coding; what it comes too late is taken away."""
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, wav, sample_rate, **CODECS[name])
    file.seek(0)
    decoded, _ = soundfile.read(file, dtype="float32")
    return _in_range(aligned(decoded, wav))


def aligned(late: npt.NDArray[Any], wav: Wav) -> Wav:
    """(T',), (T,) -> (T,): the former, moved by whole samples to where its correlation with the latter is greatest.

    MP3 files without a header that tells it start with what their coder held back, 1,105 samples and more.
    """
    size = len(late) + len(wav)
    correlation = np.fft.irfft(np.fft.rfft(late, size) * np.fft.rfft(wav, size).conj(), size)
    delay = int(np.argmax(correlation))  # 0 for silence
    if delay >= len(late):  # it comes early
        late, delay = np.pad(late, (size - delay, 0)), 0
    return _fitted(late[delay:], len(wav))


def distance(before: Codes, after: Codes) -> int:
    """Levenshtein's: the least number of codes to put in, take out or exchange."""
    from rapidfuzz.distance import Levenshtein

    return Levenshtein.distance(before.tolist(), after.tolist())


def check_rapidfuzz() -> None:
    """Raises ModuleNotFoundError, with what to install, where edits cannot be counted."""
    try:
        import rapidfuzz  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("edits are counted with rapidfuzz: pip install 'vqaudio[metrics]'") from error


def _changes(wav: Wav, noise: Wav, sample_rate: int, hop: int, codecs: Iterable[str]) -> dict[str, Change]:
    """(T,), standard normal noise (T,) -> the changes by their names."""
    level = np.sqrt(np.mean(np.square(wav, dtype=np.float64)))
    room = LOUDEST / (SIX_DECIBELS * max(np.abs(wav).max(), 1e-6))
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
        changes[f"resample_{name}"] = Change(wav, _there_and_back(wav, sample_rate, rate))
    return changes | {name: Change(wav, coded(wav, sample_rate, name)) for name in codecs}


def _there_and_back(wav: Wav, sample_rate: int, rate: int) -> Wav:
    """(T,) -> (T,) in [-1, 1], as it comes back from another rate."""
    import soxr

    back = soxr.resample(soxr.resample(wav, sample_rate, rate), rate, sample_rate)
    return _in_range(_fitted(back, len(wav)))


def _codes(tokenize: Callable[[Wav], Codes], wav: Wav, hop: int) -> Codes:
    codes = np.asarray(tokenize(wav))
    expected = -(-len(wav) // hop)
    if codes.shape != (expected,):
        raise ValueError(f"{len(wav)} samples at {hop} samples per code make {expected} codes, got {codes.shape}")
    return codes


def _in_range(wav: npt.NDArray[Any]) -> Wav:
    return np.clip(wav, -1, 1).astype(np.float32)


def _fitted(wav: npt.NDArray[Any], length: int) -> Wav:
    """Its first samples, and silence where it has fewer."""
    return np.pad(wav[:length], (0, max(0, length - len(wav))))
