"""Token files: JSON Lines with one row per utterance, or a folder with one .npy file per utterance.

The folder holds ID.npy, the codes as (N,) int64, for every utterance, and index.jsonl, the rows without their
codes. Rows are streamed both ways: memory does not grow with the corpus. Nothing is ever pickled.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from vqaudio.data.atomic import atomic_file, atomic_folder, check_writable
from vqaudio.tokens.rows import TokenRow, format_row, parse_row

INDEX = "index.jsonl"
FORMATS = "tokens are written as NAME.jsonl, or as a folder of .npy files where the name has no suffix"


def write_tokens(path: str | Path, rows: Iterable[TokenRow], *, overwrite: bool = False) -> None:
    """Write `path`.jsonl, or the folder `path`; it appears whole, when all rows are written, or not at all.

    Where `rows` raises, `path` stays as it was. Raises ValueError for another suffix, a repeated id or no rows
    at all, OSError where it cannot write; FileExistsError too for a folder that holds anything but tokens.
    """
    path = Path(path)
    check_target(path, overwrite=overwrite)
    if path.suffix == ".jsonl":
        with atomic_file(path, overwrite=overwrite) as temporary, temporary.open("w", encoding="utf-8") as file:
            for row in _distinct(rows, path):
                file.write(format_row(row) + "\n")
        return
    with atomic_folder(path) as folder, (folder / INDEX).open("w", encoding="utf-8") as index:
        for row in _distinct(rows, path):
            np.save(folder / f"{row.id}.npy", row.tokens.codes.numpy(), allow_pickle=False)
            index.write(format_row(row, with_codes=False) + "\n")


def read_tokens(path: str | Path) -> Iterator[TokenRow]:
    """The rows of a .jsonl file or of a folder, one by one, checked.

    Raises FileNotFoundError at once; ValueError that names the line, where the reading comes to it: what
    `parse_row` refuses, an id seen before, a .npy file that is missing or damaged, no rows at all.
    """
    path = Path(path)
    if path.is_dir():
        if not (path / INDEX).is_file():
            raise FileNotFoundError(f"{path} holds no tokens: it has no {INDEX}")
        return _read_rows(path / INDEX, lambda id: _load_npy(path / f"{id}.npy"))
    if not path.exists():
        raise FileNotFoundError(f"there are no tokens {path}; vqaudio tokenize makes them")
    if path.suffix != ".jsonl":
        raise ValueError(f"{path} is not read as tokens: {FORMATS}")
    return _read_rows(path, None)


def check_target(path: Path, *, overwrite: bool) -> None:
    """Raise what `write_tokens` would end in, before any work is done for the rows."""
    if path.is_dir() and path.suffix != ".jsonl":
        with os.scandir(path) as entries:
            names = [entry.name for entry in entries]
        strangers = [name for name in names if name != INDEX and not name.endswith(".npy")]
        if strangers:
            raise FileExistsError(f"{path} holds more than tokens ({strangers[0]}); choose another folder")
        if names and not overwrite:
            raise FileExistsError(f"{path} exists already; pass --overwrite to replace it")
    elif path.suffix not in ("", ".jsonl"):
        raise ValueError(f"cannot write {path}: {FORMATS}; .parquet and .tar come in a later version")
    elif path.suffix == "" and path.exists():
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


def _read_rows(path: Path, load_codes: Callable[[str], np.ndarray] | None) -> Iterator[TokenRow]:
    line_of: dict[str, int] = {}
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = parse_row(line, load_codes)
                if row.id in line_of:
                    raise ValueError(f"id {row.id!r} was used in line {line_of[row.id]} already; ids must be unique")
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: {error}") from error
            line_of[row.id] = number
            yield row
    if not line_of:
        raise ValueError(f"{path} is empty: it holds no token rows")


def _load_npy(path: Path) -> np.ndarray:
    try:
        with path.open("rb") as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except FileNotFoundError:
        raise ValueError(f"{path.name} is missing; make the tokens again") from None
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path.name} is not a .npy file that can be read ({error}); make the tokens again") from error
