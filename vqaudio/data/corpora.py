"""Finds the utterances of a speech corpus on disk and writes the manifests of its splits.

torchaudio.datasets is not used: its VCTK_092 supports a single layout, hides file paths, drops the speakers
without the chosen microphone, and needs TorchCodec.
"""

import json
import os
import re
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from tqdm import tqdm

from vqaudio.atomic import atomic_file, check_writable, make_folder
from vqaudio.data.audio import (
    AudioError,
    AudioWarning,
    Failures,
    audio_seconds,
    combined_error,
    decoded_seconds,
    named_in_utf8,
    printable,
)
from vqaudio.data.audio_folders import AUDIO_SUFFIXES, Source, audio_below, file_name, speech_below
from vqaudio.data.manifest import Utterance, manifest_row
from vqaudio.data.splits import split
from vqaudio.data.transcripts import Transcripts

Kind = Literal["vctk", "librispeech", "folder"]
Mic = Literal["mic1", "mic2"]
FILES = ("train.jsonl", "valid.jsonl", "test.jsonl", "speakers.json")
LIBRISPEECH_DEPTHS = (2, 3, 4)  # folders above a file: SPEAKER/CHAPTER, SUBSET/..., LibriSpeech/SUBSET/...


@dataclass(frozen=True)
class PrepareSummary:
    out: Path
    """folder with train.jsonl, valid.jsonl, test.jsonl and speakers.json"""
    speakers: tuple[str, ...]
    """sorted speaker names"""
    utterances: dict[str, int]
    """number of utterances per split: train, valid, test"""
    hours: dict[str, float]
    """hours of audio per split"""
    failures: tuple[AudioError, ...]
    """unusable files, which were left out"""


class _Found(NamedTuple):
    """An audio file before it is read."""

    id: str
    path: Path
    speaker: str
    text: str | None


def vctk(
    root: str | Path, *, mic: Mic = "mic1", failures: Failures | None = None, verify: bool = True
) -> list[Utterance]:
    """Utterances of VCTK or of a corpus laid out like it, sorted by speaker and id.

    Uses the first of these layouts that exists in `root`, `root`/VCTK-Corpus or `root`/VCTK-Corpus-0.92:
    wav48_silence_trimmed/SPEAKER/ID_mic1.flac (0.92), wav48/SPEAKER/ID.wav (0.80),
    wav16/SPEAKER/ID.flac. Texts are read from txt/SPEAKER/ID.txt and are None if missing (p315). `mic` applies
    to 0.92 only; for speakers without that microphone (p280 and p315 lack mic2) the other one is used.

    With `verify`, every file is decoded once, which finds all that are damaged, cut off, not finite or too short;
    without, only headers are read. Raises FileNotFoundError if no corpus is found, AudioError for the unusable files;
    with a list of `failures`, unusable files are appended to it and left out instead.
    """
    if mic not in ("mic1", "mic2"):
        raise ValueError(f"mic must be mic1 or mic2, got {mic!r}")
    root, transcripts = _existing(root), Transcripts()
    for base in (root, root / "VCTK-Corpus", root / "VCTK-Corpus-0.92"):
        for layout in ("wav48_silence_trimmed", "wav48", "wav16"):
            found: list[_Found] = []
            for folder in _folders(base / layout):
                ids = {path.stem: path for path in audio_below(folder) if path.parent == folder}
                if layout == "wav48_silence_trimmed":
                    ids = _one_microphone(ids, mic)
                for id, path in ids.items():
                    text = transcripts.read(base / "txt" / folder.name / f"{id}.txt")
                    found.append(_Found(file_name(id), path, folder.name, text))
            if found:
                transcripts.warn()
                return _utterances(found, failures, verify)
    raise FileNotFoundError(
        f"no VCTK audio in {root}; searched it and its folders VCTK-Corpus and VCTK-Corpus-0.92 for "
        "wav48_silence_trimmed/SPEAKER/ID_mic1.flac, wav48/SPEAKER/ID.wav and "
        "wav16/SPEAKER/ID.flac; give the folder that contains one of these"
    )


