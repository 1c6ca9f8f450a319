"""Finds the audio below a folder, for all verbs: which files are audio, and the id and speaker of each one."""

from __future__ import annotations

import os
import re
import stat
import warnings
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import soundfile

from vqaudio.data.audio import AudioWarning, can_open, printable

SUFFIXES_OF = {
    "AIFF": "aif aiff aifc",
    "AU": "au snd",
    "HTK": "htk",
    "IRCAM": "sf",
    "MAT4": "mat",
    "MAT5": "mat",
    "MP3": "mp3 mp2 mp1",
    "MPC2K": "mpc",
    "NIST": "sph nist nis",
    "OGG": "ogg oga opus",
    "SVX": "iff 8svx 16sv",
    "WAV": "wav wave bwf",
}
"""usual suffixes of libsndfile's formats, besides the name of the format itself"""
AUDIO_SUFFIXES = frozenset(
    f".{suffix}"
    for name in soundfile.available_formats()
    if name != "RAW"  # has no header with a sample rate
    for suffix in (name.lower(), *SUFFIXES_OF.get(name, "").split())
)
SHARED_SUFFIXES = frozenset((".mat", ".htk", ".iff", ".sf"))  # of other files too: audio if libsndfile can open them
_UNREADABLE = """
    3g2 3gp aac ac3 alac amr ape asf awb dff dsf dss dts eac3 gsm m4a m4b mka mkv mov mp4 mpga pcm qt ra raw rm shn spx
    tak tta vox weba webm wma wv
"""
UNREADABLE_SUFFIXES = frozenset(f".{suffix}" for suffix in _UNREADABLE.split())
"""audio, alone or with video, that libsndfile cannot read: named as unusable instead of left out"""
_SPLIT_NAME = re.compile(r"(train|test|dev|valid|val|eval)([^a-z]|$|ing|ation)", re.IGNORECASE)
_NOT_IN_FILE_NAMES = re.compile(r"[/\\\x00-\x1f\x7f\ud800-\udfff]")  # slashes, control characters, lone surrogates


class Source(NamedTuple):
    """One utterance, before its audio is read."""

    id: str  # unique among the sources and usable as a file name
    path: Path
    speaker: str | None


class FolderContents(NamedTuple):
    """What `visible_files` finds."""

    files: list[Path]  # sorted; links without a target are among them
    unreadable: list[Path]  # folders that cannot be listed, sorted


def file_name(text: str) -> str:
    """Any text -> a valid file name; characters that are not allowed become "_"."""
    name = _NOT_IN_FILE_NAMES.sub("_", text)
    return f"_{name}" if name in ("", ".", "..") else name


def visible_files(root: Path) -> FolderContents:
    """The files in a folder and its subfolders, without hidden files and folders.

    Links are followed. Each folder is read only once, by its own path rather than by a link to it, so that links cannot
    form a loop; AudioWarning counts the links that are left out for this reason. Pipes and devices are left out.
    """
    contents = FolderContents([], [])
    seen = {_identity(folder) for folder in root.resolve().parents}
    folders, links, left_out = deque([root]), list[Path](), list[Path]()
    while folders or links:
        folder = folders.popleft() if folders else links.pop(0)
        if (identity := _identity(folder)) in seen:
            left_out.append(folder)
            continue
        seen.add(identity)
        try:
            with os.scandir(folder) as entries:
                visible = [entry for entry in entries if not entry.name.startswith(".")]
        except OSError:
            contents.unreadable.append(folder)
            continue
        for entry in visible:
            path = folder / entry.name
            try:
                mode = entry.stat().st_mode
            except OSError:
                mode = stat.S_IFREG  # a link without a target: reading it names what is wrong
            if stat.S_ISDIR(mode):
                (links if entry.is_symlink() else folders).append(path)
            elif stat.S_ISREG(mode):
                contents.files.append(path)
        links.sort()
    if left_out:
        _warn(
            f"{_count(left_out, 'link')} to folders that are read already {_was(left_out)} not followed, such as "
            f"{printable(min(left_out))}"
        )
    return FolderContents(sorted(contents.files), sorted(contents.unreadable))


