"""Token files, with one row per utterance: JSON Lines, Parquet, or a folder with one .npy file per utterance.

The folder holds ID.npy, the codes as (N,) int64, for every utterance, and index.jsonl, the rows without their
codes. Rows are streamed all ways: memory grows with the corpus by its ids alone. Nothing is ever pickled.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vqaudio.atomic import atomic_file, atomic_folder, check_writable
from vqaudio.tokens.parquet import SUFFIX as PARQUET
from vqaudio.tokens.parquet import check_pyarrow, read_parquet, write_parquet
from vqaudio.tokens.rows import TokenRow, format_row, make_row, parse_row

LINES = ".jsonl"
INDEX = f"index{LINES}"
FORMATS = (
    f"tokens are written as NAME{LINES} or NAME{PARQUET}, or as a folder of .npy files where the name has no suffix"
)


def write_tokens(path: str | Path, rows: Iterable[TokenRow], *, overwrite: bool = False) -> None:
    """Write `path`.jsonl, `path`.parquet, or the folder `path`; it appears whole, when all rows are written, or not.

    Where `rows` raises, `path` stays as it was. Raises ValueError for another suffix, a repeated id or no rows
    at all, OSError where it cannot write; FileExistsError too for a folder that holds anything but tokens;
    ModuleNotFoundError for Parquet without pyarrow.
    """
    path = Path(path)
    check_target(path, overwrite=overwrite)
    rows = _distinct(rows, path)
    if path.suffix == PARQUET:
        with atomic_file(path, overwrite=overwrite) as temporary:
            write_parquet(temporary, rows)
    elif path.suffix == LINES:
        with atomic_file(path, overwrite=overwrite) as temporary, temporary.open("w", encoding="utf-8") as file:
            for row in rows:
                file.write(format_row(row) + "\n")
    else:
        with atomic_folder(path) as folder, (folder / INDEX).open("w", encoding="utf-8") as index:
            for row in rows:
                np.save(folder / f"{row.id}.npy", row.tokens.codes.numpy(), allow_pickle=False)
                index.write(format_row(row, with_codes=False) + "\n")


def read_tokens(path: str | Path) -> Iterator[TokenRow]:
    """The rows of a .jsonl file, a .parquet file or a folder, one by one, checked.

    Raises FileNotFoundError and, for Parquet without pyarrow, ModuleNotFoundError at once; ValueError that names the
    line or row, where the reading comes to it: what `make_row` refuses, an id seen before, a file that is damaged, a
    .npy file that is missing, no rows at all.
    """
    path = Path(path)
    if path.is_dir():
        if not (path / INDEX).is_file():
            raise FileNotFoundError(f"{path} holds no tokens: it has no {INDEX}")
        return _read_lines(path / INDEX, lambda id: _load_npy(path / f"{id}.npy"))
    if not path.exists():
        raise FileNotFoundError(f"there are no tokens {path}; vqaudio tokenize makes them")
    if path.suffix == PARQUET:
        return _checked(path, "row", enumerate(read_parquet(path), start=1), make_row)
    if path.suffix != LINES:
        raise ValueError(f"{path} is not read as tokens: {FORMATS}")
    return _read_lines(path)


def read_token_files(paths: Iterable[str | Path]) -> list[TokenRow]:
    """All rows of several token files, in their order.

    Raises what `read_tokens` does, and ValueError for an id that two files share.
    """
    rows: list[TokenRow] = []
    file_of: dict[str, str | Path] = {}
    for path in paths:
        for row in read_tokens(path):
            if row.id in file_of:
                raise ValueError(f"id {row.id!r} is in {file_of[row.id]} and in {path}; ids must be unique")
            file_of[row.id] = path
            rows.append(row)
    return rows


def names_tokens(path: str | Path) -> bool:
    """Whether a path is one of tokens, by its suffix or, for a folder, by what it holds."""
    path = Path(path)
    return path.suffix in (LINES, PARQUET) or (path / INDEX).is_file()


def check_target(path: Path, *, overwrite: bool) -> None:
    """Raise what `write_tokens` would end in, before any work is done for the rows."""
    if path.suffix == PARQUET:
        check_pyarrow()
    if path.suffix in (LINES, PARQUET):
        check_writable(path, overwrite=overwrite)
    elif path.is_dir():
        with os.scandir(path) as entries:
            names = [entry.name for entry in entries]
        strangers = [name for name in names if name != INDEX and not name.endswith(".npy")]
        if strangers:
            raise FileExistsError(f"{path} holds more than tokens ({strangers[0]}); choose another folder")
        if names and not overwrite:
            raise FileExistsError(f"{path} exists already; pass --overwrite to replace it")
    elif path.suffix:
        raise ValueError(f"cannot write {path}: {FORMATS}; .tar comes in a later version")
    elif path.exists():
        raise NotADirectoryError(f"cannot write {path}: it is a file; {FORMATS}")
    else:
        check_writable(path, overwrite=overwrite)


def _distinct(rows: Iterable[TokenRow], path: Path) -> Iterator[TokenRow]:
    ids: set[str] = set()
    for row in rows:
        if row.id in ids:
            raise ValueError(f"cannot write {path}: id {row.id!r} occurs twice")
        ids.add(row.id)
        yield row
    if not ids:
        raise ValueError(f"cannot write {path}: there are no utterances")


def _read_lines(path: Path, load_codes: Callable[[str], np.ndarray] | None = None) -> Iterator[TokenRow]:
    with path.open("rb") as file:
        lines = ((number, line) for number, line in enumerate(file, start=1) if line.strip())
        yield from _checked(path, "line", lines, lambda line: parse_row(line, load_codes))


def _checked(
    path: Path, unit: str, found: Iterator[tuple[int, Any]], parse: Callable[[Any], TokenRow]
) -> Iterator[TokenRow]:
    """What is found in a file at each number of a unit -> its rows. Raises ValueError that names the unit's number."""
    number_of: dict[str, int] = {}
    for number, content in found:
        try:
            row = parse(content)
            if row.id in number_of:
                raise ValueError(f"id {row.id!r} was used in {unit} {number_of[row.id]} already; ids must be unique")
        except ValueError as error:
            raise ValueError(f"{path}, {unit} {number}: {error}") from error
        number_of[row.id] = number
        yield row
    if not number_of:
        raise ValueError(f"{path} is empty: it holds no token rows")


def _load_npy(path: Path) -> np.ndarray:
    try:
        with path.open("rb") as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except FileNotFoundError:
        raise ValueError(f"{path.name} is missing; make the tokens again") from None
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path.name} is not a .npy file that can be read ({error}); make the tokens again") from error
