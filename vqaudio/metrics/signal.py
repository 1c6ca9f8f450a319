"""Signal metrics: distances of spectra and F0, PESQ and STOI between decoded audio and the original.

A decoder that samples generates a new waveform, which should sound like the original but does not coincide with it. MCD
compares spectral shapes after time warping and penalises this least; PESQ and STOI compare the signals in time, and can
be low for good speech.

Letters: T samples, N frames of 10 ms, B mel bands, U pairs.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from torch import from_numpy

from vqaudio.data.audio import resampled
from vqaudio.metrics.confidence import Estimate, mean, ratio
from vqaudio.metrics.pitch import FRAME, check_tracker, pitch

Wav = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
WINDOW, BANDS = 0.025, 80  # seconds; mel bands from 0 Hz to half the sample rate
FLOOR = 1e-9  # of the power of a band: about the quantization noise of 16 bits
CEPSTRA = 13  # without the 0th coefficient, the level
DECIBELS = 10 / math.log(10)
SHORTEST, MISMATCH = 0.1, 0.1  # seconds: least duration of a pair, and largest difference of its durations
GROSS = 0.2  # relative F0 error above which it is a gross pitch error
CONSTANT = 0.1  # cents: F0 with a smaller standard deviation is constant, and correlates with nothing
PESQ_RATE = 16_000
FRAME_METRICS = {  # metric: sums over frames, and of frames
    "mcd": ("distance", "path"),
    "log_mel_distance": ("log_mel", "frames"),
    "voicing_error": ("decisions", "frames"),
    "gross_pitch_error": ("gross", "both"),
    "voiced_fraction_original": ("voiced", "frames"),
    "voiced_fraction": ("voiced_other", "frames"),
    "f0_correlation": ("correlation", "correlated"),
}
OF_PITCH = ("voicing_error", "voiced_fraction_original", "voiced_fraction", "f0_correlation")
PAIR_METRICS = ("level_difference", "pesq", "stoi", "estoi")


def signal_metrics(
    originals: Sequence[Wav],
    others: Sequence[Wav],
    sample_rate: int,
    *,
    names: Sequence[str] | None = None,
    left_out: list[str] | None = None,
) -> dict[str, Estimate]:
    """Pairs of (T,), original and decoded -> metrics, with intervals over pairs.

    mcd                     dB, mel-cepstral distortion after dynamic time warping (`mel_cepstral_distortion`)
    log_mel_distance        dB, root of the mean square over mel bands, frame by frame
    f0_correlation          Pearson correlation of F0 in cents within each pair whose F0 is not constant; mean over
                            pairs, weighted by the frames voiced in both
    f0_rmse                 cents
    gross_pitch_error       fraction of the frames voiced in both whose F0 differs by more than 20 %
    voicing_error           fraction of all frames that are voiced in one only
    voiced_fraction, _original fraction of voiced frames in the decoded audio, and in the original
    level_difference        dB, of the decoded audio relative to the original
    pesq, stoi, estoi       wide-band PESQ (MOS-LQO), STOI and extended STOI

    F0 metrics use the frames voiced in both. A pair whose PESQ, STOI or level is undefined is left out of that metric,
    as its count shows, and a sentence with its name (or number) is appended to `left_out`; without that list it is a
    warning. A metric without any pair is NaN. Raises ValueError for no pairs, lists of different lengths, audio that is
    not (T,) or not finite, shorter than 0.1 s, or longer than its partner by more than 0.1 s; ModuleNotFoundError
    without pesq, pystoi, swift-f0 and torchmetrics.
    """
    pairs = _pairs(originals, others, sample_rate)
    names = [str(u) for u in range(len(originals))] if names is None else names
    if len(names) != len(originals):
        raise ValueError(f"{len(originals)} pairs have {len(names)} names; give as many of both")
    found: list[dict[str, float]] = []
    whole: dict[str, list[float]] = {name: [] for name in PAIR_METRICS}
    for name, pair in zip(names, pairs, strict=True):
        found.append(_of_frames(*pair, sample_rate))
        for key, value in _of_whole(*pair, sample_rate).items():
            if isinstance(value, float):
                whole[key].append(value)
            else:
                _report(f"utterance {name} has no {key}: {value}", left_out)
    metrics = {name: _ratio(found, *sums) for name, sums in FRAME_METRICS.items()}
    squares = _ratio(found, "error", "both")
    metrics["f0_rmse"] = squares._replace(**{end: math.sqrt(getattr(squares, end)) for end in ("value", "low", "high")})
    nothing = Estimate(math.nan, math.nan, math.nan, 0)
    return metrics | {name: mean(values) if values else nothing for name, values in whole.items()}


def pitch_metrics(originals: Sequence[Wav], others: Sequence[Wav], sample_rate: int) -> dict[str, Estimate]:
    """Those of `signal_metrics` that compare only F0 and voicing, for conversions.

    f0_correlation, voicing_error, voiced_fraction and voiced_fraction_original; the arguments and errors are those of
    `signal_metrics`.
    """
    found = [_of_pitch(*pair, sample_rate) for pair in _pairs(originals, others, sample_rate)]
    return {name: _ratio(found, *FRAME_METRICS[name]) for name in OF_PITCH}


def mel_cepstral_distortion(original: Floats, other: Floats) -> tuple[float, int]:
    """Log-mel powers (N, B) and (N', B) in dB -> the sum of distances along the best DTW path, and its length.

    A frame is smoothed to CEPSTRA cosines over the bands: c_m = 2 / B sum_b L_b cos(pi m (b + 1/2) / B), L natural
    logarithms of amplitudes. The distance of two frames, 10 sqrt(2) / ln 10 |c - c'| (Kubichek, 1993), is the root mean
    square difference of two such smooth spectra in dB, without their levels. Steps of the path (librosa's) advance by
    one frame in either or both, with equal weights.
    """
    import librosa

    count = original.shape[1]
    angles = np.pi * np.outer(np.arange(1, CEPSTRA + 1), np.arange(count) + 0.5) / count
    cosines = 2 / count * np.cos(angles) / (2 * DECIBELS)  # from dB to the logarithm of the amplitude
    sums, path = librosa.sequence.dtw(cosines @ original.T, cosines @ other.T)
    return math.sqrt(2) * DECIBELS * float(sums[-1, -1]), len(path)


def log_mel(wav: Wav, sample_rate: int) -> Floats:
    """(T,) -> (N, B) in dB, of windows of 25 ms every 10 ms."""
    import librosa

    window = round(WINDOW * sample_rate)
    power = librosa.feature.melspectrogram(
        y=wav.astype(np.float64),
        sr=sample_rate,
        n_fft=2 ** math.ceil(math.log2(window)),
        win_length=window,
        hop_length=round(FRAME * sample_rate),
        n_mels=BANDS,
    )
    return 10 * np.log10(np.maximum(power.T, FLOOR))


def _pairs(originals: Sequence[Wav], others: Sequence[Wav], sample_rate: int) -> list[tuple[Wav, Wav]]:
    """Checked pairs, the longer of each cut to the length of its partner."""
    check_packages()
    _check(originals, others, sample_rate)
    lengths = [min(map(len, pair)) for pair in zip(originals, others, strict=True)]
    return [(a[:length], b[:length]) for a, b, length in zip(originals, others, lengths, strict=True)]


def _check(originals: Sequence[Wav], others: Sequence[Wav], sample_rate: int) -> None:
    if len(originals) != len(others) or not originals:
        raise ValueError(f"{len(originals)} originals and {len(others)} others; give as many of both, 1 or more")
    for number, pair in enumerate(zip(originals, others, strict=True)):
        if any(wav.ndim != 1 or not np.isfinite(wav).all() for wav in pair):
            raise ValueError(f"pair {number} is not mono audio (T,) of finite samples: {[wav.shape for wav in pair]}")
        lengths = sorted(len(wav) for wav in pair)
        if lengths[0] < SHORTEST * sample_rate or lengths[1] - lengths[0] > MISMATCH * sample_rate:
            raise ValueError(
                f"pair {number} has {len(pair[0])} and {len(pair[1])} samples; give at least {SHORTEST} s, "
                f"and durations that are equal to within {MISMATCH} s"
            )


def _of_frames(original: Wav, other: Wav, sample_rate: int) -> dict[str, float]:
    """Sums over the frames of a pair, by the names in FRAME_METRICS; error: of F0, in cents squared."""
    sums = _of_pitch(original, other, sample_rate)
    spectra = log_mel(original, sample_rate), log_mel(other, sample_rate)
    sums["distance"], sums["path"] = mel_cepstral_distortion(*spectra)
    rms = np.sqrt(np.square(spectra[0] - spectra[1]).mean(axis=1))
    sums["log_mel"] = float(rms.mean()) * sums["frames"]
    return sums


def _of_pitch(original: Wav, other: Wav, sample_rate: int) -> dict[str, float]:
    """Of `_of_frames`, what depends on pitch."""
    first, second = pitch(original, sample_rate), pitch(other, sample_rate)
    both = first.voiced & second.voiced
    a, b = (1200 * np.log2(own.hertz[both]) for own in (first, second))
    ratios = second.hertz[both] / first.hertz[both]
    defined = len(a) > 1 and min(a.std(), b.std()) > CONSTANT
    return {
        "frames": len(both),
        "decisions": int((first.voiced != second.voiced).sum()),
        "both": len(a),
        "gross": int((abs(ratios - 1) > GROSS).sum()),
        "voiced": int(first.voiced.sum()),
        "voiced_other": int(second.voiced.sum()),
        "error": float(np.square(a - b).sum()),
        "correlation": len(a) * float(np.corrcoef(a, b)[0, 1]) if defined else 0.0,
        "correlated": len(a) if defined else 0,
    }


def _ratio(found: Sequence[dict[str, float]], above: str, below: str) -> Estimate:
    """Of two sums over the frames of each pair, by their names."""
    return ratio([sums[above] for sums in found], [sums[below] for sums in found])


def _of_whole(original: Wav, other: Wav, sample_rate: int) -> dict[str, float | str]:
    """PAIR_METRICS of a pair, or the reason why one is undefined."""
    levels = [float(np.sqrt(np.square(wav, dtype=np.float64).mean())) for wav in (original, other)]
    if min(levels) == 0:
        return dict.fromkeys(PAIR_METRICS, f"the {'original' if levels[0] == 0 else 'decoded audio'} is silent")
    return {
        "level_difference": 20 * math.log10(levels[1] / levels[0]),
        "pesq": _pesq(original, other, sample_rate),
        "stoi": _stoi(original, other, sample_rate, extended=False),
        "estoi": _stoi(original, other, sample_rate, extended=True),
    }


def _pesq(original: Wav, other: Wav, sample_rate: int) -> float | str:
    from pesq import PesqError
    from torchmetrics.functional.audio import perceptual_evaluation_speech_quality

    original, other = (resampled(wav, sample_rate, PESQ_RATE) for wav in (original, other))
    try:
        return float(perceptual_evaluation_speech_quality(from_numpy(other), from_numpy(original), PESQ_RATE, "wb"))
    except PesqError as error:
        return _message(error)


def _stoi(original: Wav, other: Wav, sample_rate: int, *, extended: bool) -> float | str:
    from torchmetrics.functional.audio import short_time_objective_intelligibility

    pair, state = (from_numpy(other), from_numpy(original)), np.random.get_state()
    np.random.seed(0)  # for extended STOI, pystoi adds noise from the global generator to avoid division by 0
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # pystoi warns of too little speech and returns 1e-5
        try:
            return float(short_time_objective_intelligibility(*pair, sample_rate, extended=extended))
        except RuntimeWarning as warning:
            return _message(warning)
        finally:
            np.random.set_state(state)


def _message(error: Exception) -> str:
    """The message of an exception, which may be bytes."""
    message = error.args[0] if error.args else type(error).__name__
    return message.decode() if isinstance(message, bytes) else str(message)


def check_packages() -> None:
    """Raises ModuleNotFoundError, with what to install, where a package is missing."""
    check_tracker()
    try:
        import pesq  # noqa: F401
        import pystoi  # noqa: F401
        import torchmetrics  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("PESQ and STOI need packages: pip install 'vqaudio[metrics]'") from error


def _report(sentence: str, left_out: list[str] | None) -> None:
    if left_out is None:
        warnings.warn(sentence, stacklevel=3)
    else:
        left_out.append(sentence)
