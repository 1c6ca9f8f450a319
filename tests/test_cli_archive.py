"""`vqaudio pack` and `vqaudio unpack`: they print the properties of the archive, and restore the packed tokens."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
import torch
from torch import nn

from vqaudio import SpeechVQVAE, save_model
from vqaudio.cli.main import main
from vqaudio.kernels.library import kernels, why_missing
from vqaudio.nn.wavenet import WaveNetConfig
from vqaudio.speech.prior import CodePrior, CodePriorConfig
from vqaudio.speech.tokens import Tokens
from vqaudio.tokens.archive import archive_facts
from vqaudio.tokens.archive_format import read_archive
from vqaudio.tokens.files import read_tokens, write_tokens
from vqaudio.tokens.rows import TokenRow, format_row

pytestmark = pytest.mark.skipif(kernels() is None, reason=why_missing())
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def tokens(tiny_model: SpeechVQVAE, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A token file with three rows of the tiny model, one second of audio in total."""
    rows = []
    for name, speaker, count in (("a", "anna", 900), ("b", None, 1), ("c", "zoe", 1099)):
        codes = torch.randint(16, (count,), generator=torch.Generator().manual_seed(count))
        rows.append(TokenRow(name, speaker, Tokens(codes, 8 * count, 16000, 8, tiny_model.fingerprint)))
    path = tmp_path_factory.mktemp("tokens") / "t.jsonl"
    write_tokens(path, rows)
    return path


