"""Finds the utterances of a speech corpus on disk and writes the manifests of its splits.

torchaudio.datasets is not used: its VCTK_092 supports a single layout, hides file paths, drops the speakers
without the chosen microphone, and needs TorchCodec.
"""

import json
import re
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from tqdm import tqdm

from vqaudio.atomic import atomic_file, check_names_folder, check_writable
from vqaudio.data.audio import AudioError, audio_seconds
from vqaudio.data.manifest import Utterance, manifest_row
from vqaudio.data.splits import split

AUDIO_SUFFIXES = frozenset((".wav", ".flac", ".ogg", ".opus", ".mp3", ".aif", ".aiff", ".au", ".caf", ".w64", ".sph"))
Kind = Literal["vctk", "librispeech", "folder"]
Mic = Literal["mic1", "mic2"]
Failures = list[AudioError]


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
    """An audio file before its header is read."""

    id: str
    path: Path
    speaker: str
    text: str | None


def vctk(root: str | Path, *, mic: Mic = "mic1", failures: Failures | None = None) -> list[Utterance]:
    """Utterances of VCTK or of a corpus laid out like it, sorted by speaker and id.

    Uses the first of these layouts that exists in `root`, `root`/VCTK-Corpus or `root`/VCTK-Corpus-0.92:
    wav48_silence_trimmed/SPEAKER/ID_mic1.flac (0.92), wav48/SPEAKER/ID.wav (0.80),
    wav16/SPEAKER/ID.flac. Texts are read from txt/SPEAKER/ID.txt and are None if missing (p315). `mic` applies
    to 0.92 only; for speakers without that microphone (p280 and p315 lack mic2) the other one is used.

    Raises FileNotFoundError if no corpus is found, AudioError for an unusable file; with a list of
    `failures`, unusable files are appended to it and left out instead.
    """
    if mic not in ("mic1", "mic2"):
        raise ValueError(f"mic must be mic1 or mic2, got {mic!r}")
    root = _existing(root)
    for base in (root, root / "VCTK-Corpus", root / "VCTK-Corpus-0.92"):
        for layout in ("wav48_silence_trimmed", "wav48", "wav16"):
            found: list[_Found] = []
            for folder in _folders(base / layout):
                ids = {path.stem: path for path in _audio_files(folder)}
                if layout == "wav48_silence_trimmed":
                    ids = _one_microphone(ids, mic)
                for id, path in ids.items():
                    text = _read_text(base / "txt" / folder.name / f"{id}.txt")
                    found.append(_Found(id, path, folder.name, text))
            if found:
                return _utterances(found, failures)
    raise FileNotFoundError(
        f"no VCTK audio in {root}; searched it and its folders VCTK-Corpus and VCTK-Corpus-0.92 for "
        "wav48_silence_trimmed/SPEAKER/ID_mic1.flac, wav48/SPEAKER/ID.wav and "
        "wav16/SPEAKER/ID.flac; give the folder that contains one of these"
    )


def librispeech(root: str | Path, *, failures: Failures | None = None) -> list[Utterance]:
    """Utterances of LibriSpeech, sorted by speaker and id: SUBSET/SPEAKER/CHAPTER/ID.flac.

    `root` is LibriSpeech/, its parent folder, or one of its subsets (to use only that subset). Texts are
    read from SPEAKER-CHAPTER.trans.txt. Exceptions and `failures` as in `vctk`.
    """
    root = _existing(root)
    found: list[_Found] = []
    for pattern in ("*/*/*.flac", "*/*/*/*.flac", "LibriSpeech/*/*/*/*.flac"):
        texts: dict[Path, dict[str, str]] = {}
        for path in root.glob(pattern):
            if not (parts := re.fullmatch(r"(\d+)-(\d+)-\d+", path.stem)):
                continue
            speaker, chapter = parts.groups()
            transcript = path.parent / f"{speaker}-{chapter}.trans.txt"
            if transcript not in texts:
                lines = (_read_text(transcript) or "").splitlines()
                texts[transcript] = dict(line.split(maxsplit=1) for line in lines if " " in line)
            found.append(_Found(path.stem, path, speaker, texts[transcript].get(path.stem)))
    if not found:
        raise FileNotFoundError(
            f"no LibriSpeech audio in {root}; searched for SUBSET/SPEAKER/CHAPTER/"
            "SPEAKER-CHAPTER-NNNN.flac, also below LibriSpeech/ and with a subset as the "
            "root; give the folder that contains LibriSpeech"
        )
    return _utterances(found, failures)


