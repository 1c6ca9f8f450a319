"""Phone alignments: readers for TIMIT, Praat TextGrid, CTM and TSV files, and a TSV writer.

ID.phn        TIMIT: start, end and label per line, in samples
ID.TextGrid   Praat: one interval tier; empty intervals are unlabelled
NAME.ctm      NIST CTM: utterance, channel, start, duration, label [confidence] per line, in seconds; ;; is a comment
NAME.tsv      vqaudio, many utterances: utterance, start, end and label per line, in seconds, below a header; lines
              starting with # above the header are notes, such as the tool that made the file
ID.tsv        vqaudio, one utterance: start, end and phone per line

An alignment is a list of non-overlapping segments in temporal order. Stretches between segments are unlabelled.
Overlaps of up to 10 ms are removed by shortening a segment, and segments of length 0 are left out; AlignmentWarning
counts both.
"""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import dropwhile
from pathlib import Path
from typing import NamedTuple

from vqaudio.atomic import atomic_file, check_writable
from vqaudio.data.audio import AudioWarning
from vqaudio.data.audio_folders import visible_files
from vqaudio.data.textgrid import read_tiers
from vqaudio.pipes import DASH

TIERS = ("phones", "phone", "MAU")  # names used by the Montreal Forced Aligner, by many corpora, and by WebMAUS
HEADER = ["utterance", "start", "end", "label"]
HEADER_OF_ONE = ["start", "end", "phone"]
SUFFIXES = (".phn", ".textgrid", ".tsv")  # of files that hold one utterance
ROUNDING = 10.5e-3
"""seconds; smaller overlaps and gaps are due to times rounded to 10 ms (the half is for the rounding of floats)"""


class Segment(NamedTuple):
    """A labelled interval, usually one phone."""

    start: float  # seconds
    end: float
    label: str


Alignment = list[Segment]


class AlignmentWarning(AudioWarning):
    """Segments that were shortened or left out; the message counts them."""


@dataclass
class Repairs:
    """How many segments of the alignments that were read had to be changed."""

    empty: int = 0
    """segments of length 0, left out"""
    overlaps: int = 0
    """overlaps of at most 10 ms, removed"""

    def warn(self, path: Path) -> None:
        """AlignmentWarning with the numbers, unless both are 0."""
        if self.empty or self.overlaps:
            warnings.warn(
                f"{path}: {self.empty} segments of length 0 were left out, and {self.overlaps} overlaps of at most "
                "10 ms were removed",
                AlignmentWarning,
                stacklevel=3,
            )


_Lines = Iterator[tuple[int, list[str]]]  # line number from 1, and its columns


def find_alignments(
    path: str | Path, ids: Iterable[str], *, sample_rate: int = 16000, tier: str | None = None
) -> dict[str, Alignment]:
    """Read alignments from a folder (ID.phn, ID.TextGrid or ID.tsv at any depth), or from a .ctm or .tsv file.

    An id may include folders, joined by "-": DR1/FCJF0/SA1.PHN is the alignment of SA1, FCJF0-SA1 and DR1-FCJF0-SA1.

    Args:
        path: folder or file
        ids: ids of the utterances
        sample_rate: of .phn files, in Hz
        tier: name of the TextGrid tier; default: the first of TIERS that exists

    Returns:
        id -> alignment; utterances without an alignment are omitted

    Raises:
        FileNotFoundError: `path` does not exist
        ValueError: a damaged file, two files for one utterance, or no alignment for any utterance
    """
    path, wanted, repairs = Path(path), list(dict.fromkeys(ids)), Repairs()
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; give a folder with alignments, or a .ctm or .tsv file")
    if path.is_dir():
        files = _files_below(path, set(wanted))
        found = {id: _read_one(files[id], sample_rate, tier, repairs) for id in wanted if id in files}
        places = "files ID.phn, ID.TextGrid and ID.tsv at any depth"
    else:
        every = _read_many(path, repairs)
        found = {id: every[id] for id in wanted if id in every}
        places = f"its {len(every)} utterances" + (f", such as {next(iter(every))}" if every else "")
    if not found:
        raise ValueError(
            f"{path} has no alignment for any of the {len(wanted)} utterances"
            + (f", such as {wanted[0]}" if wanted else "")
            + f"; searched {places}"
        )
    repairs.warn(path)
    return found


