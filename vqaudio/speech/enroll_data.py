"""Speech of speakers whom a model is to learn: what a folder holds of them, and what is held out of it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from vqaudio.data.audio import AudioError, audio_seconds
from vqaudio.data.corpora import AUDIO_SUFFIXES, Failures, audio_below
from vqaudio.data.manifest import Utterance, read_manifest

TRAIN, VALID = "train.jsonl", "valid.jsonl"
LEAST_SECONDS, LEAST_UTTERANCES = 5.0, 2  # of one speaker: with less there is nothing to learn from, or to judge by
HELD_OUT = slice(4, None, 10)  # of a speaker's utterances in the order of their ids: the 5th, the 15th, ...


class NewSpeakers(NamedTuple):
    """Their speech, each speaker in both parts."""

    train: list[Utterance]
    valid: list[Utterance]  # never trained on
    failures: tuple[AudioError, ...] = ()  # files that cannot be used and were left out

    @property
    def speakers(self) -> tuple[str, ...]:
        """Their names, sorted."""
        return tuple(sorted({utterance.speaker for utterance in self.train}))


def find_new_speakers(root: str | Path, speaker: str | None = None) -> NewSpeakers:
    """What `root` holds of one speaker, or of several.

    A folder with train.jsonl (and valid.jsonl), as `vqaudio prepare` writes them: whom it names. Another folder: all
    audio in it and below it is one speaker's, called `speaker`, or as the folder is. Of whom there is nothing in
    valid.jsonl, every tenth utterance is held out, at least one.

    Raises FileNotFoundError where there is no audio, AudioError where none can be used, and ValueError: for audio in
    subfolders alone and no `speaker`, for a `speaker` beside a manifest, for too little audio of a speaker, and for
    one id in both manifests.
    """
    root = Path(root)
    if not root.is_dir():
        problem = "is a file" if root.exists() else "does not exist"
        raise FileNotFoundError(f"{root} {problem}; give the folder of the new speaker's audio, or of {TRAIN}")
    failures: Failures = []
    if (root / TRAIN).is_file():
        if speaker is not None:
            raise ValueError(f"{root / TRAIN} names its speakers itself; leave --speaker out, or rename them there")
        train = read_manifest(root / TRAIN)
        valid = read_manifest(root / VALID) if (root / VALID).is_file() else []
    else:
        train, valid = _of_one_speaker(root, speaker, failures), []
    return NewSpeakers(*_divide(train, valid, root), tuple(failures))


def _of_one_speaker(folder: Path, speaker: str | None, failures: Failures) -> list[Utterance]:
    """All visible audio in a folder and below it."""
    paths = audio_below(folder)
    if not paths:
        raise FileNotFoundError(
            f"there is no audio in {folder}, and no {TRAIN}; looked in it and below it for "
            f"{' '.join(sorted(AUDIO_SUFFIXES))}"
        )
    if speaker is None and folder not in {path.parent for path in paths}:
        raise ValueError(
            f"the audio in {folder} lies in subfolders; pass --speaker NAME if all of it is one voice, else make "
            f"manifests (vqaudio prepare folder {folder} --out DIR) and give DIR"
        )
    utterances = []
    for path in paths:
        id = "-".join(path.relative_to(folder).with_suffix("").parts)
        try:
            utterances.append(Utterance(id, path, speaker or folder.absolute().name, audio_seconds(path)))
        except AudioError as error:
            failures.append(error)
    if repeated := [id for id, count in Counter(u.id for u in utterances).items() if count > 1]:
        raise ValueError(f"{folder} has several files {repeated[0]!r} of different formats; keep one of each name")
    if not utterances:
        raise AudioError(f"none of the {len(paths)} audio files in {folder} can be used; the first: {failures[0]}")
    return utterances


def _divide(
    train: Sequence[Utterance], valid: Sequence[Utterance], root: Path
) -> tuple[list[Utterance], list[Utterance]]:
    """Into what is trained on and what is not, where the manifests do not say it."""
    if not train:
        raise ValueError(f"{root / TRAIN} is empty; it must name at least one utterance")
    if both := {u.id for u in train} & {u.id for u in valid}:
        raise ValueError(f"{min(both)!r} is in {root / TRAIN} and in {VALID}; figures on it would flatter the model")
    known: dict[str, list[Utterance]] = defaultdict(list)
    for utterance in valid:
        known[utterance.speaker].append(utterance)
    own: dict[str, list[Utterance]] = defaultdict(list)
    for utterance in sorted(train, key=lambda u: u.id):
        own[utterance.speaker].append(utterance)
    if missing := sorted(known.keys() - own.keys()):
        raise ValueError(f"speaker {missing[0]!r} is in {root / VALID} but not in {TRAIN}; there is nothing to learn")
    learned: list[Utterance] = []
    held_out: list[Utterance] = []
    for name, utterances in sorted(own.items()):
        everything = utterances + known[name]
        seconds = sum(utterance.seconds for utterance in everything)
        if len(everything) < LEAST_UTTERANCES or seconds < LEAST_SECONDS:
            raise ValueError(
                f"{root} has {len(everything)} utterance{'s' * (len(everything) != 1)} and {seconds:.1f} s of speaker "
                f"{name!r}; it takes at least {LEAST_UTTERANCES} (one is held out) and {LEAST_SECONDS:g} s, and a few "
                "minutes are better: record more, or cut a long recording into sentences"
            )
        aside = known[name] or utterances[HELD_OUT] or utterances[-1:]
        held_out += aside
        learned += [utterance for utterance in utterances if utterance not in aside]
    return learned, held_out
