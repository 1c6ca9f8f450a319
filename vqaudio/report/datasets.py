"""Evaluation sets: utterances with their audio, texts and phone alignments, and training speech of the same corpus."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from vqaudio.data.alignments import Alignment, find_alignments
from vqaudio.data.audio import read_audio
from vqaudio.data.manifest import Utterance, read_manifest
from vqaudio.data.text import words_of

Wav = npt.NDArray[np.float32]
Item = TypeVar("Item")


@dataclass(frozen=True)
class EvaluationSet:
    """Held-out utterances, and the name that a report gives the set."""

    name: str
    utterances: list[Utterance]
    training: list[Utterance]
    """training utterances of the same corpus: for baselines, enrolment and language models; may be empty"""
    alignments: dict[str, Alignment]
    """by utterance id; not all utterances need one"""
    sample_rate: int
    """to which audio is resampled, in Hz"""

    def wav(self, utterance: Utterance) -> Wav:
        """(T,) float32 in [-1, 1]."""
        return read_audio(utterance.path, self.sample_rate)

    def limited(self, max_utterances: int) -> EvaluationSet:
        """At most `max_utterances`, spread evenly over speakers; utterances with alignments are taken first."""
        aligned = [u for u in self.utterances if u.id in self.alignments]
        others = [u for u in self.utterances if u.id not in self.alignments]
        chosen = spread(aligned, max_utterances, lambda u: u.speaker)
        chosen += spread(others, max_utterances - len(chosen), lambda u: u.speaker)
        kept = {u.id for u in chosen}
        alignments = {id: own for id, own in self.alignments.items() if id in kept}
        return replace(self, utterances=[u for u in self.utterances if u.id in kept], alignments=alignments)

    @property
    def seconds(self) -> float:
        """Total duration according to the manifest."""
        return sum(u.seconds for u in self.utterances)

    @property
    def speakers(self) -> list[str]:
        """Their names, sorted."""
        return sorted({u.speaker for u in self.utterances})

    @property
    def available(self) -> list[str]:
        """What tasks can use besides the audio: texts, phones, training."""
        there = {
            "texts": any(words_of(u.text or "") for u in self.utterances),
            "phones": any(self.alignments.values()),
            "training": bool(self.training),
        }
        return [name for name, found in there.items() if found]

    @property
    def unlabelled(self) -> dict[str, int]:
        """How many utterances lack the texts or phones that others have; no entry where all or none have them."""
        lacking = {
            "texts": sum(not words_of(u.text or "") for u in self.utterances),
            "phones": sum(not self.alignments.get(u.id) for u in self.utterances),
        }
        return {name: count for name, count in lacking.items() if count > 0 and name in self.available}


def open_sets(places: Sequence[Path], phones: Sequence[Path], sample_rate: int) -> list[EvaluationSet]:
    """Manifests, or folders of `vqaudio prepare` with test.jsonl and train.jsonl -> sets, named after them.

    `phones`: places that `find_alignments` reads; each must hold alignments of some utterance. Raises FileNotFoundError
    where there is no manifest or nothing at a place in `phones`, ValueError for a manifest without utterances and for
    two sets with the same name or a common utterance id, and what the readers raise.
    """
    found: dict[str, EvaluationSet] = {}
    for place in places:
        manifest = place / "test.jsonl" if place.is_dir() else place
        if not manifest.is_file():
            raise FileNotFoundError(f"there is no manifest {manifest}; vqaudio prepare writes one")
        utterances = read_manifest(manifest)
        if not utterances:
            raise ValueError(f"{manifest} has no utterances: there is nothing to evaluate on")
        name = place.resolve().name if place.is_dir() else place.stem
        if name in found:
            raise ValueError(f"two sets are called {name!r}; rename the folder or the manifest of one")
        train = place / "train.jsonl"
        training = read_manifest(train) if place.is_dir() and train.is_file() else []
        found[name] = EvaluationSet(name, utterances, training, {}, sample_rate)
    ids = [u.id for one in found.values() for u in one.utterances]
    if len(set(ids)) < len(ids):
        twice = next(id for i, id in enumerate(ids) if id in ids[:i])
        raise ValueError(f"the id {twice!r} is in two sets; evaluate them in separate runs")
    for place in phones:
        alignments = find_alignments(place, ids)
        for one in found.values():
            own = {u.id: alignments[u.id] for u in one.utterances if alignments.get(u.id)}
            one.alignments.update(own)
    return list(found.values())


def training_speech(sets: Sequence[EvaluationSet], seconds: float) -> Iterator[tuple[Utterance, Wav]]:
    """Training utterances of all sets with their audio, of each speaker in turn, until there are so many seconds."""
    taken, candidates = 0.0, [(one, u) for one in sets for u in one.training]
    for one, u in round_robin(candidates, lambda item: item[1].speaker):
        if taken >= seconds:
            return
        yield u, one.wav(u)
        taken += u.seconds


def spread(items: Sequence[Item], count: int, group: Callable[[Item], str]) -> list[Item]:
    """At most `count` items, taken from the groups (such as speakers) in turn, in their original order."""
    return [items[i] for i in sorted(_round_robin(items, group)[:count])]


def round_robin(items: Sequence[Item], group: Callable[[Item], str]) -> list[Item]:
    """All items: the first of each group, then the second of each, and so on."""
    return [items[i] for i in _round_robin(items, group)]


def _round_robin(items: Sequence[Item], group: Callable[[Item], str]) -> list[int]:
    queues: dict[str, list[int]] = {}
    for i, item in enumerate(items):
        queues.setdefault(group(item), []).append(i)
    return [i for _, i in sorted((turn, i) for own in queues.values() for turn, i in enumerate(own))]
