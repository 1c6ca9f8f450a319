"""Token files with one row per utterance: JSON Lines, Parquet, WebDataset, or a folder with a .npy file for each.

That folder contains ID.npy with the codes, (N,) int64, of every utterance, pitch/ID.npy with its pitch tokens, if any,
and index.jsonl with the rows without them. All formats are read and written row by row, so only the ids of a corpus are
held in memory. Nothing is pickled. A further format is a row of the table FORMATS, at the end.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vqaudio.atomic import atomic_file, atomic_folder, check_no_mount, check_writable
from vqaudio.pipes import DASH, is_stream, send, spooled
from vqaudio.tokens.layout import FormatName, Layout
from vqaudio.tokens.parquet import FAILURES, check_pyarrow, parquet_shards, read_parquet, write_parquet
from vqaudio.tokens.parquet import SUFFIX as PARQUET
from vqaudio.tokens.rows import Load, TokenRow, code_arrays, format_row, make_row, parse_row
from vqaudio.tokens.unit_text import check_kaldi_id, kaldi_line, slamkit_line, textless_line
from vqaudio.tokens.webdataset import SUFFIX as TAR
from vqaudio.tokens.webdataset import read_samples, sample_facts, shards_of, write_shards, write_tar

LINES, UNITS = ".jsonl", ".units"
INDEX, PITCH = f"index{LINES}", "pitch"


class Format(NamedTuple):
    """How the rows of a corpus are written and read."""

    suffix: str | None
    """of its files; "": a folder, None: any but those of token files"""
    write: Callable[[Path, Iterable[TokenRow], Layout], None]
    """writes a new file, or into a new, empty folder"""
    read: Callable[[Path], Iterator[TokenRow]] | None
    """the checked rows of an existing file, one by one; its errors name the line or row, as those of `_checked`. None
    for unit text, which has no complete rows"""
    check: Callable[[], None] = lambda: None
    """raises ModuleNotFoundError if a package is missing that writing needs"""
    line: Callable[[TokenRow, Layout], str] | None = None
    """a row as one line of text; None for formats that cannot be written to standard output"""
    check_id: Callable[[str], None] = lambda id: None
    """raises ValueError for an id that cannot be written"""


def write_tokens(
    path: str | Path, rows: Iterable[TokenRow], *, overwrite: bool = False, layout: Layout = Layout()
) -> None:
    """Writes the rows to `path`, a file or a folder, atomically; - is standard output.

    Suffix and `layout` choose the format (see FORMATS). If `rows` raises, `path` stays as it was. Raises ValueError for
    a suffix that does not suit the layout, a repeated id, no rows, and rows of which only some have pitch tokens,
    OSError if writing fails, FileExistsError for an existing file without `overwrite` and for a folder that contains
    other files than tokens, and ModuleNotFoundError for Parquet without pyarrow.
    """
    path = Path(path)
    check_target(path, overwrite=overwrite, layout=layout)
    rows, format = _distinct(rows, path), FORMATS[format_of(path, layout)]
    if str(path) == DASH:
        assert format.line is not None
        for row in rows:
            send((format.line(row, layout) + "\n").encode())
    elif _is_folder(format, layout):
        with atomic_folder(path) as folder:
            (write_shards if layout.sharded else format.write)(folder, rows, layout)
    else:
        with atomic_file(path, overwrite=overwrite) as temporary:
            format.write(temporary, rows, layout)


def read_tokens(path: str | Path) -> Iterator[TokenRow]:
    """Reads and checks the rows of a token file or of a folder of tokens, one by one.

    Raises FileNotFoundError, ValueError for unit text (see `tokens/unit_text.py`) and, for Parquet without pyarrow,
    ModuleNotFoundError at once. While the rows are read, raises ValueError, with the number of the line or row, for an
    invalid row (see `make_row`), a repeated id, a damaged file, a missing .npy file and a file without rows.
    """
    path = Path(path)
    if path.is_dir():
        if (path / INDEX).is_file():
            return _read_npy(path)
        if shards_of(path):
            return _read_tar(path)
        if parquet_shards(path):
            return _read_parquet(path)
        raise FileNotFoundError(f"{path} is not a folder of tokens: it has no {INDEX} and no .tar or .parquet shards")
    if not path.exists():
        raise FileNotFoundError(f"token file {path} does not exist; vqaudio tokenize creates token files")
    read = FORMATS[BY_SUFFIX[path.suffix]].read if path.suffix in TOKEN_SUFFIXES else None
    if read is None:
        raise ValueError(
            f"{path} is not a token file: {NAMES}; unit text (--format textless or kaldi) has no model, no number of "
            "samples and, deduplicated, no durations: give the token file that it was made from"
        )
    return read(path)


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


def codes_file(path: Path, id: str, layout: Layout = Layout()) -> Path:
    """The file that `write_tokens` writes for the codes of one row: ID.npy in a folder, or `path` itself."""
    return path / f"{id}.npy" if format_of(path, layout) == "npy" else path


def names_tokens(path: str | Path) -> bool:
    """Whether a path names tokens: by its suffix or, for a folder, by its content."""
    path = Path(path)
    if path.is_dir():
        return (path / INDEX).is_file() or bool(shards_of(path) or parquet_shards(path))
    return is_stream(path) or path.suffix in TOKEN_SUFFIXES


def names_unit_text(path: str | Path) -> bool:
    """Whether a path names an existing file that can only be unit text (see `tokens/unit_text.py`)."""
    path = Path(path)
    return path.is_file() and not names_tokens(path)


def format_of(path: Path, layout: Layout) -> FormatName:
    """The format that the suffix of `path` and the layout choose.

    Raises ValueError if they choose none, or contradict each other, so that the file could not be read.
    """
    if str(path) == DASH:
        name = layout.format or ("webdataset" if layout.sharded else "jsonl")
        if FORMATS[name].line is None:
            raise ValueError(f"{name} cannot be written to standard output; name a file")
        return name
    suffix = "" if path.is_dir() and path.suffix not in TOKEN_SUFFIXES else path.suffix  # a folder's name may have dots
    name = layout.format or ("webdataset" if layout.sharded else BY_SUFFIX.get(suffix))
    if name is None:
        raise ValueError(f"cannot write {path}: {NAMES}")
    expected = "" if layout.sharded else FORMATS[name].suffix
    if expected is None and suffix in TOKEN_SUFFIXES:
        raise ValueError(
            f"cannot write {path}: {name} is unit text, and {suffix} names token files; use .txt or .units"
        )
    if expected is not None and suffix != expected:
        wanted = f"a name that ends in {expected}" if expected else "a name without a suffix, for a folder"
        raise ValueError(f"cannot write {path}: the format {name} needs {wanted}")
    return name


@contextmanager
def token_file(path: str | Path) -> Iterator[Path]:
    """A path for `read_tokens`, which may be read several times: `path`, or a file with the JSON Lines of a stream.

    In a ValueError that the block raises, the stream is named in place of that file.
    """
    with spooled(path, LINES) as file:
        try:
            yield file
        except ValueError as error:
            if str(file) not in str(error):
                raise
            raise ValueError(str(error).replace(str(file), str(path))) from error


def check_target(path: Path, *, overwrite: bool, layout: Layout = Layout()) -> None:
    """Raises what `write_tokens` would raise for `path` and `layout`, before any rows are computed."""
    name = format_of(path, layout)
    format = FORMATS[name]
    if layout.dedup and name == "npy":
        raise ValueError(f"cannot write {path}: a folder of .npy files has no place for durations; choose a format")
    if str(path) == DASH:
        return
    format.check()
    if not _is_folder(format, layout):
        check_writable(path, overwrite=overwrite)
    elif path.is_dir():
        check_no_mount(path)
        _check_replaced(path, overwrite)
    elif path.exists():
        raise NotADirectoryError(f"cannot write {path}: it is a file; {NAMES}")
    else:
        check_writable(path, overwrite=overwrite)


def check_ids(ids: Iterable[str], path: Path, layout: Layout) -> None:
    """Raises ValueError for the first id that cannot be written, before any rows are computed."""
    for id in ids:
        FORMATS[format_of(path, layout)].check_id(id)


def check_place_of_pitch(path: Path, layout: Layout) -> None:
    """Raises ValueError for a format that has no place for pitch tokens."""
    name = format_of(path, layout)
    if FORMATS[name].read is None:
        raise ValueError(f"cannot write pitch tokens to {path}: {name} is text of ids and codes alone; choose a format")


def _is_folder(format: Format, layout: Layout) -> bool:
    return format.suffix == "" or layout.sharded


def _check_replaced(folder: Path, overwrite: bool) -> None:
    """Raises FileExistsError for an existing folder that must not be replaced."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries]
    if INDEX in names and (folder / PITCH).is_dir():
        names.remove(PITCH)
        names += [path.name for path in (folder / PITCH).iterdir()]
    others = [name for name in names if name not in (INDEX, FAILURES) and not name.endswith((".npy", TAR, PARQUET))]
    if others:
        raise FileExistsError(f"{folder} contains files that are not tokens ({others[0]}); choose another folder")
    if names and not overwrite:
        raise FileExistsError(f"{folder} exists already; pass --overwrite to replace it")


