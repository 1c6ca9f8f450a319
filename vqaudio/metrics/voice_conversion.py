"""Voice conversion: whether decoded speech has the requested speaker, by a pretrained speaker verifier.

Letters: T samples, C decoded utterances, U real utterances, V speakers.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from vqaudio.metrics.confidence import Estimate, Floats, bootstrap, mean
from vqaudio.metrics.speaker_verification import SpeakerVerifier, Wav, equal_error_rate


def voice_conversion_metrics(
    converted: Sequence[Wav],
    sources: Sequence[str],
    targets: Sequence[str],
    enrolled: Mapping[str, Sequence[Wav]],
    *,
    sample_rate: int,
    verifier: SpeakerVerifier,
    originals: Sequence[int | None] | None = None,
) -> dict[str, Estimate]:
    """Decoded waveforms (T,), their source and target speakers, and real speech by speaker -> metrics by name.

    A speaker is represented by the mean of the verifier's vectors of real utterances; similarities are cosines.
    `originals`: the index of each one's source utterance in `enrolled[source]`, if it is there; it is then left out of
    the mean of the source speaker.

    Conversions (target and source differ): similarity_target, similarity_source, closer_to_target (more similar to the
    target than to the source), target_identified (most similar to the target among all V). Reconstructions (target is
    source): similarity_speaker, speaker_identified. Real utterances, for reference: real_same_speaker and
    real_identified (compared with the speaker's other utterances), real_other_speakers, chance (1 / V), and the
    verifier's equal_error_rate. What is decoded from one source utterance is resampled together. Metrics without
    utterances are left out.

    Raises ValueError for fewer than 2 speakers, a speaker with fewer than 2 utterances, names that are not enrolled,
    indices out of range, and lists of different lengths.
    """
    places = [None] * len(converted) if originals is None else list(originals)
    _check(len(converted), sources, targets, places, enrolled)
    real = [np.stack([verifier.embed(wav, sample_rate) for wav in wavs]) for wavs in enrolled.values()]
    names = list(enrolled)
    source, target = (
        np.array([names.index(name) for name in speakers], dtype=np.intp) for speakers in (sources, targets)
    )
    sums = np.stack([own.sum(0) for own in real])  # (V, 256)

    def similarities(vector: npt.NDArray[np.float32], speaker: int, place: int | None) -> Floats:
        """(256,) -> (V,) cosines with the speakers, leaving out one utterance of one speaker."""
        centroids = sums.astype(np.float64)
        if place is not None:
            centroids[speaker] -= real[speaker][place]
        return centroids @ vector / np.linalg.norm(centroids, axis=1)

    rows = [similarities(v, s, place) for s, own in enumerate(real) for place, v in enumerate(own)]
    metrics = _of_real(np.array(rows), np.repeat(np.arange(len(real)), [len(own) for own in real]))
    if not converted:
        return metrics
    vectors = [verifier.embed(wav, sample_rate) for wav in converted]
    found = np.array([similarities(*row) for row in zip(vectors, source.tolist(), places, strict=True)])
    groups = [c if place is None else (sources[c], place) for c, place in enumerate(places)]
    return _of_converted(found, source, target, groups) | metrics


def _of_converted(
    found: Floats, source: npt.NDArray[np.intp], target: npt.NDArray[np.intp], groups: Sequence[Hashable]
) -> dict[str, Estimate]:
    """Similarities (C, V), source and target speakers (C,), and groups that are resampled together -> metrics."""
    each, changed = np.arange(len(found)), source != target
    to_source, to_target, identified = found[each, source], found[each, target], found.argmax(1) == target
    values = {
        "similarity_target": (to_target, changed),
        "similarity_source": (to_source, changed),
        "closer_to_target": (to_target > to_source, changed),
        "target_identified": (identified, changed),
        "similarity_speaker": (to_target, ~changed),
        "speaker_identified": (identified, ~changed),
    }
    return {
        name: mean(value[where], [groups[c] for c in np.flatnonzero(where).tolist()])
        for name, (value, where) in values.items()
        if where.any()
    }


def _of_real(found: Floats, speaker: npt.NDArray[np.intp]) -> dict[str, Estimate]:
    """Similarities (U, V) and speakers (U,) of real utterances -> metrics."""
    own = np.arange(found.shape[1]) == speaker[:, None]
    same = found[own]
    other = (found.sum(1) - same) / (found.shape[1] - 1)

    def equal_error(weights: Floats) -> float:
        return equal_error_rate(found.ravel(), own.ravel(), weights.repeat(found.shape[1]))

    return {
        "real_same_speaker": mean(same),
        "real_other_speakers": mean(other),
        "real_identified": mean(found.argmax(1) == speaker),
        "equal_error_rate": bootstrap(equal_error, len(found)),
        "chance": mean(np.full(len(found), 1 / found.shape[1])),
    }


def _check(
    count: int,
    sources: Sequence[str],
    targets: Sequence[str],
    places: Sequence[int | None],
    enrolled: Mapping[str, Sequence[Wav]],
) -> None:
    if not count == len(sources) == len(targets) == len(places):
        raise ValueError(
            f"{count} decoded utterances have {len(sources)} sources, {len(targets)} targets and {len(places)} "
            "originals; give as many of each"
        )
    if len(enrolled) < 2:
        raise ValueError(f"speaker identification needs 2 or more enrolled speakers, got {len(enrolled)}")
    for name, wavs in enrolled.items():
        if len(wavs) < 2:
            raise ValueError(f"speaker {name!r} has {len(wavs)} enrolled utterances; give at least 2 or leave it out")
    for name in sorted({*sources, *targets} - set(enrolled)):
        raise ValueError(f"speaker {name!r} is not enrolled; give real utterances of all sources and targets")
    for name, place in zip(sources, places, strict=True):
        if place is not None and not 0 <= place < len(enrolled[name]):
            raise ValueError(f"originals of {name!r} lie in 0..{len(enrolled[name]) - 1}, got {place}")
