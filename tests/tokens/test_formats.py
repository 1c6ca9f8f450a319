"""Every format and option holds the same rows to the bit; layouts are those that other toolkits read."""

from __future__ import annotations

import json
import random
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vqaudio.cli.main import main
from vqaudio.speech.tokens import Tokens
from vqaudio.tokens.files import FORMATS, check_ids, read_tokens, write_tokens
from vqaudio.tokens.layout import FormatName, Layout
from vqaudio.tokens.rows import TokenRow, format_row, parse_row
from vqaudio.tokens.run_lengths import expanded, run_lengths
from vqaudio.tokens.unit_text import read_units

LOSSLESS = {  # name of the file -> layout
    "a.jsonl": Layout(),
    "b.jsonl": Layout(dedup=True),
    "c.jsonl": Layout("slamkit"),
    "d.parquet": Layout(),
    "e.parquet": Layout(dedup=True),
    "f.tar": Layout(),
    "g.tar": Layout(dedup=True),
    "h": Layout("webdataset", shard_rows=2),
    "i": Layout("webdataset", dedup=True, shard_bytes=10240),
    "j": Layout(),
}


def _row(id: str, codes: list[int], speaker: str | None = "anna") -> TokenRow:
    return TokenRow(id, speaker, Tokens(torch.tensor(codes), 8 * len(codes) - 3, 16000, 8, "0123456789ab"))


@pytest.fixture(scope="module")
def rows() -> list[TokenRow]:
    """Runs of equal codes, long names, and names with what separates things elsewhere."""
    draw = random.Random(0)
    runs = [code for code in draw.choices(range(512), k=200) for _ in range(draw.randint(1, 5))]
    names = ["a", "b.1 ü", "50%.x.y", "c" * 200, "|d|"]
    return [_row("first", [7, 7, 7, 0, 0, 511], None), *(_row(name, runs[i:]) for i, name in enumerate(names))]


def _lines(rows) -> list[str]:
    return [format_row(row) for row in rows]


@pytest.mark.parametrize("name", LOSSLESS)
def test_rows_come_back_to_the_bit(tmp_path, rows, name) -> None:
    if name.endswith(".parquet"):
        pytest.importorskip("pyarrow")
    write_tokens(tmp_path / name, rows, layout=LOSSLESS[name])
    assert _lines(read_tokens(tmp_path / name)) == _lines(rows)


def test_every_name_of_a_format_is_one_of_the_table() -> None:
    assert set(FORMATS) == set(get_args(FormatName))


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30))
def test_run_lengths_are_undone(codes) -> None:
    runs = run_lengths(np.array(codes))
    assert (np.diff(runs.units) != 0).all() and runs.duration.min() >= 1
    assert expanded(*runs, len(codes)).tolist() == codes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"duration": None}, "duration must be a list of integers"),
        ({"duration": [3]}, "for each of the 3 units"),
        ({"duration": [3, 0, 3]}, "at least 1"),
        ({"duration": [3, 2, 2]}, "6 in all"),
        ({"duration": [2**31 - 1] * 3}, "6 in all"),  # not expanded first
        ({"units": [7, -1, 511]}, "units must lie in"),
    ],
)
def test_wrong_durations_are_refused(rows, change, message) -> None:
    facts = {**json.loads(format_row(rows[0], dedup=True)), **change}
    with pytest.raises(ValueError, match=message):
        parse_row(json.dumps(facts).encode())


# --- WebDataset ---


def test_shards_depend_on_the_rows_alone_and_keep_their_sizes(tmp_path, rows) -> None:
    for name, layout in (("rows", Layout(shard_rows=4)), ("bytes", Layout(shard_bytes=20480))):
        write_tokens(tmp_path / name, rows, layout=layout)
        write_tokens(tmp_path / "again", rows, layout=layout, overwrite=True)
        shards = sorted((tmp_path / name).iterdir())
        assert [shard.name for shard in shards] == [f"{i:06d}.tar" for i in range(2)]
        assert [shard.read_bytes() for shard in shards] == [
            p.read_bytes() for p in sorted((tmp_path / "again").iterdir())
        ]
    assert all(shard.stat().st_size <= 20480 for shard in shards)
    with tarfile.open(shards[0]) as archive:
        facts = {(i.mtime, i.uid, i.gid, i.uname, i.gname, i.mode) for i in archive.getmembers()}
        assert facts == {(0, 0, 0, "", "", 0o644)}
        assert archive.getnames()[:4] == ["first.codes.npy", "first.json", "a.codes.npy", "a.json"]


def test_the_webdataset_package_reads_the_shards(tmp_path, rows) -> None:
    webdataset = pytest.importorskip("webdataset")
    write_tokens(tmp_path / "t", rows, layout=Layout(shard_rows=4))
    urls = str(tmp_path / "t" / "{000000..000001}.tar")
    samples = list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False).decode())
    assert [sample["json"]["id"] for sample in samples] == [row.id for row in rows]
    for sample, row in zip(samples, rows, strict=True):
        assert sample["codes.npy"].dtype == np.int32
        assert sample["codes.npy"].tolist() == row.tokens.codes.tolist()
        assert sample["json"]["num_samples"] == row.tokens.num_samples


