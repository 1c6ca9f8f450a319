"""--vocoder of decode, convert and sample, beside --resume and --stream."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from vqaudio import SpeechVQVAE, save_model
from vqaudio.cli.main import main
from vqaudio.data.audio import to_int16
from vqaudio.nn.wavenet import WaveNetConfig
from vqaudio.speech.prior import CodePrior, CodePriorConfig
from vqaudio.tokens.files import read_tokens, write_tokens
from vqaudio.tokens.rows import TokenRow

Run = Callable[..., int]


@pytest.fixture(scope="module")
def model(spectrum_model: SpeechVQVAE) -> SpeechVQVAE:
    """Its default vocoder is griffin-lim."""
    made = SpeechVQVAE(replace(spectrum_model.cfg, vocoder="griffin-lim"))
    made.load_state_dict(spectrum_model.state_dict())
    return made.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def run(model: SpeechVQVAE, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """(verb, *arguments) -> exit code."""
    folder = tmp_path_factory.mktemp("models") / "inverting"
    save_model(model, folder)
    return lambda verb, *rest: main([verb, *map(str, rest), "--model", str(folder)])


@pytest.fixture(scope="module")
def rows(model: SpeechVQVAE) -> list[TokenRow]:
    wavs = [torch.rand(n, generator=torch.Generator().manual_seed(n)) - 0.5 for n in (330, 900)]
    return [TokenRow(f"u{i}", "anna", model.tokenize(wav)) for i, wav in enumerate(wavs)]


@pytest.fixture
def tokens(rows: list[TokenRow], tmp_path: Path) -> Path:
    write_tokens(tmp_path / "t.jsonl", iter(rows))
    return tmp_path / "t.jsonl"


def _samples(path: Path) -> np.ndarray:
    return soundfile.read(path, dtype="int16")[0]


@pytest.mark.parametrize("vocoder", [None, "griffin-lim", "wavenet"])
def test_decode_and_convert_use_it(tmp_path, capsys, run: Run, model, tokens, rows, vocoder) -> None:
    flags = () if vocoder is None else ("--vocoder", vocoder)
    assert run("decode", tokens, "--out", tmp_path / "d", "--seed", 3, *flags) == 0
    for row in rows:
        expected = model.decode(row.tokens, "anna", vocoder=vocoder, seed=3)
        assert np.array_equal(_samples(tmp_path / "d" / f"{row.id}.wav"), to_int16(expected.numpy()))
    shown = capsys.readouterr().out
    assert "vocoder       wavenet, " in shown if vocoder == "wavenet" else "vocoder       griffin-lim\n" in shown
    assert "RTF" in shown
    source = tmp_path / "d" / "u1.wav"
    assert run("convert", source, "--speaker", "bert", "--out", tmp_path / "x.wav", *flags) == 0
    expected = model.convert(source, "bert", vocoder=vocoder)
    assert np.array_equal(_samples(tmp_path / "x.wav"), to_int16(expected.numpy()))


def test_resume_skips_what_the_same_vocoder_made_and_nothing_else(tmp_path, capsys, run: Run, tokens) -> None:
    arguments = ("decode", tokens, "--out", tmp_path / "d")
    assert run(*arguments) == 0
    whole = {path.name: path.read_bytes() for path in (tmp_path / "d").iterdir()}
    (tmp_path / "d" / "u0.wav").unlink()
    capsys.readouterr()
    assert run(*arguments, "--resume") == 0
    assert "skipped       1 that were done already" in capsys.readouterr().out
    assert {path.name: path.read_bytes() for path in (tmp_path / "d").iterdir()} == whole
    for other in (("--vocoder", "wavenet"), ("--seed", 1)):
        assert run(*arguments, "--resume", *other) == 2
        assert "speaker, model, vocoder or sampling" in capsys.readouterr().err
    assert run("decode", tokens, "--out", tmp_path / "w", "--vocoder", "wavenet") == 0
    assert run("decode", tokens, "--out", tmp_path / "w", "--resume") == 2
    cut = _samples(tmp_path / "d" / "u1.wav")
    cut[-1] ^= 1  # of griffin-lim, all samples are compared
    soundfile.write(tmp_path / "d" / "u1.wav", cut, 16000)
    assert run(*arguments, "--resume") == 2


def test_only_the_wavenet_streams(tmp_path, capsys, run: Run, tokens) -> None:
    arguments = ("decode", tokens, "--stream", "--out", tmp_path / "s.wav")
    for flags in ((), ("--vocoder", "griffin-lim")):
        assert run(*arguments, *flags) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "cannot stream" in line and "another --vocoder" in line
        assert not (tmp_path / "s.wav").exists()
    assert run(*arguments, "--vocoder", "wavenet") == 0
    assert len(_samples(tmp_path / "s.wav")) == 330 + 900


def test_models_without_a_spectrum_head_refuse_it(tmp_path, capsys, tiny_model_dir, tokens) -> None:
    flags = ["--vocoder", "griffin-lim", "--model", str(tiny_model_dir), "--out", str(tmp_path / "d")]
    assert main(["decode", str(tokens), *flags]) == 2
    assert main(["convert", str(tmp_path / "missing.wav"), "--speaker", "anna", *flags]) == 2
    for line in capsys.readouterr().err.splitlines():
        assert "needs a model that predicts the log-mel spectrum" in line
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("vocoder", [None, "wavenet"])
def test_samples_of_a_prior_use_it(tmp_path, run: Run, model, randomise, vocoder) -> None:
    flags = () if vocoder is None else ("--vocoder", vocoder)
    net = WaveNetConfig(num_classes=16, layers=3, layers_per_stack=2, residual_channels=6, skip_channels=8)
    prior = CodePrior(CodePriorConfig(model=model.fingerprint, frame_rate=200, net=net))
    save_model(randomise(prior), tmp_path / "prior")
    given = ("--prior", tmp_path / "prior", "--speaker", "anna", "--count", 1, "--seconds", 0.03)
    assert run("sample", *given, "--out", tmp_path / "s", *flags) == 0
    (row,) = read_tokens(tmp_path / "s" / "tokens.jsonl")
    expected = model.decode(row.tokens, "anna", vocoder=vocoder)
    assert np.array_equal(_samples(tmp_path / "s" / "anna-0.wav"), to_int16(expected.numpy()))
