"""Token rows as Parquet files: one column per key of a row, zstd compression, and a checksum for every page.

Rows are written in groups and read in batches, so memory does not grow with the corpus.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vqaudio.tokens.layout import Layout
from vqaudio.tokens.rows import KEYS, PITCH_KEYS, RUN_LENGTHS, TokenRow, code_arrays, other_facts

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIX = ".parquet"
FAILURES = "failures.jsonl"  # in a folder of shards: the utterances that could not be tokenized
OTHERS = [key for key in KEYS if key != "codes"]
GROUP_ROWS = 4096  # largest number of rows in a row group
GROUP_CODES = 2**20  # a row group ends once it has this many codes, 4 MB before compression
ROWS_AT_ONCE = 64  # rows read in one batch, because row groups of other writers may have any size
BUFFER = 2**20  # bytes of a column that are read at once


def check_pyarrow() -> None:
    """Raises ModuleNotFoundError, with the package to install, if pyarrow is missing."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("Parquet files need pyarrow: pip install 'vqaudio[bulk]'") from error


def write_parquet(path: Path, rows: Iterable[TokenRow], layout: Layout = Layout()) -> None:
    """Writes the rows to `path`; all of them have pitch tokens, or none. Raises ModuleNotFoundError without pyarrow."""
    check_pyarrow()
    import pyarrow.parquet as pq

    rows = iter(rows)
    first = list(islice(rows, 1))
    rows, with_pitch = chain(first, rows), any(row.tokens.pitch is not None for row in first)
    schema = _schema(RUN_LENGTHS if layout.dedup else ("codes",), with_pitch)
    with pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True) as writer:
        for group in _groups(rows):
            writer.write_batch(_batch(group, schema, layout.dedup))


def parquet_shards(path: Path) -> list[Path]:
    """The shards of a folder in their order, or the file itself."""
    return sorted(path.glob(f"*{SUFFIX}")) if path.is_dir() else [path]


def read_parquet(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file, or of all shards of a folder, one by one, as dictionaries for `make_row`.

    Codes are an array, or None if null. Files of other writers are read too: codes may be any list type of integers,
    and further columns are ignored. Raises ModuleNotFoundError at once without pyarrow. While the rows are read, raises
    ValueError, with the number of the last row that was read, for another kind of file, missing columns, codes of
    another type and damaged or truncated files.
    """
    check_pyarrow()
    return chain.from_iterable(map(_read, parquet_shards(path)))


def _read(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    done = 0  # rows
    # opened by Arrow: with a Python file, a thread of Arrow may release buffers while Python exits, which aborts
    with pa.OSFile(os.fsencode(path)) as content:
        try:
            file = pq.ParquetFile(content, buffer_size=BUFFER, page_checksum_verification=True)
            lists, others = _check_columns(path, file.schema_arrow)
            for batch in file.iter_batches(ROWS_AT_ONCE, columns=[*lists, *others], use_threads=False):
                for facts in _facts(batch, lists, others):
                    yield facts
                    done += 1
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            reason = str(error).partition("\n")[0].rstrip(".")
            raise ValueError(
                f"{path}, after row {done}: the file is damaged, truncated or not Parquet ({reason}); copy or compute "
                "the tokens again"
            ) from error


def _check_columns(path: Path, schema: pa.Schema) -> tuple[list[str], list[str]]:
    """The columns with codes ("codes", or "units" and "duration", and "pitch"), and those with other facts.

    Raises ValueError if a column is missing or repeated, or if the codes are not lists of integers.
    """
    import pyarrow.types as kinds

    deduplicated = "codes" not in schema.names and "units" in schema.names
    lists, others = [*(RUN_LENGTHS if deduplicated else ("codes",))], [*OTHERS]
    if PITCH_KEYS[-1] in schema.names:
        lists, others = [*lists, PITCH_KEYS[0]], [*others, *PITCH_KEYS[1:]]
    if missing := [key for key in (*others[:2], *lists, *others[2:]) if schema.names.count(key) != 1]:
        raise ValueError(f"{path} must have exactly one column {', '.join(missing)}; a row needs {', '.join(KEYS)}")
    for key in lists:
        kind = schema.field(key).type
        listed = kinds.is_list(kind) or kinds.is_large_list(kind) or kinds.is_fixed_size_list(kind)
        if not listed or not kinds.is_integer(kind.value_type):
            raise ValueError(f"{path}: the column {key} must contain lists of integers, got {kind}")
    return lists, others


def _facts(batch: pa.RecordBatch, lists: list[str], others: list[str]) -> Iterator[dict[str, Any]]:
    for number, facts in enumerate(batch.select(others).to_pylist()):
        values = {key: batch.column(key)[number].values for key in lists}  # None for null
        arrays = {key: None if of is None else of.to_numpy(zero_copy_only=False) for key, of in values.items()}
        yield {**facts, **arrays}


def _groups(rows: Iterable[TokenRow]) -> Iterator[list[TokenRow]]:
    """The rows in groups; a group ends once it has GROUP_ROWS rows or at least GROUP_CODES codes."""
    group: list[TokenRow] = []
    codes = 0
    for row in rows:
        group.append(row)
        codes += len(row.tokens.codes)
        if len(group) == GROUP_ROWS or codes >= GROUP_CODES:
            yield group
            group, codes = [], 0
    if group:
        yield group


def _schema(lists: tuple[str, ...] = ("codes",), with_pitch: bool = False) -> pa.Schema:
    import pyarrow as pa

    numbers = dict.fromkeys(("num_samples", "sample_rate", "hop", "pitch_hop"), pa.int64())
    kinds = {**dict.fromkeys((*lists, "pitch"), pa.list_(pa.int32())), **numbers}
    keys = (*OTHERS[:2], *lists, *OTHERS[2:], *(PITCH_KEYS if with_pitch else ()))
    return pa.schema([pa.field(key, kinds.get(key, pa.string()), nullable=key == "speaker") for key in keys])


def _batch(rows: list[TokenRow], schema: pa.Schema, dedup: bool) -> pa.RecordBatch:
    import pyarrow as pa

    arrays, others = [code_arrays(row, dedup) for row in rows], [other_facts(row) for row in rows]
    columns = {
        "id": [row.id for row in rows],
        "speaker": [row.speaker for row in rows],
        **{key: [each[key].astype(np.int32) for each in arrays] for key in arrays[0]},
        **{key: [each[key] for each in others] for key in others[0]},
    }
    return pa.RecordBatch.from_pydict(columns, schema=schema)
