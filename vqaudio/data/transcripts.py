"""Reads the transcripts of a corpus; one that cannot be read never ends a run."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

from vqaudio.data.audio import AudioWarning, printable
from vqaudio.data.audio_folders import AUDIO_SUFFIXES

_TIMIT_SPAN = re.compile(r"\A0 \d{4,} (?=\D)")  # first and last sample of the sentence, before its text in TIMIT


class Transcripts:
    """Reads text files, whatever the case of their names, and records those that cannot be used."""

    def __init__(self) -> None:
        self.undecodable: list[Path] = []
        self._names: dict[Path, dict[str, str]] = {}  # folder -> name in lower case -> name
        self._tables: dict[Path, dict[str, str]] = {}

    def read(self, path: Path) -> str | None:
        """Content of a text file without surrounding white space; None if missing, blank or not UTF-8."""
        before = len(self.undecodable)
        text = "\n".join(self._lines(path)).strip()
        return None if len(self.undecodable) > before else _TIMIT_SPAN.sub("", text) or None

    def beside(self, audio: Path) -> str | None:
        """The text in NAME.txt beside NAME.wav; also beside a converted NAME.WAV.wav."""
        plain = audio.with_suffix("")
        if plain.suffix.lower() in AUDIO_SUFFIXES and self._found(plain.with_name(f"{plain.name}.txt")) is None:
            plain = plain.with_suffix("")
        return self.read(plain.with_name(f"{plain.name}.txt"))

    def read_table(self, path: Path) -> dict[str, str]:
        """Id -> text of a file with an id and its text on each line; lines without text are left out."""
        if path not in self._tables:
            rows = (line.split(maxsplit=1) for line in self._lines(path))
            self._tables[path] = {row[0]: row[1].strip() for row in rows if len(row) == 2}
        return self._tables[path]

    def warn(self) -> None:
        """AudioWarning with the number of files with text that is not UTF-8, if there are any."""
        if self.undecodable:
            count = len(self.undecodable)
            warnings.warn(
                f"{count} text file{'s' * (count != 1)} cannot be read as UTF-8 and {'was' if count == 1 else 'were'} "
                f"left out, such as {printable(min(self.undecodable))}; convert them (iconv -f latin1 -t utf8)",
                AudioWarning,
                stacklevel=2,
            )

    def _lines(self, path: Path) -> list[str]:
        """Lines that are UTF-8; none if the file is missing."""
        found = self._found(path)
        if found is None:
            return []
        lines: list[str] = []
        undecodable = False
        try:
            for line in found.read_bytes().removeprefix(b"\xef\xbb\xbf").splitlines():
                try:
                    lines.append(line.decode())
                except UnicodeDecodeError:
                    undecodable = True
        except OSError:
            undecodable = True
        if undecodable:
            self.undecodable.append(found)
        return lines

    def _found(self, path: Path) -> Path | None:
        """The file of this name in any case, the same case if there are several."""
        if _is_file(path):
            return path
        if path.parent not in self._names:
            try:
                names = sorted(file.name for file in path.parent.iterdir())
            except OSError:
                names = []  # no folder of transcripts
            self._names[path.parent] = {name.lower(): name for name in names}
        name = self._names[path.parent].get(path.name.lower())
        found = None if name is None else path.with_name(name)
        return found if found is not None and _is_file(found) else None


def _is_file(path: Path) -> bool:
    """Like the method of Path, but also False for a name that is too long."""
    try:
        return path.is_file()
    except OSError:
        return False