def librispeech(root: str | Path, *, failures: Failures | None = None, verify: bool = True) -> list[Utterance]:
    """Utterances of LibriSpeech, sorted by speaker and id: SUBSET/SPEAKER/CHAPTER/ID.flac.

    `root` is LibriSpeech/, its parent folder, or one of its subsets (to use only that subset). Texts are
    read from SPEAKER-CHAPTER.trans.txt. Exceptions, `failures` and `verify` as in `vctk`.
    """
    root, transcripts = _existing(root), Transcripts()
    found: list[_Found] = []
    for path in audio_below(root):
        *folders, _ = path.relative_to(root).parts
        if not (parts := re.fullmatch(r"(\d+)-(\d+)-\d+", path.stem)) or len(folders) not in LIBRISPEECH_DEPTHS:
            continue
        speaker, chapter = parts.groups()
        texts = transcripts.read_table(path.parent / f"{speaker}-{chapter}.trans.txt")
        found.append(_Found(path.stem, path, speaker, texts.get(path.stem)))
    if not found:
        raise FileNotFoundError(
            f"no LibriSpeech audio in {root}; searched for SUBSET/SPEAKER/CHAPTER/"
            "SPEAKER-CHAPTER-NNNN.flac, also below LibriSpeech/ and with a subset as the "
            "root; give the folder that contains LibriSpeech"
        )
    transcripts.warn()
    return _utterances(found, failures, verify)


def folder(
    root: str | Path, *, speaker_level: int = 1, failures: Failures | None = None, verify: bool = True
) -> list[Utterance]:
    """Utterances of a directory tree with one folder per speaker, sorted by speaker and id.

    Audio files, ids and speakers are those of `speech_below`: audio may lie at any depth below SPEAKER/. The text is
    read from a .txt file of the same stem beside the audio. Exceptions, `failures` and `verify` as in `vctk`;
    ValueError for audio directly in `root`.
    """
    root, transcripts = _existing(root), Transcripts()
    sources = speech_below(root, speaker_level)
    if loose := [source.path for source in sources if _is_loose(source)]:
        raise ValueError(f"{loose[0]} lies directly in {root}; move it into a folder named after its speaker")
    found = [_Found(id, path, speaker or "", transcripts.beside(path)) for id, path, speaker in sources]
    transcripts.warn()
    if not found:
        raise FileNotFoundError(
            f"no audio in {root}; searched for SPEAKER/**/*.wav and the suffixes "
            f"{' '.join(sorted(AUDIO_SUFFIXES - {'.wav'}))}; give the folder that contains the speaker folders"
        )
    return _utterances(found, failures, verify)


def prepare(
    kind: Kind,
    root: str | Path,
    out: str | Path,
    *,
    valid: float = 0.05,
    test: float = 0.05,
    seed: int = 0,
    mic: Mic = "mic1",
    held_out: str | Path | None = None,
    speaker_level: int = 1,
    verify: bool = True,
    overwrite: bool = False,
) -> PrepareSummary:
    """Find a corpus, split it, and write OUT/{train,valid,test}.jsonl and OUT/speakers.json.

    All four files are replaced together. Unusable audio files are left out and listed in the summary.

    Args:
        kind: layout of the corpus: vctk, librispeech or folder
        root: folder of the corpus
        out: output folder
        valid: fraction of each speaker's utterances for validation
        test: fraction for testing
        seed: of the split
        mic: microphone of VCTK 0.92
        held_out: text file with one speaker name or utterance id per line that always goes to test.jsonl; lines that
            start with # are comments, and names that are not in this corpus are counted in an AudioWarning
        speaker_level: of the kind folder, which folder below the root names the speaker (1: the first)
        verify: decode every file once, to find all that are unusable now
        overwrite: replace existing files

    Raises:
        ValueError: an unknown kind, a speaker level with another kind than folder, invalid fractions, or a `held_out`
            file without any name of this corpus
        FileNotFoundError: no corpus is found
        AudioError: no file is usable
        OSError: a file cannot be written
    """
    out = Path(out)
    for name in FILES:  # checked before the corpus is read, which takes a while
        if out.exists():
            check_writable(out / name, overwrite=overwrite)
    failures: Failures = []
    utterances = _find(kind, root, mic, speaker_level, failures, verify)
    if not utterances:
        raise AudioError(
            f"none of the {len(failures)} audio files in {printable(root)} is usable: {combined_error(failures)}"
        )
    held = frozenset() if held_out is None else _held_out(Path(held_out), utterances)
    parts = split(utterances, valid=valid, test=test, seed=seed, held_out=held)
    speakers = sorted({u.speaker for u in utterances})
    _write(out, parts, speakers, overwrite=overwrite)
    return PrepareSummary(
        out=out,
        speakers=tuple(speakers),
        utterances={name: len(part) for name, part in parts._asdict().items()},
        hours={name: sum(u.seconds for u in part) / 3600 for name, part in parts._asdict().items()},
        failures=tuple(failures),
    )