def _distinct(rows: Iterable[TokenRow], path: Path) -> Iterator[TokenRow]:
    ids: set[str] = set()
    with_pitch: bool | None = None  # the first row
    for row in rows:
        if row.id in ids:
            raise ValueError(f"cannot write {path}: id {row.id!r} occurs twice; ids must be unique")
        if with_pitch not in (None, has_pitch := row.tokens.pitch is not None):
            raise ValueError(
                f"cannot write {path}: {row.id!r} has {'' if has_pitch else 'no '}pitch tokens, unlike the rows before "
                "it; write separate files"
            )
        with_pitch = has_pitch
        ids.add(row.id)
        yield row
    if not ids:
        raise ValueError(f"cannot write {path}: there are no utterances; give at least one")


def _lines(
    suffix: str | None,
    line: Callable[[TokenRow, Layout], str],
    read: Callable[[Path], Iterator[TokenRow]] | None,
    check_id: Callable[[str], None] = lambda id: None,
) -> Format:
    """A format of one line of text per row."""

    def write(path: Path, rows: Iterable[TokenRow], layout: Layout) -> None:
        with path.open("w", encoding="utf-8") as file:
            for row in rows:
                file.write(line(row, layout) + "\n")

    return Format(suffix, write, read, line=line, check_id=check_id)


