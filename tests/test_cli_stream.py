"""`vqaudio decode --stream`: the streamed samples equal those that decode writes at once."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from vqaudio import SpeechVQVAE
from vqaudio.cli.main import main
from vqaudio.data.audio import to_int16
from vqaudio.tokens.files import write_tokens
from vqaudio.tokens.rows import TokenRow


@pytest.fixture(scope="module")
def rows(tiny_model: SpeechVQVAE) -> list[TokenRow]:
    wavs = [torch.rand(n, generator=torch.Generator().manual_seed(n)) * 2 - 1 for n in (330, 9, 700)]
    return [
        TokenRow(f"u{i}", name, tiny_model.tokenize(w)) for i, (name, w) in enumerate(zip("abz", wavs, strict=True))
    ]


@pytest.fixture(scope="module")
def tokens(rows: list[TokenRow], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokens") / "t.jsonl"
    write_tokens(path, iter(rows))
    return path


def _expected(model: SpeechVQVAE, rows: list[TokenRow], speaker: str) -> np.ndarray:
    return np.concatenate([to_int16(model.decode(row.tokens, speaker, seed=3).numpy()) for row in rows])


def _arguments(tokens: Path, model: Path, out: object) -> list[str]:
    flags = ["--stream", "--speaker", "carl", "--seed", "3", "--out", str(out), "--model", str(model)]
    return ["decode", str(tokens), *flags]


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.pcm"])
def test_all_rows_one_after_another_into_a_file(
    tmp_path, tokens, rows, tiny_model, tiny_model_dir, capsys, name
) -> None:
    assert main(_arguments(tokens, tiny_model_dir, tmp_path / name)) == 0
    raw = {"samplerate": 16000, "channels": 1, "format": "RAW", "subtype": "PCM_16", "endian": "LITTLE"}
    wav, rate = soundfile.read(tmp_path / name, dtype="int16", **(raw if name.endswith("pcm") else {}))
    assert rate == 16000
    assert np.array_equal(wav, _expected(tiny_model, rows, "carl"))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "3 utterances, 0.1 s" in captured.err
    assert main(_arguments(tokens, tiny_model_dir, tmp_path / name)) == 2  # it exists
    assert "--overwrite" in capsys.readouterr().err


def test_standard_output_contains_only_samples(tokens, rows, tiny_model, tiny_model_dir) -> None:
    command = [sys.executable, "-m", "vqaudio", *_arguments(tokens, tiny_model_dir, "-")]
    done = subprocess.run(command, capture_output=True, check=True)
    assert np.array_equal(np.frombuffer(done.stdout, "<i2"), _expected(tiny_model, rows, "carl"))
    assert re.search(rb"RTF [0-9.e+-]+ on cpu \(audio seconds per wall second\)", done.stderr)


def test_a_player_that_closes_the_pipe_ends_the_program_quietly(tokens, tiny_model_dir) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "vqaudio", *_arguments(tokens, tiny_model_dir, "-")]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--out", "folder"], "cannot stream to folder: give - for standard output, or a file"),
        (["--out", "a.mp3"], "cannot stream to a.mp3"),
        (["--out", "a.wav", "--threads", "0"], "threads must be at least 1, got 0"),
        (["--out", "a.wav", "--temperature", "-1"], "temperature must be"),
    ],
)
def test_wrong_usage_leaves_no_files(tmp_path, monkeypatch, tokens, tiny_model_dir, capsys, extra, message) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["decode", str(tokens), "--stream", "--speaker", "carl", "--model", str(tiny_model_dir), *extra]
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_row_without_a_known_speaker_is_named(tmp_path, tokens, tiny_model_dir, capsys) -> None:
    arguments = ["decode", str(tokens), "--stream", "--out", str(tmp_path / "a.wav"), "--model", str(tiny_model_dir)]
    assert main(arguments) == 1
    assert "u0 has speaker 'a', who is not in this model" in capsys.readouterr().err


def test_threads_also_limit_pytorch(tmp_path, tokens, tiny_model_dir) -> None:
    before = torch.get_num_threads()
    try:
        arguments = ["decode", str(tokens), "--speaker", "carl", "--out", str(tmp_path), "--threads", "1"]
        assert main([*arguments, "--model", str(tiny_model_dir)]) == 0
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
