"""Token rows in Parquet: the content of a file, files of other writers, and errors for invalid files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from vqaudio.speech.tokens import Tokens
from vqaudio.tokens import parquet
from vqaudio.tokens.files import read_tokens, write_tokens
from vqaudio.tokens.rows import KEYS, TokenRow, format_row

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


@pytest.fixture
def rows(make_row) -> list[TokenRow]:
    return [make_row("a"), make_row("b_1 ü", speaker=None, num_codes=1), make_row("c", num_codes=300)]


@pytest.fixture
def columns(rows) -> dict[str, list[Any]]:
    """The rows as columns of plain Python lists."""
    return {
        "id": [row.id for row in rows],
        "speaker": [row.speaker for row in rows],
        "codes": [row.tokens.codes.tolist() for row in rows],
        **{name: [getattr(row.tokens, name) for row in rows] for name in KEYS[3:]},
    }


def _lines(rows) -> list[str]:
    return [format_row(row) for row in rows]


def test_the_file_is_plain_parquet(tmp_path, rows, columns) -> None:
    write_tokens(tmp_path / "t.parquet", rows)
    table = pq.read_table(tmp_path / "t.parquet")
    assert table.to_pydict() == columns
    assert {field.name: str(field.type) for field in table.schema} == {
        "id": "string",
        "speaker": "string",
        "codes": "list<element: int32>",
        "num_samples": "int64",
        "sample_rate": "int64",
        "hop": "int64",
        "model": "string",
    }
    assert [field.name for field in table.schema if field.nullable] == ["speaker"]
    group = pq.ParquetFile(tmp_path / "t.parquet").metadata.row_group(0)
    assert {group.column(i).compression for i in range(group.num_columns)} == {"ZSTD"}


@pytest.mark.parametrize(("limit", "expected"), [("GROUP_ROWS", [2, 1]), ("GROUP_CODES", [1, 2]), (None, [3])])
def test_a_group_ends_at_a_number_of_rows_or_codes(tmp_path, rows, monkeypatch, limit, expected) -> None:
    if limit:
        monkeypatch.setattr(parquet, limit, {"GROUP_ROWS": 2, "GROUP_CODES": 5}[limit])
    write_tokens(tmp_path / "t.parquet", rows)
    metadata = pq.ParquetFile(tmp_path / "t.parquet").metadata
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == expected
    assert _lines(read_tokens(tmp_path / "t.parquet")) == _lines(rows)


def test_the_largest_numbers_fit(tmp_path) -> None:
    row = TokenRow("a", None, Tokens(torch.tensor([0, 2**31 - 1]), 2**41, 2**33, 2**40, "f"))
    write_tokens(tmp_path / "t.parquet", [row])
    assert _lines(read_tokens(tmp_path / "t.parquet")) == _lines([row])


LISTS = [
    pa.list_(pa.int64()),
    pa.list_(pa.uint8()),
    pa.list_(pa.uint64()),
    pa.list_(pa.int32(), 5),
    pa.large_list(pa.int16()),
]


@pytest.mark.parametrize("lists", LISTS, ids=str)
@pytest.mark.parametrize("text", [pa.string(), pa.large_string(), pa.dictionary(pa.int16(), pa.string())], ids=str)
def test_files_of_other_writers_are_read(tmp_path, columns, lists, text) -> None:
    """Other types, another compression, columns in another order, an additional column, and a single row group."""
    given = {key: values * 50 for key, values in columns.items()}
    given["id"] = [f"{i}" for i in range(150)]
    given["codes"], given["num_samples"] = [[i, 1, 2, 3, 255] for i in range(150)], [40] * 150
    types = {"id": text, "speaker": text, "model": text, "codes": lists}
    arrays = {key: pa.array(values, types.get(key)) for key, values in given.items()}
    table = pa.table({"text": pa.array(["hello"] * 150), **dict(reversed(arrays.items()))})
    pq.write_table(table, tmp_path / "t.parquet", compression="snappy")
    rows = list(read_tokens(tmp_path / "t.parquet"))
    read = [(row.id, row.speaker, row.tokens.codes.tolist(), row.tokens.num_samples) for row in rows]
    assert read == list(zip(*(given[key] for key in ("id", "speaker", "codes", "num_samples")), strict=True))
    assert all(row.tokens.codes.dtype == torch.int64 for row in rows)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": ["a", "../x", "c"]}, r"t\.parquet, row 2: an utterance id must be usable as a file name"),
        ({"id": ["a", "b", "a"]}, r"t\.parquet, row 3: id 'a' already occurs in row 1"),
        ({"id": ["a", None, "c"]}, "row 2: id must be a non-empty string, got None"),
        ({"id": [1, 2, 3]}, "row 1: id must be a non-empty string, got 1"),
        ({"speaker": ["anna", "", None]}, "row 2: the speaker of 'b_1 ü' is empty"),
        ({"num_samples": [37.0, 5.0, 2397.0]}, r"row 1: num_samples must be an integer, got 37\.0"),
        ({"num_samples": [37, None, 2397]}, "row 2: num_samples must be an integer, got None"),
        ({"num_samples": [37, 9, 2397]}, "row 2: 9 samples at 8 samples per code require 2 codes, got 1"),
        ({"codes": [[1] * 5, [-1], [1] * 300]}, "row 2: codes must lie in 0"),
        ({"codes": [[1] * 5, [2**31], [1] * 300]}, "row 2: codes must lie in 0"),
        ({"codes": [[1] * 5, None, [1] * 300]}, "row 2: codes must be a list of integers"),
        ({"codes": [[1] * 5, [None], [1] * 300]}, r"row 2: codes must be integers of shape \(N,\), got \(1,\) float64"),
        ({"codes": [[1.0] * 5, [1.0], [1.0] * 300]}, r"t\.parquet: the column codes must contain lists of integers"),
        ({"codes": ["1", "2", "3"]}, "the column codes must contain lists of integers, got string"),
        ({"codes": [[[1]], [[2]], [[3]]]}, "the column codes must contain lists of integers, got list<"),
        ({"model": [None, "f", "f"]}, "row 1: model must be a non-empty string, got None"),
    ],
)
def test_invalid_rows_are_refused(tmp_path, columns, change, message) -> None:
    pq.write_table(pa.table(columns | change), tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=message):
        list(read_tokens(tmp_path / "t.parquet"))


@pytest.mark.parametrize("key", KEYS)
def test_a_missing_or_repeated_column_is_named(tmp_path, columns, key) -> None:
    table = pa.table({name: values for name, values in columns.items() if name != key})
    twice = pa.table(columns).append_column(key, pa.array(columns[key]))
    for wrong in (table, twice):
        pq.write_table(wrong, tmp_path / "t.parquet")
        with pytest.raises(
            ValueError, match=rf"t\.parquet must have exactly one column {key}; a row needs id, speaker, codes"
        ):
            list(read_tokens(tmp_path / "t.parquet"))


def test_a_file_without_rows_is_refused(tmp_path) -> None:
    with pq.ParquetWriter(tmp_path / "t.parquet", parquet._schema()):
        pass
    with pytest.raises(ValueError, match=r"t\.parquet is empty: it contains no token rows"):
        list(read_tokens(tmp_path / "t.parquet"))


def test_every_truncation_is_detected(tmp_path, rows) -> None:
    path = tmp_path / "t.parquet"
    write_tokens(path, rows)
    content = path.read_bytes()
    for size in range(0, len(content), 17):
        path.write_bytes(content[:size])
        with pytest.raises(
            ValueError, match=r"t\.parquet, after row 0: the file is damaged, truncated or not Parquet \(.+\); copy"
        ):
            list(read_tokens(path))


def test_a_flipped_bit_never_changes_a_row_silently(tmp_path, rows) -> None:
    """This holds for the pages, which have checksums, but not for the footer."""
    path = tmp_path / "t.parquet"
    write_tokens(path, rows)
    content = bytearray(path.read_bytes())
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    outcomes: dict[str, int] = {"refused": 0, "the same": 0}
    for bit in range(0, 8 * footer, 23):
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        content[bit // 8] ^= 1 << bit % 8
        try:
            read = _lines(read_tokens(path))
        except ValueError as error:
            assert str(error).startswith(f"{path}")
            outcomes["refused"] += 1
        else:
            assert read == _lines(rows)  # a bit that is not needed for the rows, such as a page's statistics
            outcomes["the same"] += 1
    assert outcomes["refused"] > 3 * outcomes["the same"]


def test_a_foreign_file_is_refused(tmp_path, rows) -> None:
    write_tokens(tmp_path / "t.jsonl", rows)
    (tmp_path / "t.jsonl").rename(tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=r"t\.parquet, after row 0: the file is damaged, truncated or not Parquet"):
        list(read_tokens(tmp_path / "t.parquet"))


def test_any_file_name_can_be_read(tmp_path, rows) -> None:
    write_tokens(tmp_path / "t.parquet", rows)
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.parquet"))  # not valid UTF-8
    (tmp_path / "t.parquet").rename(path)
    assert _lines(read_tokens(path)) == _lines(rows)


@pytest.mark.long
def test_a_process_can_exit_right_after_reading(tmp_path, rows) -> None:
    """One in three processes aborted at exit when Arrow read through a Python file."""
    path = tmp_path / "t.parquet"
    write_tokens(path, rows)
    reading = f"list(read_tokens(Path({str(path)!r})))"
    script = f"from pathlib import Path\nfrom vqaudio.tokens.files import read_tokens\n{reading}"
    for _ in range(6):
        subprocess.run([sys.executable, "-c", script], check=True)