def _write_npy(folder: Path, rows: Iterable[TokenRow], layout: Layout) -> None:
    with (folder / INDEX).open("w", encoding="utf-8") as index:
        for row in rows:
            for key, codes in code_arrays(row).items():
                path = _npy(folder, key, row.id)
                path.parent.mkdir(exist_ok=True)
                np.save(path, codes, allow_pickle=False)
            index.write(format_row(row, with_codes=False) + "\n")


def _read_npy(path: Path) -> Iterator[TokenRow]:
    return _read_lines(path / INDEX, lambda key, id: _load_npy(_npy(path, key, id)))


def _npy(folder: Path, key: str, id: str) -> Path:
    """The file of the codes or the pitch of a row."""
    return (folder if key == "codes" else folder / key) / f"{id}.npy"


def _read_tar(path: Path) -> Iterator[TokenRow]:
    samples = enumerate(read_samples(path), start=1)
    return _checked(path, "row", samples, lambda sample: make_row(sample_facts(sample)))


def _read_lines(path: Path, load: Load | None = None) -> Iterator[TokenRow]:
    with path.open("rb") as file:
        lines = ((number, line) for number, line in enumerate(file, start=1) if line.strip())
        yield from _checked(path, "line", lines, lambda line: parse_row(line, load))


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
    if path.exists() and not path.is_file():  # reading a pipe would wait for its writer
        raise ValueError(f"{path.name} is not a file; copy or compute the tokens again")
    try:
        with path.open("rb") as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except FileNotFoundError:
        raise ValueError(f"{path.name} is missing; copy or compute the tokens again") from None
    except (ValueError, EOFError) as error:
        raise ValueError(
            f"{path.name} is not a readable .npy file ({error}); copy or compute the tokens again"
        ) from error


FORMATS: dict[FormatName, Format] = {
    "jsonl": _lines(LINES, lambda row, layout: format_row(row, dedup=layout.dedup), _read_lines),
    "parquet": Format(PARQUET, write_parquet, _read_parquet, check_pyarrow),
    "npy": Format("", _write_npy, _read_npy),
    "webdataset": Format(TAR, write_tar, _read_tar),
    "textless": _lines(None, textless_line, None),
    "slamkit": _lines(LINES, slamkit_line, _read_lines),
    "kaldi": _lines(None, kaldi_line, None, check_kaldi_id),
}
BY_SUFFIX: dict[str, FormatName] = {LINES: "jsonl", PARQUET: "parquet", TAR: "webdataset", UNITS: "textless", "": "npy"}
"""the format of a name, without a layout"""
TOKEN_SUFFIXES = (LINES, PARQUET, TAR)
NAMES = (
    f"token files are named {' or '.join(f'NAME{suffix}' for suffix in TOKEN_SUFFIXES)}; a name without a suffix is a "
    "folder of .npy files"
)
