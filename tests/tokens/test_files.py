import importlib.util
import os
import pickle
import signal
import sys

import numpy as np
import pytest

from vqaudio.tokens import parquet
from vqaudio.tokens.files import check_target, names_tokens, read_tokens, write_tokens
from vqaudio.tokens.rows import format_row

needs_pyarrow = pytest.mark.skipif(importlib.util.find_spec("pyarrow") is None, reason="pyarrow is not installed")
TARGETS = ("tokens.jsonl", "tokens", "tokens.tar", pytest.param("tokens.parquet", marks=needs_pyarrow))


@pytest.fixture
def rows(make_row):
    return [make_row("a"), make_row("b_1 ü", speaker=None, num_codes=1), make_row("c", num_codes=300)]


def _lines(rows) -> list[str]:
    return [format_row(row) for row in rows]


def _entries(folder) -> list[str]:
    """Names of everything in a folder, including hidden files."""
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("target", TARGETS)
def test_rows_come_back_in_order(tmp_path, rows, target) -> None:
    write_tokens(tmp_path / target, rows)
    assert _lines(read_tokens(tmp_path / target)) == _lines(rows)
    assert _entries(tmp_path) == [target]


@needs_pyarrow
def test_every_format_holds_the_same(tmp_path, rows) -> None:
    """Converted through all formats and back to the first: the same bytes."""
    write_tokens(tmp_path / "a.jsonl", rows)
    for source, target in (("a.jsonl", "b.parquet"), ("b.parquet", "c"), ("c", "d.parquet"), ("d.parquet", "e.jsonl")):
        assert names_tokens(tmp_path / source) and names_tokens(tmp_path / target) == (target != "c")
        write_tokens(tmp_path / target, read_tokens(tmp_path / source))
    assert (tmp_path / "e.jsonl").read_bytes() == (tmp_path / "a.jsonl").read_bytes()
    assert (tmp_path / "d.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_a_folder_is_plain_numpy_beside_an_index(tmp_path, rows) -> None:
    write_tokens(tmp_path / "tokens", rows)
    assert _entries(tmp_path / "tokens") == ["a.npy", "b_1 ü.npy", "c.npy", "index.jsonl"]
    for row in rows:
        codes = np.load(tmp_path / "tokens" / f"{row.id}.npy", allow_pickle=False)
        assert codes.dtype == np.int64
        assert codes.tolist() == row.tokens.codes.tolist()
    assert '"codes"' not in (tmp_path / "tokens" / "index.jsonl").read_text()


@pytest.mark.parametrize("target", TARGETS)
def test_writing_that_fails_leaves_nothing(tmp_path, rows, target) -> None:
    def failing():
        yield from rows
        raise RuntimeError("the 4th cannot be made")

    with pytest.raises(RuntimeError):
        write_tokens(tmp_path / target, failing())
    assert _entries(tmp_path) == []
    with pytest.raises(ValueError, match="there are no utterances"):
        write_tokens(tmp_path / target, [])
    with pytest.raises(ValueError, match="id 'a' occurs twice"):
        write_tokens(tmp_path / target, [*rows, rows[0]])
    assert _entries(tmp_path) == []


@pytest.mark.parametrize("target", TARGETS)
def test_overwriting_that_fails_leaves_the_old(tmp_path, rows, make_row, target) -> None:
    write_tokens(tmp_path / target, rows)

    def failing():
        yield make_row("new")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_tokens(tmp_path / target, failing(), overwrite=True)
    assert _lines(read_tokens(tmp_path / target)) == _lines(rows)
    assert _entries(tmp_path) == [target]


@pytest.mark.parametrize("target", TARGETS)
def test_a_killed_writer_leaves_nothing_at_the_target(tmp_path, rows, target) -> None:
    def killed():
        yield from rows
        os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        try:
            write_tokens(tmp_path / target, killed())
        finally:
            os._exit(3)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert all(name.startswith(".") for name in _entries(tmp_path))
    write_tokens(tmp_path / target, rows)  # the temporary files of the killed writer do not get in the way
    assert _lines(read_tokens(tmp_path / target)) == _lines(rows)


@pytest.mark.parametrize("target", TARGETS)
def test_existing_tokens_are_replaced_only_on_request(tmp_path, rows, make_row, target) -> None:
    write_tokens(tmp_path / target, rows)
    with pytest.raises(FileExistsError, match="--overwrite"):
        write_tokens(tmp_path / target, [make_row("new")])
    assert _lines(read_tokens(tmp_path / target)) == _lines(rows)
    write_tokens(tmp_path / target, [make_row("new")], overwrite=True)
    assert _lines(read_tokens(tmp_path / target)) == _lines([make_row("new")])
    assert _entries(tmp_path) == [target]
    if target == "tokens":
        assert _entries(tmp_path / target) == ["index.jsonl", "new.npy"]


def test_a_folder_with_anything_else_in_it_is_never_replaced(tmp_path, rows) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.tex").write_text("x")
    with pytest.raises(FileExistsError, match=r"thesis\.tex"):
        write_tokens(tmp_path / "precious", rows, overwrite=True)
    assert _entries(tmp_path / "precious") == ["thesis.tex"]


def test_an_empty_folder_may_be_filled(tmp_path, rows) -> None:
    for name in ("tokens", "tokens.2"):
        (tmp_path / name).mkdir()
        write_tokens(tmp_path / name, rows)
        assert _lines(read_tokens(tmp_path / name)) == _lines(rows)


@pytest.mark.parametrize(
    ("target", "error", "message"),
    [
        ("t.csv", ValueError, r"NAME\.jsonl or NAME\.parquet or NAME\.tar; a name without a suffix"),
        ("t.npy", ValueError, "a name without a suffix is a folder of .npy files"),
        ("missing/t.jsonl", FileNotFoundError, "does not exist; make it first"),
        ("missing/t", FileNotFoundError, "does not exist; make it first"),
        ("file", NotADirectoryError, "it is a file"),
        ("file/t", NotADirectoryError, "is a file, not a folder"),
        ("folder.jsonl", IsADirectoryError, "it is a folder"),
        pytest.param("missing/t.parquet", FileNotFoundError, "does not exist; make it first", marks=needs_pyarrow),
        pytest.param("folder.parquet", IsADirectoryError, "it is a folder", marks=needs_pyarrow),
    ],
)
def test_invalid_targets_are_refused(tmp_path, rows, target, error, message) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "folder.parquet").mkdir()
    with pytest.raises(error, match=message):
        write_tokens(tmp_path / target, rows, overwrite=True)
    assert _entries(tmp_path) == ["file", "folder.jsonl", "folder.parquet"]


