"""Token files with one row per utterance: JSON Lines, Parquet, or a folder with one .npy file per utterance.

The folder contains ID.npy with the codes, (N,) int64, of every utterance, and index.jsonl with the rows without their
codes. All formats are read and written row by row, so only the ids of a corpus are held in memory. Nothing is pickled.
A further format of one file per corpus is a row of the table FORMATS, at the end.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vqaudio.atomic import atomic_file, atomic_folder, check_writable
from vqaudio.pipes import DASH, is_stream, send, spooled
from vqaudio.tokens.parquet import SUFFIX as PARQUET
from vqaudio.tokens.parquet import check_pyarrow, read_parquet, write_parquet
from vqaudio.tokens.rows import TokenRow, format_row, make_row, parse_row

LINES = ".jsonl"
INDEX = f"index{LINES}"


class Format(NamedTuple):
    """How a file with one row per utterance is written and read."""

    write: Callable[[Path, Iterable[TokenRow]], None]
    """writes a new file"""
    read: Callable[[Path], Iterator[TokenRow]]
    """the checked rows of an existing file, one by one; its errors name the line or row, as those of `_checked`"""
    check: Callable[[], None] = lambda: None
    """raises ModuleNotFoundError if a package is missing that writing needs"""


def write_tokens(path: str | Path, rows: Iterable[TokenRow], *, overwrite: bool = False) -> None:
    """Writes the rows to `path`, a file with a suffix in FORMATS or a folder, atomically; - is standard output.

    If `rows` raises, `path` stays as it was. Raises ValueError for another suffix, a repeated id or no rows, OSError if
    writing fails, FileExistsError for an existing file without `overwrite` and for a folder that contains other files
    than tokens, and ModuleNotFoundError for Parquet without pyarrow.
    """
    path = Path(path)
    check_target(path, overwrite=overwrite)
    rows = _distinct(rows, path)
    if str(path) == DASH:
        for row in rows:
            send((format_row(row) + "\n").encode())
    elif path.suffix in FORMATS:
        with atomic_file(path, overwrite=overwrite) as temporary:
            FORMATS[path.suffix].write(temporary, rows)
    else:
        with atomic_folder(path) as folder, (folder / INDEX).open("w", encoding="utf-8") as index:
            for row in rows:
                np.save(codes_file(folder, row.id), row.tokens.codes.numpy(), allow_pickle=False)
                index.write(format_row(row, with_codes=False) + "\n")


def read_tokens(path: str | Path) -> Iterator[TokenRow]:
    """Reads and checks the rows of a file with a suffix in FORMATS or of a folder, one by one.

    Raises FileNotFoundError and, for Parquet without pyarrow, ModuleNotFoundError at once. While the rows are read,
    raises ValueError, with the number of the line or row, for an invalid row (see `make_row`), a repeated id, a damaged
    file, a missing .npy file and a file without rows.
    """
    path = Path(path)
    if path.is_dir():
        if not (path / INDEX).is_file():
            raise FileNotFoundError(f"{path} is not a folder of tokens: it has no {INDEX}")
        return _read_lines(path / INDEX, lambda id: _load_npy(path / f"{id}.npy"))
    if not path.exists():
        raise FileNotFoundError(f"token file {path} does not exist; vqaudio tokenize creates token files")
    if path.suffix not in FORMATS:
        raise ValueError(f"{path} is not a token file: {NAMES}")
    return FORMATS[path.suffix].read(path)


def read_token_files(paths: Iterable[str | Path]) -> list[TokenRow]:
    """All rows of several token files, in the given order.

    Raises what `read_tokens` raises, and ValueError for an id that occurs in two files.
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


def codes_file(path: Path, id: str) -> Path:
    """The file that `write_tokens` writes for the codes of one row: ID.npy in a folder, or `path` itself."""
    return path if path.suffix in FORMATS or str(path) == DASH else path / f"{id}.npy"