def read_phn(path: Path, sample_rate: int = 16000, repairs: Repairs | None = None) -> Alignment:
    """Read a TIMIT .phn file. Raises ValueError with file and line."""
    if sample_rate < 1:
        raise ValueError(f"the sample rate of {path} must be at least 1 Hz, got {sample_rate}")
    checked = _Checked(path, repairs)
    for number, columns in _lines(path):
        start, end, label = _columns(path, number, columns, ["start", "end", "label"])
        checked.add(number, start, end, label, rate=sample_rate)
    return checked.alignment


def read_textgrid(path: Path, tier: str | None = None, repairs: Repairs | None = None) -> Alignment:
    """Read one tier of a TextGrid. Raises ValueError with file and line, or with the available tiers."""
    tiers = {
        found.name.lower(): found for found in reversed(read_tiers(path))
    }  # of two tiers with the same name, the first
    names = TIERS if tier is None else (tier,)
    chosen = next((tiers[name.lower()] for name in names if name.lower() in tiers), None)
    if chosen is None:
        there = ", ".join(repr(found.name) for found in reversed(tiers.values())) or "none"
        raise ValueError(
            f"{path} has no interval tier {' or '.join(names)}; it has {there}; name the tier with the phones"
        )
    checked = _Checked(path, repairs)
    for line, start, end, text in chosen.intervals:
        if text.strip():
            checked.add(line, start, end, text.strip())
    return checked.alignment


def read_ctm(path: Path, repairs: Repairs | None = None) -> dict[str, Alignment]:
    """Read all utterances of a CTM file. Raises ValueError with file and line."""
    found: dict[str, _Checked] = defaultdict(lambda: _Checked(path, repairs))
    for number, columns in _lines(path, comment=";;"):
        id, _, start, duration, label = _columns(
            path, number, columns[:5], ["utterance", "channel", "start", "duration", "label"]
        )
        found[id].add(number, start, _number(path, number, start) + _number(path, number, duration), label)
    return {id: checked.alignment for id, checked in found.items()}


def read_tsv(path: Path, repairs: Repairs | None = None) -> dict[str, Alignment]:
    """Read all utterances of a file made by `write_alignments`. Raises ValueError with file and line."""
    found: dict[str, _Checked] = defaultdict(lambda: _Checked(path, repairs))
    for number, (id, start, end, label) in _table(path, HEADER):
        found[id].add(number, start, end, label)
    return {id: checked.alignment for id, checked in found.items()}


def read_tsv_of_one(path: Path, repairs: Repairs | None = None) -> Alignment:
    """Read a TSV file of one utterance, as in egs/mini/phones. Raises ValueError with file and line."""
    checked = _Checked(path, repairs)
    for number, (start, end, label) in _table(path, HEADER_OF_ONE):
        checked.add(number, start, end, label)
    return checked.alignment


def write_alignments(
    path: str | Path, alignments: Mapping[str, Alignment], *, notes: Sequence[str] = (), overwrite: bool = False
) -> None:
    """Write a .tsv file (-: standard output) atomically; reading it back gives equal alignments.

    Empty alignments are omitted. Raises ValueError for another suffix, for names with tabs or line breaks and for
    invalid segments, OSError if the file cannot be written.
    """
    path = Path(path)
    check_table(path, overwrite=overwrite)
    lines = [*(f"# {' '.join(note.split())}" for note in notes), "\t".join(HEADER)]
    for id, alignment in alignments.items():
        checked = _Checked(path)
        for start, end, label in alignment:
            if any(not name.strip() or set(name) & set("\t\r\n") for name in (id, label)):
                raise ValueError(
                    f"names must not be blank or contain tabs or line breaks, got {id!r} with label {label!r}"
                )
            checked.add(len(lines) + len(checked.alignment) + 1, start, end, label)
            if checked.repairs.empty:
                raise ValueError(f"a segment must have a length above 0, got {label!r} of {id!r} at {start} s")
        lines += ["\t".join((id, repr(float(own.start)), repr(float(own.end)), own.label)) for own in checked.alignment]
    with atomic_file(path, overwrite=overwrite) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def check_table(path: Path, *, overwrite: bool) -> None:
    """Raise the error that writing alignments to `path` would raise, before any work is done."""
    if str(path) != DASH and path.suffix.lower() != ".tsv":
        raise ValueError(f"alignments are written to a .tsv file, or to - for standard output, got {path}")
    check_writable(path, overwrite=overwrite)