def folder(root: str | Path, *, failures: Failures | None = None) -> list[Utterance]:
    """Utterances of a directory tree with one folder per speaker, sorted by speaker and id.

    Audio files (recognised by suffix, see AUDIO_SUFFIXES) may lie at any depth below SPEAKER/; the id joins the
    folders and the stem with "-", speaker first. The text is read from a .txt file of the same stem beside the
    audio. Hidden files are skipped. Exceptions and `failures` as in `vctk`; ValueError for audio directly in
    `root`.
    """
    root = _existing(root)
    if strays := _audio_files(root):
        raise ValueError(f"{strays[0]} lies directly in {root}; move it into a folder named after its speaker")
    found: list[_Found] = []
    for speaker in _folders(root):
        for path in _audio_files(speaker, "**/*"):
            parts = path.relative_to(root).with_suffix("").parts
            text = _read_text(path.with_suffix(".txt"))
            found.append(_Found("-".join(parts), path, speaker.name, text))
    if not found:
        raise FileNotFoundError(
            f"no audio in {root}; searched for SPEAKER/**/*.wav and the suffixes "
            f"{' '.join(sorted(AUDIO_SUFFIXES - {'.wav'}))}; give the folder that contains the speaker folders"
        )
    return _utterances(found, failures)


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
            start with # are comments, and names of other corpora are ignored
        overwrite: replace existing files

    Raises:
        ValueError: an unknown kind, invalid fractions, or a `held_out` file without any name of this corpus
        FileNotFoundError: no corpus is found
        AudioError: no file is usable
        OSError: a file cannot be written
    """
    out = Path(out)
    names = ("train.jsonl", "valid.jsonl", "test.jsonl", "speakers.json")
    for name in names:  # checked before the corpus is read, which takes a while
        if out.exists():
            check_writable(out / name, overwrite=overwrite)
    failures: Failures = []
    if kind == "vctk":
        utterances = vctk(root, mic=mic, failures=failures)
    elif kind == "librispeech":
        utterances = librispeech(root, failures=failures)
    elif kind == "folder":
        utterances = folder(root, failures=failures)
    else:
        raise ValueError(f"kind must be vctk, librispeech or folder, got {kind!r}")
    if not utterances:
        raise AudioError(f"none of the {len(failures)} audio files in {root} is usable; the first: {failures[0]}")
    held = frozenset() if held_out is None else _held_out(Path(held_out), utterances)
    parts = split(utterances, valid=valid, test=test, seed=seed, held_out=held)
    speakers = sorted({u.speaker for u in utterances})
    contents = ["".join(f"{manifest_row(u, out)}\n" for u in part) for part in parts]
    contents.append(json.dumps(speakers, ensure_ascii=False, indent=1) + "\n")
    _make_folder(out)
    with ExitStack() as files:  # all files are renamed on exit, or, after an error, none
        for name, content in zip(names, contents, strict=True):
            temporary = files.enter_context(atomic_file(out / name, overwrite=overwrite))
            temporary.write_text(content, encoding="utf-8")
    return PrepareSummary(
        out=out,
        speakers=tuple(speakers),
        utterances={name: len(part) for name, part in parts._asdict().items()},
        hours={name: sum(u.seconds for u in part) / 3600 for name, part in parts._asdict().items()},
        failures=tuple(failures),
    )


def _held_out(path: Path, utterances: list[Utterance]) -> frozenset[str]:
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    named = frozenset(line for line in lines if line and not line.startswith("#"))
    if not named & {name for u in utterances for name in (u.speaker, u.id)}:
        raise ValueError(f"{path} names no speaker and no utterance of this corpus; write one name per line")
    return named


def _existing(root: str | Path) -> Path:
    root = Path(root)
    if not root.exists():
        raise FileNotFoundError(f"{root} does not exist; give the folder of the corpus")
    if not root.is_dir():
        raise NotADirectoryError(f"{root} is a file; give the folder of the corpus")
    return root


def _make_folder(out: Path) -> None:
    check_names_folder(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise type(error)(f"cannot make {out}: {error.strerror}; choose a folder that you may write to") from error


def _folders(parent: Path) -> list[Path]:
    """Visible subfolders, sorted; empty if `parent` does not exist."""
    if not parent.is_dir():
        return []
    return sorted(p for p in parent.iterdir() if p.is_dir() and not p.name.startswith("."))


def _audio_files(parent: Path, pattern: str = "*") -> list[Path]:
    """Visible audio files by suffix, sorted. Archives made on macOS contain hidden ._NAME.wav files."""
    return sorted(
        path
        for path in parent.glob(pattern)
        if path.suffix.lower() in AUDIO_SUFFIXES and not path.name.startswith(".") and path.is_file()
    )


def audio_below(folder: Path) -> list[Path]:
    """Visible audio files by suffix at any depth, sorted; hidden folders are skipped."""

    def is_audio(path: Path) -> bool:
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        return path.suffix.lower() in AUDIO_SUFFIXES and not hidden and path.is_file()

    return sorted(path for path in folder.rglob("*") if is_audio(path))


def _one_microphone(files: dict[str, Path], mic: Mic) -> dict[str, Path]:
    """{ID_mic1: path, ID_mic2: path} of one speaker -> {ID: path}, all from one microphone."""
    other = "mic2" if mic == "mic1" else "mic1"
    for chosen in (mic, other):
        suffix = f"_{chosen}"
        own = {s.removesuffix(suffix): p for s, p in files.items() if s.endswith(suffix)}
        if own:
            return own
    return {}


def _read_text(path: Path) -> str | None:
    """Content of a text file without surrounding white space; None if missing or blank."""
    if not path.is_file():
        return None
    try:
        return path.read_text(encoding="utf-8-sig").strip() or None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text; convert it or remove it") from error


def _utterances(found: Sequence[_Found], failures: Failures | None) -> list[Utterance]:
    """Read the header of each file; sorted by speaker and id."""
    path_of: dict[str, Path] = {}
    utterances: list[Utterance] = []
    ordered = sorted(found, key=lambda f: (f.speaker, f.id))
    for item in tqdm(ordered, desc="reading headers", unit="file", disable=None):
        if item.id in path_of:
            raise ValueError(f"{item.path} and {path_of[item.id]} would share the id {item.id!r}; rename one")
        path_of[item.id] = item.path
        try:
            seconds = audio_seconds(item.path)
        except AudioError as error:
            if failures is None:
                raise
            failures.append(error)
            continue
        utterances.append(Utterance(item.id, item.path, item.speaker, seconds, item.text))
    return utterances
