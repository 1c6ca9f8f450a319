"""Pitch tokens in token files and archives: they come back to the bit, and files without them are what they were."""

from __future__ import annotations

import json
import struct
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vqaudio.tokens.archive import archive_facts, pack, unpack
from vqaudio.tokens.archive_format import MAGIC, read_archive
from vqaudio.tokens.files import check_place_of_pitch, read_tokens, write_tokens
from vqaudio.tokens.layout import Layout
from vqaudio.tokens.rows import KEYS, TokenRow, format_row, parse_row
from vqaudio.tokens.stats import TokenStats

LOSSLESS = {  # name of the file -> layout
    "a.jsonl": Layout(),
    "b.jsonl": Layout(dedup=True),
    "c.jsonl": Layout("slamkit"),
    "d.parquet": Layout(),
    "e.parquet": Layout(dedup=True),
    "f.tar": Layout(),
    "g.tar": Layout(dedup=True),
    "h": Layout("webdataset", shard_rows=1),
    "i": Layout(),
}


@pytest.fixture
def rows(make_row, with_pitch) -> list[TokenRow]:
    return [with_pitch(make_row(id, speaker, n)) for id, speaker, n in (("a", None, 1), ("a.pitch", "anna", 700))]


def _lines(rows) -> list[str]:
    return [format_row(row) for row in rows]


@pytest.mark.parametrize("name", LOSSLESS)
def test_rows_come_back_to_the_bit(tmp_path, rows, name) -> None:
    if name.endswith(".parquet"):
        pytest.importorskip("pyarrow")
    write_tokens(tmp_path / name, rows, layout=LOSSLESS[name])
    assert _lines(read_tokens(tmp_path / name)) == _lines(rows)
    write_tokens(tmp_path / name, rows, layout=LOSSLESS[name], overwrite=True)  # a folder of tokens, also with pitch/


@pytest.mark.parametrize("names", [["pitch/a.npy"], ["index.jsonl", "pitch/a.wav"]])
def test_a_folder_with_a_pitch_of_others_is_not_replaced(tmp_path, rows, names) -> None:
    for name in names:
        (tmp_path / "n" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "n" / name).touch()
    with pytest.raises(FileExistsError, match="contains files that are not tokens"):
        write_tokens(tmp_path / "n", rows, overwrite=True)


def test_where_each_format_holds_them(tmp_path, rows) -> None:
    assert list(json.loads(format_row(rows[0]))) == [*KEYS[:3], "pitch", *KEYS[3:], "pitch_hop", "pitch_model"]
    write_tokens(tmp_path / "n", rows)
    assert np.load(tmp_path / "n/pitch/a.npy").tolist() == [0] and np.load(tmp_path / "n/a.pitch.npy").shape == (700,)
    write_tokens(tmp_path / "w.tar", rows)
    with tarfile.open(tmp_path / "w.tar") as archive:
        assert archive.getnames()[:3] == ["a.codes.npy", "a.json", "a.pitch.npy"]
    parquet = pytest.importorskip("pyarrow.parquet")
    write_tokens(tmp_path / "p.parquet", rows)
    names = parquet.read_schema(tmp_path / "p.parquet").names
    assert names == [*KEYS, "pitch", "pitch_hop", "pitch_model"]


def test_rows_without_them_are_written_as_before(tmp_path, make_row) -> None:
    row = make_row("a", None, 2)
    assert format_row(row) == (
        '{"id": "a", "speaker": null, "codes": [0, 37], "num_samples": 13, "sample_rate": 16000, "hop": 8, '
        '"model": "0123456789ab"}'
    )
    write_tokens(tmp_path / "n", [row])
    assert {path.name for path in (tmp_path / "n").iterdir()} == {"a.npy", "index.jsonl"}
    pack([row], tmp_path / "t.vqa")
    content = (tmp_path / "t.vqa").read_bytes()
    assert struct.unpack_from("<H", content, len(MAGIC)) == (1,)
    assert b"pitch" not in zlib.decompress(content[len(MAGIC) + 14 : -32])
    pytest.importorskip("pyarrow.parquet")
    write_tokens(tmp_path / "p.parquet", [row])
    assert next(read_tokens(tmp_path / "p.parquet")).tokens.pitch is None