def test_without_pyarrow_the_other_formats_work(tmp_path, rows, monkeypatch) -> None:
    (tmp_path / "t.parquet").write_text("whatever it is")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "pyarrow.parquet", raising=False)
    calls = (
        lambda: check_target(tmp_path / "new.parquet", overwrite=False),
        lambda: write_tokens(tmp_path / "new.parquet", rows),
        lambda: read_tokens(tmp_path / "t.parquet"),
    )
    for call in calls:
        with pytest.raises(ModuleNotFoundError, match=r"pip install 'vqaudio\[bulk\]'"):
            call()
    write_tokens(tmp_path / "t.jsonl", rows)
    assert _lines(read_tokens(tmp_path / "t.jsonl")) == _lines(rows)
    assert _entries(tmp_path) == ["t.jsonl", "t.parquet"]


@pytest.mark.parametrize("target", TARGETS)
def test_rows_are_streamed_both_ways(tmp_path, make_row, monkeypatch, target) -> None:
    """A row is written before the next one is computed, and read before the content after it is parsed."""
    monkeypatch.setattr(parquet, "GROUP_ROWS", 1)
    monkeypatch.setattr(parquet, "ROWS_AT_ONCE", 1)
    sizes = []

    def watched():
        for i in range(5):
            (temporary,) = tmp_path.iterdir()
            files = [temporary] if temporary.is_file() else list(temporary.glob("*.npy"))
            sizes.append(sum(file.stat().st_size for file in files))
            yield make_row(f"{i}", num_codes=5000)

    write_tokens(tmp_path / target, watched())
    growth = np.diff(sizes)
    assert sizes[0] <= 4  # the magic bytes of Parquet
    assert growth.min() > growth.max() / 2 > 1000
    if target.endswith((".parquet", ".tar")):
        damaged = bytearray((tmp_path / target).read_bytes())
        damaged[sizes[1] : sizes[2]] = bytes(sizes[2] - sizes[1])
        (tmp_path / target).write_bytes(damaged)
        message = rf"{target}, after row 1: the file is damaged|{target} is damaged, truncated"
    else:
        index = tmp_path / target if target.endswith("jsonl") else tmp_path / target / "index.jsonl"
        first, *rest = index.read_bytes().splitlines()
        index.write_bytes(b"\n".join([first, b"damaged", *rest]))
        message = f"{index.name}, line 2: not JSON"
    reading = read_tokens(tmp_path / target)
    assert next(reading).id == "0"
    with pytest.raises(ValueError, match=message):
        next(reading)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), r"a\.npy is missing"),
        (lambda path: path.write_bytes(b""), r"a\.npy is not a readable \.npy file"),
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), r"a\.npy is not a readable \.npy file"),
        (lambda path: np.save(path, np.ones(5)), r"codes must be integers of shape \(N,\), got \(5,\) float64"),
        (
            lambda path: np.save(path, np.ones((5, 1), dtype=int)),
            r"codes must be integers of shape \(N,\), got \(5, 1\)",
        ),
        (lambda path: np.save(path, np.array([1, -1, 1, 1, 1])), "codes must lie in"),
        (lambda path: np.save(path, np.ones(4, dtype=int)), "5 codes, got 4"),
        (lambda path: np.save(path, np.array([{}], dtype=object)), "allow_pickle=False"),
        (lambda path: path.write_bytes(pickle.dumps([1])), r"a\.npy is not a readable \.npy file"),
    ],
)
def test_a_damaged_array_is_named_with_its_line(tmp_path, rows, damage, message) -> None:
    write_tokens(tmp_path / "tokens", [rows[2], rows[0]])
    damage(tmp_path / "tokens" / "a.npy")
    reading = read_tokens(tmp_path / "tokens")
    next(reading)
    with pytest.raises(ValueError, match=rf"index\.jsonl, line 2: .*{message}"):
        next(reading)


