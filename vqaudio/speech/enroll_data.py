"""Finds the speech of new speakers in a folder and splits it into training and held-out utterances."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from vqaudio.data.audio import AudioError, Failures, combined_error
from vqaudio.data.audio_folders import AUDIO_SUFFIXES, speech_below
from vqaudio.data.corpora import durations
from vqaudio.data.manifest import Utterance, read_manifest

TRAIN, VALID = "train.jsonl", "valid.jsonl"
MIN_SECONDS, MIN_UTTERANCES = 5.0, 2  # per speaker: one utterance to train on and one to evaluate on
HELD_OUT = slice(4, None, 10)  # of a speaker's utterances, sorted by id: the 5th, the 15th, ...


class NewSpeakers(NamedTuple):
    """Utterances of the new speakers; every speaker occurs in both parts."""

    train: list[Utterance]
    valid: list[Utterance]  # held out from training
    failures: tuple[AudioError, ...] = ()  # one for each file that was skipped because it cannot be used

    @property
    def speakers(self) -> tuple[str, ...]:
        """Names of the new speakers, sorted."""
        return tuple(sorted({utterance.speaker for utterance in self.train}))


def find_new_speakers(root: str | Path, speaker: str | None = None) -> NewSpeakers:
    """The utterances of one or several new speakers in the folder `root`.

    If `root` contains train.jsonl (and valid.jsonl), as written by `vqaudio prepare`, the manifests name the utterances
    and speakers. Otherwise all audio files in `root` and its subfolders belong to one speaker, named `speaker` or, by
    default, like the folder. For speakers without utterances in valid.jsonl, every tenth utterance, but at least one,
    is held out.

    Raises FileNotFoundError if there is no audio, AudioError if no audio file can be used, and ValueError if all audio
    lies in subfolders and no `speaker` is given, if `speaker` is given together with a manifest, if a speaker has too
    little audio, or if an id occurs in both manifests.
    """
    root = Path(root)
    if not root.is_dir():
        problem = "is a file" if root.exists() else "does not exist"
        raise FileNotFoundError(f"{root} {problem}; give the folder of the new speaker's audio or of {TRAIN}")
    failures: Failures = []
    if (root / TRAIN).is_file():
        if speaker is not None:
            raise ValueError(f"{root / TRAIN} names the speakers; omit --speaker, or rename them in the manifest")
        train = read_manifest(root / TRAIN)
        valid = read_manifest(root / VALID) if (root / VALID).is_file() else []
    else:
        train, valid = _of_one_speaker(root, speaker, failures), []
    try:
        return NewSpeakers(*_split(train, valid, root), tuple(failures))
    except ValueError as error:
        if failures:
            raise ValueError(f"{error}. {combined_error(failures)}") from error
        raise


def _of_one_speaker(folder: Path, speaker: str | None, failures: Failures) -> list[Utterance]:
    """All audio files in a folder and its subfolders, except hidden ones, as utterances of one speaker."""
    sources = speech_below(folder, speaker_level=None)
    if not sources:
        raise FileNotFoundError(
            f"there is no audio in {folder} or its subfolders, and no {TRAIN}; supported audio formats: "
            f"{' '.join(sorted(AUDIO_SUFFIXES))}"
        )
    if speaker is None and folder not in {source.path.parent for source in sources}:
        raise ValueError(
            f"the audio in {folder} lies in subfolders; if it is all of one speaker, pass --speaker NAME, otherwise "
            f"create manifests (vqaudio prepare folder {folder} --out DIR) and give DIR"
        )
    utterances = []
    for source, seconds in zip(sources, durations([source.path for source in sources], verify=True), strict=True):
        if isinstance(seconds, AudioError):
            failures.append(seconds)
        else:
            utterances.append(Utterance(source.id, source.path, speaker or folder.absolute().name, seconds))
    if repeated := [id for id, count in Counter(u.id for u in utterances).items() if count > 1]:
        raise ValueError(f"{folder} has several files named {repeated[0]!r} in different formats; keep one of them")
    if not utterances:
        raise AudioError(f"none of the {len(sources)} audio files in {folder} can be used: {combined_error(failures)}")
    return utterances


def _split(
    train: Sequence[Utterance], valid: Sequence[Utterance], root: Path
) -> tuple[list[Utterance], list[Utterance]]:
    """Training and held-out utterances; of speakers who are missing from `valid`, some of `train` are held out."""
    if not train:
        raise ValueError(f"{root / TRAIN} is empty; it must name at least one utterance")
    if both := {u.id for u in train} & {u.id for u in valid}:
        raise ValueError(
            f"utterance {min(both)!r} is in {root / TRAIN} and in {VALID}; remove it from one of them: held-out "
            "speech must not be trained on"
        )
    valid_of, train_of = _by_speaker(valid), _by_speaker(sorted(train, key=lambda u: u.id))
    if missing := sorted(valid_of.keys() - train_of.keys()):
        raise ValueError(
            f"speaker {missing[0]!r} is in {root / VALID} but not in {TRAIN}; add training utterances of that speaker"
        )
    trained: list[Utterance] = []
    held_out: list[Utterance] = []
    for name, utterances in sorted(train_of.items()):
        everything = utterances + valid_of[name]
        seconds = sum(utterance.seconds for utterance in everything)
        if len(everything) < MIN_UTTERANCES or seconds < MIN_SECONDS:
            raise ValueError(
                f"{root} has {len(everything)} utterance{'s' * (len(everything) != 1)} and {seconds:.1f} s of speaker "
                f"{name!r}; at least {MIN_UTTERANCES} utterances (one is held out) and {MIN_SECONDS:g} s are required, "
                "and a few minutes are better: record more, or cut a long recording into sentences"
            )
        evaluated = valid_of[name] or utterances[HELD_OUT] or utterances[-1:]
        held_out += evaluated
        trained += [utterance for utterance in utterances if utterance not in evaluated]
    return trained, held_out


def _by_speaker(utterances: Sequence[Utterance]) -> dict[str, list[Utterance]]:
    grouped: dict[str, list[Utterance]] = defaultdict(list)
    for utterance in utterances:
        grouped[utterance.speaker].append(utterance)
    return grouped