@pytest.fixture(scope="module")
def prior(
    tiny_model: SpeechVQVAE, randomise: Callable[..., nn.Module], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    net = WaveNetConfig(
        num_classes=16, layers=4, layers_per_stack=3, residual_channels=6, skip_channels=8, cond_hidden_channels=4
    )
    model = CodePrior(CodePriorConfig(speakers=tiny_model.speakers, model=tiny_model.fingerprint, net=net))
    folder = tmp_path_factory.mktemp("models") / "prior"
    save_model(cast(CodePrior, randomise(model)), folder)
    return folder


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """(verb, *arguments) -> exit code, standard output, standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def _lines(path: Path) -> list[str]:
    return [format_row(row) for row in read_tokens(path)]


def _printed(out: str) -> dict[str, str]:
    return dict(line.split(maxsplit=1) for line in out.splitlines())


def test_the_archive_does_not_depend_on_the_format_of_the_token_files(tmp_path, run: Run, tokens, prior) -> None:
    pytest.importorskip("pyarrow")
    for name, source in (("t.parquet", tokens), ("folder", tmp_path / "t.parquet")):
        write_tokens(tmp_path / name, read_tokens(source))
    archives = [tmp_path / f"{i}.vqa" for i in range(3)]
    for source, archive in zip((tokens, tmp_path / "t.parquet", tmp_path / "folder"), archives, strict=True):
        assert run("pack", source, "--prior", prior, "--out", archive)[::2] == (0, "")
    assert len({archive.read_bytes() for archive in archives}) == 1
    code, _, err = run("unpack", archives[0], "--prior", prior, "--out", tmp_path / "back.parquet")
    assert (code, err) == (0, "")
    assert (tmp_path / "back.parquet").read_bytes() == (tmp_path / "t.parquet").read_bytes()


@pytest.mark.parametrize("target", ["back.jsonl", "back"])
def test_pack_then_unpack(tmp_path, run: Run, tokens, prior, target) -> None:
    archive = tmp_path / "t.vqa"
    code, out, err = run("pack", tokens, "--prior", prior, "--out", archive)
    assert (code, err) == (0, "")
    facts, printed = archive_facts(read_archive(archive)), _printed(out)
    assert printed["utterances"] == "3, 1.0 s of audio"
    assert printed["codes"] == "2000, 2000 per second"
    fraction = f"{facts.payload_bytes / 1000:.3f} of the fixed-length size"
    rate = f"{8 * facts.payload_bytes:.1f} bits per second"
    assert printed["payload"] == f"{facts.payload_bytes} bytes, {rate}, {fraction}"
    assert printed["header"] == f"{facts.header_bytes} bytes"
    assert printed["archive"].startswith(f"{archive.stat().st_size} bytes, {8 * archive.stat().st_size:.1f} bits")
    likelihood = f"{facts.ideal_bits:.1f} bits per second (negative log-likelihood, prior {facts.prior})"
    assert printed["ideal"] == likelihood
    assert re.fullmatch(r"\S+ codes per second, RTF \S+ \(audio seconds per wall second\)", printed["speed"])
    assert printed["written"] == str(archive)
    code, out, err = run("unpack", archive, "--prior", prior, "--out", tmp_path / target)
    assert (code, err) == (0, "")
    again = _printed(out)
    assert _lines(tmp_path / target) == _lines(tokens)
    assert {name: fact for name, fact in again.items() if name not in ("speed", "written")} == {
        name: fact for name, fact in printed.items() if name not in ("speed", "written")
    }


def test_without_a_prior_every_code_takes_four_bits(tmp_path, run: Run, tokens) -> None:
    code, out, err = run("pack", tokens, "--out", tmp_path / "t.vqa")
    assert (code, err) == (0, "")
    assert _printed(out)["payload"] == "1000 bytes, 8000.0 bits per second, 1.000 of the fixed-length size"
    assert _printed(out)["ideal"] == "unknown: packed without a prior"
    assert run("unpack", tmp_path / "t.vqa", "--out", tmp_path / "back.jsonl")[0] == 0
    assert _lines(tmp_path / "back.jsonl") == _lines(tokens)


def test_threads_change_nothing(tmp_path, run: Run, tokens, prior) -> None:
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            out = tmp_path / f"{threads}.vqa"
            assert run("pack", tokens, "--prior", prior, "--out", out, "--threads", threads)[0] == 0
    finally:
        torch.set_num_threads(before)
    assert (tmp_path / "1.vqa").read_bytes() == (tmp_path / "2.vqa").read_bytes()


@pytest.mark.parametrize("threads", ["0", "-1", "1025", "9" * 30])
def test_an_absurd_number_of_threads_is_refused_with_and_without_a_prior(
    tmp_path, run: Run, tokens, prior, threads
) -> None:
    assert run("pack", tokens, "--out", tmp_path / "t.vqa")[0] == 0
    for used in ((), ("--prior", prior)):
        for command in (("pack", tokens, "--out", tmp_path / "a.vqa"), ("unpack", tmp_path / "t.vqa", "--out", "-")):
            code, _, err = run(*command, *used, f"--threads={threads}")
            assert code == 2 and "threads must be at" in err
    assert [path.name for path in tmp_path.iterdir()] == ["t.vqa"]


def test_existing_files_are_replaced_only_on_request(tmp_path, run: Run, tokens) -> None:
    archive, back = tmp_path / "t.vqa", tmp_path / "back.jsonl"
    for arguments in (("pack", tokens, "--out", archive), ("unpack", archive, "--out", back)):
        assert run(*arguments)[0] == 0
        code, _, err = run(*arguments)
        assert code == 2 and "--overwrite" in err
        assert run(*arguments, "--overwrite")[0] == 0


def test_wrong_usage_is_explained_and_leaves_no_files(tmp_path, run: Run, tokens, prior, tiny_model_dir) -> None:
    packed, cut, flipped = (tmp_path / f"{name}.vqa" for name in ("t", "cut", "flipped"))
    assert run("pack", tokens, "--prior", prior, "--out", packed)[0] == 0
    content = bytearray(packed.read_bytes())
    cut.write_bytes(content[:-1])
    content[-60] ^= 1  # of the payload
    flipped.write_bytes(content)
    before = sorted(tmp_path.iterdir())
    back = ("--out", tmp_path / "back.jsonl")
    for arguments, message in (
        (("pack", tokens, "--out", tmp_path / "t.zip"), "an archive must be named NAME.vqa"),
        (("pack", tmp_path / "none.jsonl", "--out", tmp_path / "u.vqa"), "none.jsonl does not exist"),
        (("pack", tokens, "--prior", tiny_model_dir, "--out", tmp_path / "u.vqa"), "CodePrior is required here"),
        (
            ("pack", tokens, "--prior", prior, "--threads", 0, "--out", tmp_path / "u.vqa"),
            "threads must be at least 1",
        ),
        (("unpack", packed, *back), "none is given; pass --prior"),
        (("unpack", cut, "--prior", prior, *back), "is truncated or damaged"),
        (("unpack", flipped, "--prior", prior, *back), "flipped.vqa is damaged: its checksum does not match"),
        (("unpack", tokens, *back), "is not a token archive"),
        (("unpack", packed, "--prior", prior, "--out", tmp_path / "t.zip"), "token files are named"),
    ):
        code, out, err = run(*arguments)
        assert (code, out) == (2, "") and message in err
        assert err.startswith("error: ") and err.count("\n") == 1
        assert sorted(tmp_path.iterdir()) == before