def _rewritten(path: Path, change: Callable[[str, bytes], tuple[str, bytes] | None]) -> None:
    with tarfile.open(path) as archive:
        members = [(info, archive.extractfile(info).read()) for info in archive.getmembers()]  # pyright: ignore
    with path.open("wb") as file, tarfile.open(fileobj=file, mode="w") as archive:
        for info, content in members:
            if (changed := change(info.name, content)) is not None:
                import io

                info.name, content = changed
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda name, content: None if name == "a.json" else (name, content), r"row 2: a\.json is missing"),
        (lambda name, content: None if name == "a.codes.npy" else (name, content), "row 2: missing codes"),
        (lambda name, content: (name, content[:-9]) if name == "a.codes.npy" else (name, content), "not a readable"),
        (lambda name, content: (name, b"{") if name == "a.json" else (name, content), r"a\.json is not JSON"),
        (lambda name, content: (name.replace("a.", "x."), content), "with the id of the sample"),
    ],
)
def test_damaged_samples_are_named(tmp_path, rows, change, message) -> None:
    write_tokens(tmp_path / "t.tar", rows[:3])
    _rewritten(tmp_path / "t.tar", change)
    with pytest.raises(ValueError, match=message):
        list(read_tokens(tmp_path / "t.tar"))


def test_damaged_shards_are_refused(tmp_path, rows) -> None:
    write_tokens(tmp_path / "t.tar", rows)
    whole = (tmp_path / "t.tar").read_bytes()
    end = len(whole.rstrip(b"\0"))
    for damaged in (b"", whole[:700], whole[: end // 1024 * 512], whole[:3000] + bytes(4000) + whole[7000:], whole[1:]):
        (tmp_path / "t.tar").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"t\.tar is (damaged, truncated|empty)|row \d: "):
            list(read_tokens(tmp_path / "t.tar"))


# --- text ---


@pytest.mark.parametrize("dedup", [False, True])
def test_unit_text_is_one_line_per_utterance(tmp_path, rows, dedup) -> None:
    write_tokens(tmp_path / "t.units", rows, layout=Layout(dedup=dedup))
    numbers = "7 0 511" if dedup else "7 7 7 0 0 511"
    assert (tmp_path / "t.units").read_text().splitlines()[0] == f"first\t{numbers}"
    spaceless = [row if " " not in row.id else replace(row, id=row.id.replace(" ", "_")) for row in rows]
    write_tokens(tmp_path / "text", spaceless, layout=Layout("kaldi", dedup=dedup))
    with pytest.raises(ValueError, match="text is not a token file"):
        read_tokens(tmp_path / "text")
    assert (tmp_path / "text").read_text().splitlines()[0] == f"first {numbers}"
    for name, written in (("t.units", rows), ("text", spaceless)):
        codes = [row.tokens.codes.numpy() for row in written]
        expected = [run_lengths(each).units if dedup else each for each in codes]
        found = list(read_units(tmp_path / name))
        assert [row.id for row in found] == [row.id for row in written]
        assert all(np.array_equal(row.codes, each) for row, each in zip(found, expected, strict=True))


def test_slamkit_lines_have_what_its_tokenisers_read(tmp_path, rows) -> None:
    write_tokens(tmp_path / "t.jsonl", rows, layout=Layout("slamkit"))
    facts = json.loads((tmp_path / "t.jsonl").read_text().splitlines()[0])
    assert (facts["units"], facts["duration"], facts["file_name"]) == ([7, 0, 511], [3, 2, 1], "first")


def test_ids_with_spaces_are_refused_for_kaldi_before_the_work(tmp_path) -> None:
    with pytest.raises(ValueError, match="cannot have a space in an id, got 'b 1'"):
        check_ids(["a", "b 1"], tmp_path / "text", Layout("kaldi"))
    check_ids(["a", "b 1"], tmp_path / "t.units", Layout())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"a\t1 2\na\t3\n", "line 2: id 'a' occurs twice"),
        (b"a\t1 2\nb\tone\n", "line 2: unit text has an id and codes"),
        (b"\x89PNG\r\n\x1a\n", "line 1: neither a token file"),
        (b"a 1 2147483648\n", r"codes must lie in 0\.\.2147483647"),
        (b"a 1 " + b"9" * 5000 + b"\n", "5000 digits"),
    ],
)
def test_what_is_not_unit_text_is_refused(tmp_path, content, message) -> None:
    (tmp_path / "t.units").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        list(read_units(tmp_path / "t.units"))


