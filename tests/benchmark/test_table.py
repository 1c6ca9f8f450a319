"""Tables, and `vqaudio bench`, run in this process on a tiny WaveNet for an instant."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from vqaudio.benchmark import speed, table
from vqaudio.benchmark.speed import COMPILED, RING, WAVENET_VOCODER, BenchmarkModel, Machine, Plan, Speed
from vqaudio.cli.main import main
from vqaudio.kernels.library import VARIABLE, kernels
from vqaudio.nn.wavenet import WaveNetConfig

TINY = BenchmarkModel(
    "tiny",
    WaveNetConfig(
        num_classes=6, layers=2, layers_per_stack=2, residual_channels=4, skip_channels=5, hop=4, cond_hidden_channels=6
    ),
    rate=100.0,
)
PLAN = Plan((TINY,), streams=(3,), seconds=1e-3, repeats=1)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """`--quick` takes an instant, and without it nothing is timed."""
    monkeypatch.setattr(speed, "QUICK", PLAN)
    monkeypatch.setattr(speed, "FULL", Plan(()))


@pytest.fixture
def no_kernels() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, "off")
        kernels.cache_clear()
        yield
    kernels.cache_clear()


def test_columns_stand_under_their_names() -> None:
    host = Machine("a machine", "avx2", 2, {"float32": 5.25e10})
    assert table.describe_machine(host)[:2] == [
        "machine: a machine, kernels avx2, up to 2 threads",
        "peak of one thread, multiply-adds per second: float32 52.5 G",
    ]
    *_, title, bound, header = table.describe_model(speed.CODE_PRIOR, 1e11)
    assert title.startswith("code prior: 10 layers, residual 128, skip 256, 512 classes; 1.")
    assert bound == (
        "one thread reads 5.31 MB of float32 weights at 100 GB/s, once per code: 18,800 codes/s (the bound)"
    )
    measured = Speed(COMPILED, "float32", 1, 1, 33512.0, "", 2.0945, 1e9, 29.71, 0.4149, 0.8812)
    missing = Speed(WAVENET_VOCODER, "float32", 1, 2, None, "not installed")
    assert [header, table.row_of(measured), table.row_of(missing)] == [
        "streams  threads  implementation   precision     codes/s     RTF  x ring buffers  of peak  of bandwidth",
        "      1        1  compiled         float32        33,500    2.09            29.7      41%           88%",
        "      1        2  wavenet_vocoder  float32  not installed",
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((0.0000123456, "0.0000123"), (0.86, "0.860"), (1.0, "1.00"), (99.96, "100"), (100.4, "100")),
        *((1234.0, "1,230"), (1234567.0, "1,230,000")),
    ],
)
def test_numbers_have_three_significant_digits(value: float, text: str) -> None:
    assert table.row_of(Speed(RING, "float32", 1, 1, value)).split()[-1] == text


def test_the_verb_prints_what_the_file_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "speed.json"
    assert main(["bench", "--quick", "--threads", "2", "--out", str(out)]) == 0
    printed = capsys.readouterr()
    metrics = json.loads(out.read_text())
    assert printed.err == ""
    assert metrics["machine"]["threads"] == 2
    (tiny,) = metrics["models"]
    assert tiny["net"] == {**vars(TINY.net)}
    rows = [table.row_of(Speed(**row)) for row in tiny["speeds"]]
    assert printed.out.splitlines()[-len(rows) :] == rows
    assert {(row["streams"], row["threads"]) for row in tiny["speeds"]} == {(1, 1), (1, 2), (3, 2)}


def test_a_file_that_exists_is_kept_and_nothing_is_timed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "speed.json"
    out.write_text("mine")
    assert main(["bench", "--out", str(out)]) == 2
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", f"error: {out} exists already; pass --overwrite to replace it\n")
    assert out.read_text() == "mine"
    assert main(["bench", "--out", str(out), "--overwrite"]) == 0
    assert json.loads(out.read_text())["models"] == []


def test_no_thread_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--threads", "0"]) == 2
    assert capsys.readouterr().err == "error: threads must be at least 1, got 0; leave it out to use all of them\n"


def test_missing_kernels_are_reported(no_kernels: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--quick", "--threads", "1"]) == 0
    printed = capsys.readouterr().out
    assert f"only PyTorch is timed: the compiled kernels are switched off ({VARIABLE}=off)" in printed
    assert COMPILED not in printed.replace("no compiled kernels", "").replace("the compiled kernels", "")
    assert RING in printed
    assert "the bound" not in printed
