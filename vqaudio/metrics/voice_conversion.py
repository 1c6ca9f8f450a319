"""Does a conversion change the voice, and does a reconstruction keep it? What a speaker verifier says.

Letters: T samples, C converted utterances, U real utterances, V speakers.
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
    """Waveforms (T,), who said them, in whose voice they are, and real speech by its speakers -> figures by name.

    A voice is the mean of the vectors of a speaker's real utterances; similarities are cosines. `originals`: the place
    of each one's source utterance in `enrolled[source]`, if it is there; it is left out of the source's voice.

    Where target and source differ: similarity_target, similarity_source, closer_to_target (nearer to the target than to
    the source), target_identified (nearest to the target of all V). Where they are the same, in a reconstruction:
    similarity_speaker, speaker_identified. What these can be at best and at worst, by the real utterances: real_same_speaker and real_identified
    (to the voice of their speaker's other utterances), real_other_speakers (to the voices of the others), chance (1 / V), and
    the verifier's equal_error between the two. What is made of one source utterance is drawn together. Figures that
    nothing was given for are left out. Raises ValueError for fewer than 2 speakers, a speaker of fewer than 2
    utterances, names that are not enrolled, places that do not exist, and lists of different lengths.
    """
    places = [None] * len(converted) if originals is None else list(originals)
    _check(len(converted), sources, targets, places, enrolled)
    real = [np.stack([verifier.embed(wav, sample_rate) for wav in wavs]) for wavs in enrolled.values()]
    names = list(enrolled)
    source, target = (np.array([names.index(name) for name in said], dtype=np.intp) for said in (sources, targets))
    sums = np.stack([own.sum(0) for own in real])  # (V, 256)

    def similarities(vector: npt.NDArray[np.float32], speaker: int, place: int | None) -> Floats:
        """(256,) -> (V,) cosines to the voices, without one utterance of one speaker."""
        voices = sums.astype(np.float64)
        if place is not None:
            voices[speaker] -= real[speaker][place]
        return voices @ vector / np.linalg.norm(voices, axis=1)

    rows = [similarities(v, s, place) for s, own in enumerate(real) for place, v in enumerate(own)]
    figures = _of_real(np.array(rows), np.repeat(np.arange(len(real)), [len(own) for own in real]))
    if not converted:
        return figures
    vectors = [verifier.embed(wav, sample_rate) for wav in converted]
    found = np.array([similarities(*row) for row in zip(vectors, source.tolist(), places, strict=True)])
    groups = [c if place is None else (sources[c], place) for c, place in enumerate(places)]
    return _of_converted(found, source, target, groups) | figures


def _of_converted(
    found: Floats, source: npt.NDArray[np.intp], target: npt.NDArray[np.intp], groups: Sequence[Hashable]
) -> dict[str, Estimate]:
    """Similarities (C, V), whose utterances they were (C,) and whose they became (C,), what is drawn together."""
    each, changed = np.arange(len(found)), source != target
    to_source, to_target, named = found[each, source], found[each, target], found.argmax(1) == target
    values = {
        "similarity_target": (to_target, changed),
        "similarity_source": (to_source, changed),
        "closer_to_target": (to_target > to_source, changed),
        "target_identified": (named, changed),
        "similarity_speaker": (to_target, ~changed),
        "speaker_identified": (named, ~changed),
    }
    return {
        name: mean(value[where], [groups[c] for c in np.flatnonzero(where).tolist()])
        for name, (value, where) in values.items()
        if where.any()
    }


def _of_real(found: Floats, speaker: npt.NDArray[np.intp]) -> dict[str, Estimate]:
    """Similarities (U, V), whose utterances they are (U,)."""
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
            f"{count} converted utterances have {len(sources)} sources, {len(targets)} targets and {len(places)} "
            "originals; give as many of each"
        )
    if len(enrolled) < 2:
        raise ValueError(f"voices are told apart among 2 or more enrolled speakers, got {len(enrolled)}")
    for name, wavs in enrolled.items():
        if len(wavs) < 2:
            raise ValueError(f"speaker {name!r} has {len(wavs)} enrolled utterances; give at least 2 or leave it out")
    for name in sorted({*sources, *targets} - set(enrolled)):
        raise ValueError(f"speaker {name!r} is not enrolled; give real utterances of all sources and targets")
    for name, place in zip(sources, places, strict=True):
        if place is not None and not 0 <= place < len(enrolled[name]):
            raise ValueError(f"originals of {name!r} lie in 0..{len(enrolled[name]) - 1}, got {place}")
