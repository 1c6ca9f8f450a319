"""Reader for Praat TextGrid files in the long and the short text format.

Only the quoted strings and the free-standing numbers carry information; everything else is ignored.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

# a quoted string ("" is an escaped quotation mark), a comment, or a free-standing number (not that of "item [1]:")
_PIECE = re.compile(r'"((?:[^"]|"")*)"|![^\n]*|(?<!\S)(-?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)(?!\S)')
Value = TypeVar("Value", str, float)


class Interval(NamedTuple):
    line: int  # of the file, from 1
    start: float  # seconds
    end: float
    text: str


class Tier(NamedTuple):
    name: str
    intervals: list[Interval]


def read_tiers(path: Path) -> list[Tier]:
    """The interval tiers of a file in UTF-8 or UTF-16. Raises ValueError with the line if it is not a TextGrid."""
    found = _Values(path)
    if not found.next(str).startswith("ooTextFile") or found.next(str) != "TextGrid":
        raise ValueError(f"{path} is not a TextGrid in text format; save it in Praat as a (short) text file")
    found.skip_times()
    tiers = []
    for _ in range(int(found.next(float))):
        kind, name = found.next(str), found.next(str)
        found.skip_times()
        count = int(found.next(float))
        if kind == "IntervalTier":
            tiers.append(Tier(name, [found.interval() for _ in range(count)]))
        else:
            for _ in range(count):
                found.next(float)
                found.next(str)
    return tiers


class _Values:
    """Iterates over the numbers and strings of a file."""

    def __init__(self, path: Path):
        self.path, self.line = path, 1
        self._values = self._read(_decoded(path))

    def next(self, kind: type[Value]) -> Value:
        self.line, value = next(self._values, (self.line, None))
        if not isinstance(value, kind):
            got = "the end of the file" if value is None else repr(value)
            wanted = "a quoted string" if kind is str else "a number"
            raise ValueError(f"{self.path}, line {self.line}: expected {wanted}, got {got}; save it again in Praat")
        return value

    def interval(self) -> Interval:
        start, line = self.next(float), self.line
        return Interval(line, start, self.next(float), self.next(str))

    def skip_times(self) -> None:
        """Skip the start and end time of a file or tier, which follow from its intervals."""
        self.next(float)
        self.next(float)

    @staticmethod
    def _read(text: str) -> Iterator[tuple[int, float | str]]:
        line, upto = 1, 0
        for piece in _PIECE.finditer(text):
            line, upto = line + text.count("\n", upto, piece.start()), piece.start()
            if piece[1] is not None:
                yield line, piece[1].replace('""', '"')
            elif piece[2] is not None:
                yield line, float(piece[2])


def _decoded(path: Path) -> str:
    content = path.read_bytes()
    utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return content.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is neither UTF-8 nor UTF-16 text ({error.reason}); save it again in Praat") from error