def _write(out: Path, parts: Sequence[Sequence[Utterance]], speakers: list[str], *, overwrite: bool) -> None:
    """Write the manifests of train, valid and test and the names of the speakers."""
    contents = ["".join(f"{manifest_row(u, out)}\n" for u in part) for part in parts]
    contents.append(json.dumps(speakers, ensure_ascii=False, indent=1) + "\n")
    make_folder(out)
    with ExitStack() as files:  # all files are renamed on exit, or, after an error, none
        for name, content in zip(FILES, contents, strict=True):
            temporary = files.enter_context(atomic_file(out / name, overwrite=overwrite))
            temporary.write_text(content, encoding="utf-8")


def _find(
    kind: Kind, root: str | Path, mic: Mic, speaker_level: int, failures: Failures, verify: bool
) -> list[Utterance]:
    if speaker_level != 1 and kind != "folder":
        raise ValueError(f"the speaker level applies to the kind folder only, got {speaker_level} with {kind}; omit it")
    if kind == "vctk":
        return vctk(root, mic=mic, failures=failures, verify=verify)
    if kind == "librispeech":
        return librispeech(root, failures=failures, verify=verify)
    if kind == "folder":
        return folder(root, speaker_level=speaker_level, failures=failures, verify=verify)
    raise ValueError(f"kind must be vctk, librispeech or folder, got {kind!r}")


def _held_out(path: Path, utterances: list[Utterance]) -> frozenset[str]:
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error.reason}); write one name per line") from error
    named = frozenset(line for line in lines if line and not line.startswith("#"))
    unknown = named - {name for u in utterances for name in (u.speaker, u.id)}
    if unknown == named:
        raise ValueError(f"{path} names no speaker and no utterance of this corpus; write one name per line")
    if unknown:
        warnings.warn(
            f"{len(unknown)} of the {len(named)} names in {path} {'is' if len(unknown) == 1 else 'are'} no speaker and "
            f"no usable utterance of this corpus, such as {min(unknown)!r}; correct what should be held out",
            AudioWarning,
            stacklevel=2,
        )
    return named


def _existing(root: str | Path) -> Path:
    root = Path(root)
    if not root.exists():
        raise FileNotFoundError(f"{root} does not exist; give the folder of the corpus")
    if not root.is_dir():
        raise NotADirectoryError(f"{root} is a file; give the folder of the corpus")
    return root


def _folders(parent: Path) -> list[Path]:
    """Visible subfolders, sorted; empty if `parent` does not exist."""
    if not parent.is_dir():
        return []
    return sorted(p for p in parent.iterdir() if p.is_dir() and not p.name.startswith("."))


def _one_microphone(files: dict[str, Path], mic: Mic) -> dict[str, Path]:
    """{ID_mic1: path, ID_mic2: path} of one speaker -> {ID: path}, all from one microphone."""
    other = "mic2" if mic == "mic1" else "mic1"
    for chosen in (mic, other):
        suffix = f"_{chosen}"
        own = {s.removesuffix(suffix): p for s, p in files.items() if s.endswith(suffix)}
        if own:
            return own
    return {}


def _is_loose(source: Source) -> bool:
    """Whether a file that may be usable lies outside the speakers' folders; others are named when they are read."""
    return source.speaker is None and source.path.suffix.lower() in AUDIO_SUFFIXES and named_in_utf8(source.path)


def _utterances(found: Sequence[_Found], failures: Failures | None, verify: bool) -> list[Utterance]:
    """Read each file, or with `verify` off its header; sorted by speaker and id."""
    path_of: dict[str, Path] = {}
    ordered = sorted(found, key=lambda f: (f.speaker, f.id))
    for item in ordered:
        if item.id in path_of:
            raise ValueError(f"{item.path} and {path_of[item.id]} would share the id {item.id!r}; rename one")
        path_of[item.id] = item.path
    utterances: list[Utterance] = []
    unusable: Failures = []
    for item, seconds in zip(ordered, durations([item.path for item in ordered], verify=verify), strict=True):
        if isinstance(seconds, AudioError):
            unusable.append(seconds)
        else:
            utterances.append(Utterance(item.id, item.path, item.speaker, seconds, item.text))
    if failures is None and unusable:
        raise combined_error(unusable)
    if failures is not None:
        failures += unusable
    return utterances


def durations(paths: Sequence[Path], *, verify: bool) -> list[float | AudioError]:
    """Seconds of each file, or why it cannot be used; with `verify`, files are decoded by all processors."""
    seconds_of = decoded_seconds if verify else audio_seconds

    def attempt(path: Path) -> float | AudioError:
        try:
            return seconds_of(path)
        except AudioError as error:
            return error

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            task = "decoding" if verify else "reading headers"
            return list(tqdm(pool.map(attempt, paths), desc=task, total=len(paths), unit="file", disable=None))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # after an interrupt: the queue may hold a whole corpus