def test_a_key_pitch_of_others_is_ignored(rows) -> None:
    facts = json.loads(format_row(rows[1]))
    del facts["pitch_model"]
    assert parse_row(json.dumps({**facts, "pitch": [110.5]}).encode()).tokens.pitch is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pitch": [1]}, "5597 samples at 24 samples per pitch token require 234 pitch tokens, got 1"),
        ({"pitch": [-1]}, "pitch must lie in 0"),
        ({"pitch": "x"}, "pitch must be a list of integers"),
        ({"pitch_hop": True}, "pitch_hop must be an integer"),
        ({"pitch_hop": 0}, "pitch_hop must lie in 1"),
        ({"pitch_model": 7}, "pitch_model must be a non-empty string"),
    ],
)
def test_wrong_values_are_named(rows, change, message) -> None:
    line = json.dumps({**json.loads(format_row(rows[1])), **change}).encode()
    with pytest.raises(ValueError, match=message):
        parse_row(line)


def test_a_missing_key_or_file_is_named(tmp_path, rows) -> None:
    facts = json.loads(format_row(rows[0]))
    del facts["pitch_hop"]
    with pytest.raises(ValueError, match=r"missing pitch_hop; a row needs id, .*pitch_model"):
        parse_row(json.dumps(facts).encode())
    write_tokens(tmp_path / "n", rows)
    (tmp_path / "n/pitch/a.npy").unlink()
    with pytest.raises(ValueError, match=r"index.jsonl, line 1: a.npy is missing"):
        list(read_tokens(tmp_path / "n"))


@pytest.mark.parametrize("name", ["t.jsonl", "t.parquet", "t"])
def test_a_file_has_them_in_all_rows_or_in_none(tmp_path, make_row, rows, name) -> None:
    if name.endswith(".parquet"):
        pytest.importorskip("pyarrow")
    for mixed, said in (([rows[0], make_row("b")], "'b' has no pitch"), ([make_row("b"), rows[0]], "'a' has pitch")):
        with pytest.raises(ValueError, match=f"{said} tokens, unlike the rows before it"):
            write_tokens(tmp_path / name, mixed)
        assert not (tmp_path / name).exists()


def test_unit_text_has_no_place_for_them(tmp_path, rows) -> None:
    for name, layout in (("t.units", Layout()), ("t.txt", Layout("kaldi"))):
        with pytest.raises(ValueError, match=r"cannot write pitch tokens to .*text of ids and codes alone"):
            check_place_of_pitch(tmp_path / name, layout)
    for name, layout in LOSSLESS.items():
        check_place_of_pitch(tmp_path / name, layout)
    write_tokens(tmp_path / "t.units", rows)
    assert (tmp_path / "t.units").read_text().startswith("a\t0\n")


def test_statistics_tell_their_rate(rows, make_row) -> None:
    stats = TokenStats()
    list(stats.watch(rows))
    assert stats.facts()["pitch"] == f"235, {235 / stats.seconds:.4g} per second"
    stats = TokenStats()
    stats.add(make_row())
    assert "pitch" not in stats.facts()


# --- archives ---


def test_an_archive_restores_them(tmp_path: Path, rows) -> None:
    facts = pack(rows, tmp_path / "t.vqa")
    assert _lines(unpack(read_archive(tmp_path / "t.vqa"))) == _lines(rows)
    assert facts.num_pitch_tokens == 235 and facts.pitch_bytes == 235  # below 200: 8 bits each
    assert facts.total_bytes == (tmp_path / "t.vqa").stat().st_size
    assert facts.pitch_rate == pytest.approx(8 * 235 / facts.seconds)
    alone = pack([replace(row, tokens=replace(row.tokens, pitch=None)) for row in rows], tmp_path / "alone.vqa")
    assert (alone.payload_bytes, alone.pitch_bytes) == (facts.payload_bytes, 0)
    assert archive_facts(read_archive(tmp_path / "t.vqa")) == facts
    assert struct.unpack_from("<H", (tmp_path / "t.vqa").read_bytes(), len(MAGIC)) == (2,)


def test_an_archive_refuses_what_does_not_belong_together(tmp_path, make_row, with_pitch, rows) -> None:
    others: list[tuple[Callable[[], TokenRow], str]] = [
        (lambda: make_row("b"), "pitch_model None"),
        (lambda: with_pitch(make_row("b"), model="ffffffffffff"), "pitch_model ffffffffffff"),
        (lambda: with_pitch(make_row("b"), hop=8), "pitch_hop 8"),
    ]
    for make, said in others:
        with pytest.raises(ValueError, match=f"'b' has {said}, but 'a' has .*separate archives"):
            pack([*rows, make()], tmp_path / "t.vqa")


def test_damaged_pitch_tokens_are_noticed(tmp_path, rows) -> None:
    pack(rows, tmp_path / "t.vqa")
    packed = read_archive(tmp_path / "t.vqa")
    changed = packed.payload[:-1] + bytes([packed.payload[-1] ^ 1])
    with pytest.raises(ValueError, match="the decoded pitch tokens differ from the packed ones"):
        list(unpack(packed._replace(payload=changed)))