def audio_below(folder: Path) -> list[Path]:
    """Audio files by suffix at any depth, sorted, as `visible_files` finds them.

    Files that look like audio but cannot be used are among them (formats that libsndfile cannot read, links without a
    target, folders that cannot be listed), so that reading them names what is wrong. Only one version of a recording is
    taken: not NAME.WAV.wav beside NAME.WAV, and not NAME.m4a beside NAME.wav; AudioWarning counts the others.
    """
    contents = visible_files(folder)
    audio = [path for path in contents.files if _looks_like_audio(path)]
    other_versions = _other_versions(audio)
    if other_versions:
        _warn(
            f"{_count(other_versions, 'file')} in {printable(folder)} {_was(other_versions)} left out as other "
            f"versions of audio files beside them, such as {printable(min(other_versions))}"
        )
    return sorted([path for path in audio if path not in other_versions] + contents.unreadable)


def speech_below(root: Path, speaker_level: int | None = 1) -> list[Source]:
    """The audio below `root` as utterances, sorted by path.

    The id joins the names of the folders below `root` and of the file with "-". The speaker is named by the folder
    `speaker_level` levels below `root` (1: the first), or by the last folder above a file that lies less deep; it is
    None for a file directly in `root`, and for all files if `speaker_level` is None. AudioWarning if the folders of
    that level do not seem to be speakers, because there is only one, or because they are named like splits (train),
    and the audio lies deeper. Raises ValueError for a level below 1.
    """
    if speaker_level is not None and speaker_level < 1:
        raise ValueError(f"the speaker level must be at least 1 (the first folder below the root), got {speaker_level}")
    sources = []
    for path in audio_below(root):
        *folders, stem = (printable(part) for part in path.relative_to(root).with_suffix("").parts)
        named = [] if speaker_level is None else folders[:speaker_level]
        speaker = file_name(named[-1]) if named else None
        sources.append(Source(file_name("-".join([*folders, stem])), path, speaker))
    if speaker_level is not None:
        _check_speakers(root, sources, speaker_level)
    return sources


def _check_speakers(root: Path, sources: Sequence[Source], level: int) -> None:
    """AudioWarning if another level than `level` seems to name the speakers."""
    below = [source.path.relative_to(root).parent.parts for source in sources]
    speakers = sorted({source.speaker for source in sources if source.speaker is not None})
    deepest = max(below, key=len, default=())
    splits = [name for name in speakers if _SPLIT_NAME.match(name)]
    if len(deepest) <= level or not (len(speakers) == 1 or splits):
        return
    found = f"only one speaker, {speakers[0]!r}" if len(speakers) == 1 else f"a speaker {splits[0]!r}"
    levels = " or ".join(str(deeper) for deeper in range(level + 1, len(deepest) + 1))
    _warn(
        f"{printable(root)} has {found} (folder level {level}), but audio in deeper folders, such as "
        f"{printable(Path(*deepest))}; if these name the speakers, pass --speaker-level {levels}"
    )


def _looks_like_audio(path: Path) -> bool:
    suffix = path.suffix.lower()
    if suffix in SHARED_SUFFIXES:
        return suffix in AUDIO_SUFFIXES and can_open(path)
    return suffix in AUDIO_SUFFIXES or suffix in UNREADABLE_SUFFIXES


def _other_versions(paths: Sequence[Path]) -> set[Path]:
    """Files of which another version, which is read instead, lies beside them."""
    every = set(paths)
    readable = {path.with_suffix("") for path in paths if path.suffix.lower() in AUDIO_SUFFIXES}
    others: set[Path] = set()
    for path in paths:
        original = path.with_suffix("")  # of NAME.WAV.wav
        if original in every:
            others.add(path if can_open(original) else original)
        if path.suffix.lower() in UNREADABLE_SUFFIXES and original in readable:
            others.add(path)
    return others


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _count(paths: Sequence[Path] | set[Path], unit: str) -> str:
    return f"{len(paths)} {unit}{'s' * (len(paths) != 1)}"


def _was(paths: Sequence[Path] | set[Path]) -> str:
    return "was" if len(paths) == 1 else "were"


def _warn(sentence: str) -> None:
    warnings.warn(sentence, AudioWarning, stacklevel=3)