def names_tokens(path: str | Path) -> bool:
    """Whether a path names tokens: by its suffix or, for a folder, by its index file."""
    path = Path(path)
    return path.suffix in FORMATS or is_stream(path) or (path / INDEX).is_file()


@contextmanager
def token_file(path: str | Path) -> Iterator[Path]:
    """A path for `read_tokens`, which may be read several times: `path`, or a file with the JSON Lines of a stream."""
    with spooled(path, LINES) as file:
        yield file


def check_target(path: Path, *, overwrite: bool) -> None:
    """Raises what `write_tokens` would raise for `path`, before any rows are computed."""
    if str(path) == DASH:
        return
    if path.suffix in FORMATS:
        FORMATS[path.suffix].check()
        check_writable(path, overwrite=overwrite)
    elif path.is_dir():
        with os.scandir(path) as entries:
            names = [entry.name for entry in entries]
        others = [name for name in names if name != INDEX and not name.endswith(".npy")]
        if others:
            raise FileExistsError(f"{path} contains files that are not tokens ({others[0]}); choose another folder")
        if names and not overwrite:
            raise FileExistsError(f"{path} exists already; pass --overwrite to replace it")
    elif path.suffix:
        raise ValueError(f"cannot write {path}: {NAMES}; .tar is not supported yet")
    elif path.exists():
        raise NotADirectoryError(f"cannot write {path}: it is a file; {NAMES}")
    else:
        check_writable(path, overwrite=overwrite)


def _distinct(rows: Iterable[TokenRow], path: Path) -> Iterator[TokenRow]:
    ids: set[str] = set()
    for row in rows:
        if row.id in ids:
            raise ValueError(f"cannot write {path}: id {row.id!r} occurs twice; ids must be unique")
        ids.add(row.id)
        yield row
    if not ids:
        raise ValueError(f"cannot write {path}: there are no utterances; give at least one")


def _write_lines(path: Path, rows: Iterable[TokenRow]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(format_row(row) + "\n")


def _read_lines(path: Path, load_codes: Callable[[str], np.ndarray] | None = None) -> Iterator[TokenRow]:
    with path.open("rb") as file:
        lines = ((number, line) for number, line in enumerate(file, start=1) if line.strip())
        yield from _checked(path, "line", lines, lambda line: parse_row(line, load_codes))


def _read_parquet(path: Path) -> Iterator[TokenRow]:
    return _checked(path, "row", enumerate(read_parquet(path), start=1), make_row)


def _checked(
    path: Path, unit: str, numbered: Iterator[tuple[int, Any]], parse: Callable[[Any], TokenRow]
) -> Iterator[TokenRow]:
    """(number, content) of each unit ("line" or "row") of a file -> its rows. Raises ValueError with the number."""
    number_of: dict[str, int] = {}
    for number, content in numbered:
        try:
            row = parse(content)
            if row.id in number_of:
                raise ValueError(f"id {row.id!r} already occurs in {unit} {number_of[row.id]}; ids must be unique")
        except ValueError as error:
            raise ValueError(f"{path}, {unit} {number}: {error}") from error
        number_of[row.id] = number
        yield row
    if not number_of:
        raise ValueError(f"{path} is empty: it contains no token rows; vqaudio tokenize creates token files")


def _load_npy(path: Path) -> np.ndarray:
    try:
        with path.open("rb") as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except FileNotFoundError:
        raise ValueError(f"{path.name} is missing; copy or compute the tokens again") from None
    except (ValueError, EOFError) as error:
        raise ValueError(
            f"{path.name} is not a readable .npy file ({error}); copy or compute the tokens again"
        ) from error


FORMATS = {
    LINES: Format(_write_lines, _read_lines),
    PARQUET: Format(write_parquet, _read_parquet, check_pyarrow),
}
NAMES = (
    f"token files are named {' or '.join(f'NAME{suffix}' for suffix in FORMATS)}; a name without a suffix is a folder "
    "of .npy files"
)