class _Checked:
    """Builds an alignment and validates every added segment against the previous one."""

    def __init__(self, path: Path, repairs: Repairs | None = None):
        self.path, self.alignment = path, Alignment()
        self.repairs = Repairs() if repairs is None else repairs

    def add(self, line: int, start: str | float, end: str | float, label: str, rate: float = 1.0) -> None:
        where = f"{self.path}, line {line}"
        new = Segment(_number(self.path, line, start) / rate, _number(self.path, line, end) / rate, label)
        if new.start < 0 or new.start > new.end:
            raise ValueError(f"{where}: {label!r} must start at 0 or later and end after that, got {start} to {end}")
        before = self.alignment[-1] if self.alignment else Segment(0, 0, "")
        if before.end - new.start > ROUNDING:
            raise ValueError(
                f"{where}: {label!r} starts at {new.start:g} s, before {before.label!r} ends at {before.end:g} s; "
                "segments must be in temporal order and must not overlap"
            )
        if new.start < new.end and new.start < before.end:
            self.repairs.overlaps += 1
            if before.start < new.start:
                self.alignment[-1] = before._replace(end=new.start)
            else:  # nothing would be left of the segment before
                new = new._replace(start=before.end)
        if new.start < new.end:
            self.alignment.append(new)
        else:
            self.repairs.empty += 1


def _files_below(root: Path, wanted: set[str]) -> dict[str, Path]:
    """Id -> alignment file, for the wanted ids."""
    files: dict[str, Path] = {}
    for path in visible_files(root).files:
        if path.suffix.lower() not in SUFFIXES:
            continue
        parts = path.relative_to(root).with_suffix("").parts
        for id in wanted & {"-".join(parts[first:]) for first in range(len(parts))}:
            if id in files:
                raise ValueError(
                    f"{files[id]} and {path} are both alignments of {id!r}; give a folder with only one of them"
                )
            files[id] = path
    return files


def _read_one(path: Path, sample_rate: int, tier: str | None, repairs: Repairs) -> Alignment:
    if path.suffix.lower() == ".phn":
        return read_phn(path, sample_rate, repairs)
    return read_tsv_of_one(path, repairs) if path.suffix.lower() == ".tsv" else read_textgrid(path, tier, repairs)


def _read_many(path: Path, repairs: Repairs) -> dict[str, Alignment]:
    if path.suffix.lower() not in (".ctm", ".tsv"):
        raise ValueError(f"an alignment file of many utterances must be .ctm or .tsv, got {path}")
    return read_ctm(path, repairs) if path.suffix.lower() == ".ctm" else read_tsv(path, repairs)


def _lines(path: Path, separator: str | None = None, comment: str | None = None) -> _Lines:
    """Line number and columns of each non-empty line."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error.reason}); convert it to UTF-8") from error
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip() and not (comment and line.startswith(comment)):
            yield number, line.rstrip("\r").split(separator)


def _table(path: Path, header: list[str]) -> _Lines:
    """The rows below the header of a tab-separated table."""
    lines = dropwhile(lambda line: _is_note(line[1][0]), _lines(path, "\t"))
    if next(lines, (0, None))[1] != header:
        raise ValueError(f"{path} must start with the header {' '.join(header)}, with tabs between the names")
    for number, columns in lines:
        yield number, _columns(path, number, columns, header)


def _is_note(line: str) -> bool:
    return line.startswith("#")


def _columns(path: Path, line: int, columns: list[str], names: list[str]) -> list[str]:
    if len(columns) != len(names) or not all(columns):
        raise ValueError(f"{path}, line {line}: expected {', '.join(names)}, got {' '.join(columns)!r}")
    return columns


def _number(path: Path, line: int, value: str | float) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{path}, line {line}: a time must be a finite number, got {value!r}")
    return number