@pytest.mark.parametrize(
    ("target", "layout", "message"),
    [
        ("t.jsonl", Layout("parquet"), r"the format parquet needs a name that ends in \.parquet"),
        ("t.jsonl", Layout("textless"), r"textless is unit text, and \.jsonl names token files"),
        ("t.tar", Layout("npy"), "the format npy needs a name without a suffix"),
        ("t", Layout("slamkit"), r"the format slamkit needs a name that ends in \.jsonl"),
        ("t.tar", Layout("webdataset", shard_rows=3), "the format webdataset needs a name without a suffix"),
        ("t", Layout(dedup=True), "a folder of .npy files has no place for durations"),
        ("-", Layout("parquet"), "parquet cannot be written to standard output"),
        ("-", Layout(shard_rows=3), "webdataset cannot be written to standard output"),
    ],
)
def test_layouts_that_do_not_suit_the_name_are_refused(tmp_path, rows, target, layout, message) -> None:
    with pytest.raises(ValueError, match=message):
        write_tokens(target if target == "-" else tmp_path / target, rows, layout=layout)
    assert not list(tmp_path.iterdir())


def test_shards_need_their_format_and_a_size() -> None:
    with pytest.raises(ValueError, match="only the format webdataset is written in shards, not kaldi"):
        Layout("kaldi", shard_rows=3)
    with pytest.raises(ValueError, match="shard_bytes must be at least 1, got 0"):
        Layout(shard_bytes=0)


# --- command line ---


def test_reformat_through_all_formats_and_back(tmp_path, capsys, rows) -> None:
    pytest.importorskip("pyarrow")
    write_tokens(tmp_path / "0.jsonl", rows)
    steps = [
        ("1.tar", "--dedup"),
        ("2", "--shard-rows", "2"),
        ("3.parquet",),
        ("4.jsonl", "--format", "slamkit"),
        ("5",),
    ]
    source = "0.jsonl"
    for name, *flags in [*steps, ("6.jsonl",)]:
        assert main(["reformat", str(tmp_path / source), "--out", str(tmp_path / name), *flags]) == 0
        source = name
    assert (tmp_path / "6.jsonl").read_bytes() == (tmp_path / "0.jsonl").read_bytes()
    capsys.readouterr()
    for name, *_ in steps:
        assert main(["info", str(tmp_path / name)]) == 0
        whole = capsys.readouterr().out
        assert main(["info", str(tmp_path / "0.jsonl")]) == 0
        assert capsys.readouterr().out == whole


def test_unit_text_has_statistics_but_no_sound(tmp_path, capsys, rows, tiny_model_dir) -> None:
    write_tokens(tmp_path / "t.jsonl", rows[:2])
    text = str(tmp_path / "t.units")
    assert main(["reformat", str(tmp_path / "t.jsonl"), "--out", text, "--dedup"]) == 0
    capsys.readouterr()
    assert main(["info", text]) == 0
    said = capsys.readouterr().out
    assert "utterances    2\n" in said and "model         unknown" in said and "highest 511" in said
    assert main(["decode", text, "--out", str(tmp_path / "o"), "--model", str(tiny_model_dir)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "t.units is not a token file" in said and "no durations" in said
    (tmp_path / "u.jsonl").write_text('{"id": "a", "speaker": null, "units": [1], "num_samples": 3, "sample_rate": 8, ')
    with (tmp_path / "u.jsonl").open("a") as file:
        file.write('"hop": 1, "model": "x"}\n')
    assert (
        main(["decode", str(tmp_path / "u.jsonl"), "--out", str(tmp_path / "o"), "--model", str(tiny_model_dir)]) == 2
    )
    assert "u.jsonl, line 1: units without their duration cannot be decoded" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_tokenize_writes_every_layout_of_the_same_tokens(tmp_path, capsys, tiny_model_dir) -> None:
    import soundfile

    (tmp_path / "speech").mkdir()
    for i in range(3):
        wav = np.random.default_rng(i).uniform(-0.5, 0.5, 300 + i)
        soundfile.write(tmp_path / f"speech/{i}.wav", wav, 16000)

    def tokenize(name: str, *flags: str) -> int:
        out = name if name == "-" else str(tmp_path / name)
        return main(["tokenize", str(tmp_path / "speech"), "--out", out, "--model", str(tiny_model_dir), *flags])

    assert tokenize("t.jsonl") == 0
    for name, *flags in [
        ("t.tar", "--dedup"),
        ("t", "--shard-rows", "1", "--resume"),
        ("u.jsonl", "--format", "slamkit"),
    ]:
        assert tokenize(name, *flags) == 0
        assert _lines(read_tokens(tmp_path / name)) == _lines(read_tokens(tmp_path / "t.jsonl"))
    assert len(list((tmp_path / "t").iterdir())) == 3
    capsys.readouterr()
    assert tokenize("-", "--format", "kaldi") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["0", "1", "2"]
    assert tokenize("t.units", "--resume") == 0
    assert (tmp_path / "t.units").read_text().splitlines() == [line.replace(" ", "\t", 1) for line in lines]
    assert tokenize("t.units", "--resume") == 2
    assert "is unit text, which does not record its source; pass --overwrite" in capsys.readouterr().err


def test_a_member_that_is_a_link_is_named(tmp_path) -> None:
    path = tmp_path / "l.tar"
    with tarfile.open(path, "w") as archive:
        info = tarfile.TarInfo("a.json")
        info.type, info.linkname = tarfile.SYMTYPE, "elsewhere.json"
        archive.addfile(info)
    with pytest.raises(ValueError, match=r"l\.tar: a\.json is a link, and members must be files"):
        list(read_tokens(path))