def test_files_that_are_not_token_files_are_refused(tmp_path, rows) -> None:
    with pytest.raises(FileNotFoundError, match="vqaudio tokenize creates token files"):
        read_tokens(tmp_path / "missing.jsonl")
    with pytest.raises(FileNotFoundError, match=r"no index\.jsonl"):
        read_tokens(tmp_path)
    (tmp_path / "t.csv").write_text("x")
    with pytest.raises(ValueError, match="is not a token file"):
        read_tokens(tmp_path / "t.csv")
    (tmp_path / "empty.jsonl").write_text("\n\n")
    with pytest.raises(ValueError, match="no token rows"):
        list(read_tokens(tmp_path / "empty.jsonl"))
    line = format_row(rows[0])
    (tmp_path / "twice.jsonl").write_text(f"{line}\n\n{line}\n")
    with pytest.raises(ValueError, match="line 3: id 'a' already occurs in line 1"):
        list(read_tokens(tmp_path / "twice.jsonl"))


def test_an_index_cannot_reach_out_of_its_folder(tmp_path, rows) -> None:
    np.save(tmp_path / "secret.npy", rows[0].tokens.codes.numpy())
    write_tokens(tmp_path / "tokens", rows)
    index = tmp_path / "tokens" / "index.jsonl"
    index.write_text(index.read_text().replace('"id": "a"', '"id": "../secret"'))
    with pytest.raises(ValueError, match="line 1: an utterance id must be usable as a file name"):
        list(read_tokens(tmp_path / "tokens"))
