"""Units as text for language-model toolkits: one utterance per line, codes 0..K-1 as decimal numbers.

- textless: ID<TAB>code code ..., as textlesslib's transcribe.py with --preserve_name. (fairseq's GSLM scripts separate
  the name with | instead.)
- kaldi: ID code code ..., as ESPnet's pseudo-label files; in the order of the rows, where Kaldi's tools want it sorted.
- slamkit: JSON Lines with "units", "duration" and "file_name", as SlamKit's extract_features.py; the other keys of a
  token row are in it too, so it is a complete token file.

textless and kaldi have no place for the number of samples, the model and the speaker: they can be counted and trained
on, but not decoded. Letters: N codes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vqaudio.tokens.layout import Layout
from vqaudio.tokens.rows import MAX_CODE, TokenRow, code_arrays, format_row
from vqaudio.tokens.run_lengths import Codes


class UnitRow(NamedTuple):
    """One line of unit text."""

    id: str
    codes: Codes  # (N,), deduplicated if they were written so


def textless_line(row: TokenRow, layout: Layout) -> str:
    """ID<TAB>code code ..."""
    return f"{row.id}\t{_numbers(row, layout)}"


def kaldi_line(row: TokenRow, layout: Layout) -> str:
    """ID code code ... Raises ValueError for an id with a space."""
    check_kaldi_id(row.id)
    return f"{row.id} {_numbers(row, layout)}"


def slamkit_line(row: TokenRow, layout: Layout) -> str:
    """One JSON object; the id is its file name, because a row does not hold the path."""
    return json.dumps({"file_name": row.id, **json.loads(format_row(row, dedup=True))}, ensure_ascii=False)


def check_kaldi_id(id: str) -> None:
    """Raises ValueError for an id that would end at its first space."""
    if id.split() != [id]:
        raise ValueError(f"Kaldi's text files cannot have a space in an id, got {id!r}; use --format textless")


def read_units(path: Path) -> Iterator[UnitRow]:
    """The lines of a textless or kaldi file, one by one.

    Raises ValueError, with the number of the line, for anything else, a repeated id and a file without lines.
    """
    ids: set[str] = set()
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                row = _parsed(line)
                if row.id in ids:
                    raise ValueError(f"id {row.id!r} occurs twice")
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: {error}") from error
            ids.add(row.id)
            yield row
    if not ids:
        raise ValueError(f"{path} is empty: it has no units")


def _numbers(row: TokenRow, layout: Layout) -> str:
    codes = next(iter(code_arrays(row, layout.dedup).values()))
    return " ".join(map(str, codes.tolist()))


def _parsed(line: bytes) -> UnitRow:
    try:
        text = line.decode("utf-8").rstrip("\n")
    except UnicodeDecodeError:
        raise ValueError("neither a token file (.jsonl, .parquet, .tar) nor text") from None
    id, _, rest = text.partition("\t" if "\t" in text else " ")
    numbers = rest.split()
    if not id or not numbers or not all(number.isascii() and number.isdigit() for number in numbers):
        raise ValueError(f"unit text has an id and codes, separated by a tab or spaces, got {text[:40]!r}")
    longest = max(numbers, key=len)
    codes = [int(number) for number in numbers] if len(longest) <= len(str(MAX_CODE)) else [MAX_CODE + 1]
    if max(codes) > MAX_CODE:
        raise ValueError(f"codes must lie in 0..{MAX_CODE}, got one of {len(longest)} digits")
    return UnitRow(id, np.array(codes, dtype=np.int64))
