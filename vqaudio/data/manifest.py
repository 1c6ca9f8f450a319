"""Manifests: JSON Lines files with one utterance per line.

A row is {"id", "path", "speaker", "seconds", "text"?}. Relative paths refer to the folder of the manifest.
Additional keys are ignored.
"""

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vqaudio.json_text import JSONError, is_unicode, parse_json

MAX_SECONDS = 2**31  # 68 years; more is a mistake


@dataclass(frozen=True)
class Utterance:
    """A row of a manifest."""

    id: str
    """unique within its corpus; used as a file name, so it must not contain a slash"""
    path: Path
    """audio file"""
    speaker: str
    """speaker name"""
    seconds: float
    """duration according to the file header"""
    text: str | None = None
    """transcript, if known"""

    def __post_init__(self) -> None:
        if not self.id or "/" in self.id or "\\" in self.id or self.id in (".", ".."):
            raise ValueError(f"an utterance id must be usable as a file name, got {self.id!r}")
        if not self.speaker:
            raise ValueError(f"utterance {self.id!r} has an empty speaker name; give it one")
        if not (math.isfinite(self.seconds) and self.seconds > 0):
            raise ValueError(f"seconds of utterance {self.id!r} must be above 0, got {self.seconds}")


def read_manifest(path: str | Path) -> list[Utterance]:
    """Read and validate all rows; relative paths are resolved against the manifest's folder.

    Raises FileNotFoundError, IsADirectoryError, or ValueError with the line number: not JSON, a missing key, a value
    of the wrong type, or a duplicate id.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, not a manifest; give a file in it, such as {path / 'test.jsonl'}")
    if not path.exists():
        raise FileNotFoundError(f"manifest {path} does not exist; create it with vqaudio prepare")
    utterances: list[Utterance] = []
    line_of: dict[str, int] = {}
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a manifest (not UTF-8 text): {error.reason}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            utterance = _parse_row(line, path.parent)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from error
        if utterance.id in line_of:
            raise ValueError(
                f"{path}, line {number}: id {utterance.id!r} was used in line "
                f"{line_of[utterance.id]} already; ids must be unique"
            )
        line_of[utterance.id] = number
        utterances.append(utterance)
    return utterances


def manifest_row(utterance: Utterance, folder: Path) -> str:
    """One line of JSON for a manifest in `folder`."""
    audio, base = _normal(utterance.path), _normal(folder)
    row: dict[str, Any] = {
        "id": utterance.id,
        "path": (audio.relative_to(base) if audio.is_relative_to(base) else audio).as_posix(),
        "speaker": utterance.speaker,
        "seconds": utterance.seconds,
    }
    if utterance.text is not None:
        row["text"] = utterance.text
    return json.dumps(row, ensure_ascii=False)


def _normal(path: Path) -> Path:
    """Absolute and without "..", but with symbolic links kept: a corpus linked into a folder counts as inside it."""
    return Path(os.path.normpath(path.absolute()))


def _may_be_a_path(text: str) -> bool:
    """Bytes that are not UTF-8, as Python escapes them, may be a path: the file is named when it is read."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def _parse_row(line: str, folder: Path) -> Utterance:
    try:
        row = parse_json(line)
    except JSONError as error:
        raise ValueError(f"not JSON ({error}); write one object per line") from error
    if not isinstance(row, dict):
        raise ValueError(f"a row must be a JSON object, got {type(row).__name__}")
    missing = [key for key in ("id", "path", "speaker", "seconds") if key not in row]
    if missing:
        raise ValueError(
            f"missing {', '.join(missing)}; a row needs id, path, speaker, seconds, it has "
            f"{', '.join(row) or 'nothing'}"
        )
    for key in ("id", "path", "speaker"):
        if not isinstance(row[key], str) or not row[key]:
            raise ValueError(f"{key} must be a non-empty string, got {row[key]!r}")
    if not (is_unicode(row["speaker"]) and is_unicode(row.get("text"))):
        raise ValueError(f"speaker and text must be Unicode text, got {row['speaker']!r} and {row.get('text')!r}")
    if not _may_be_a_path(row["path"]):
        raise ValueError(f"path must be a valid name of a file, got {row['path']!r}")
    if isinstance(row["seconds"], bool) or not isinstance(row["seconds"], int | float):
        raise ValueError(f"seconds must be a number, got {row['seconds']!r}")
    if abs(row["seconds"]) > MAX_SECONDS:  # before the conversion to float, which may overflow
        raise ValueError(f"seconds must be above 0 and at most {MAX_SECONDS}, got {repr(row['seconds'])[:20]}")
    if not isinstance(row.get("text"), str | None):
        raise ValueError(f"text must be a string or absent, got {row['text']!r}")
    return Utterance(
        id=row["id"],
        path=folder / row["path"],
        speaker=row["speaker"],
        seconds=float(row["seconds"]),
        text=row.get("text"),
    )
