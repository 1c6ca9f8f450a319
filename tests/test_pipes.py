"""Pipes and standard input in the place of files, and - for standard output."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile

from vqaudio.cli.main import main
from vqaudio.data.audio import AudioError, blocks, read_audio
from vqaudio.data.manifest import read_manifest
from vqaudio.tokens.files import read_tokens

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def audio(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("audio") / "anna" / "a.flac"
    path.parent.mkdir()
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 900), 16000)
    return path


def _pipe(folder: Path, content: bytes) -> Path:
    """A named pipe whose content is written once, as soon as it is read."""
    path = folder / "pipe"
    os.mkfifo(path)
    threading.Thread(target=path.write_bytes, args=[content], daemon=True).start()
    return path


def _run(*arguments: object, given: bytes = b"", cwd: Path) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "vqaudio", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(command, input=given, capture_output=True, check=False, cwd=cwd, env=environment)


@pytest.mark.parametrize("rate", [16000, 8000])
def test_audio_from_a_pipe_is_that_of_the_file(tmp_path, audio, rate) -> None:
    assert np.array_equal(read_audio(_pipe(tmp_path, audio.read_bytes()), rate), read_audio(audio, rate))


def test_an_empty_pipe_is_named_as_one(tmp_path) -> None:
    with pytest.raises(AudioError, match=r"pipe is an empty stream \(0 bytes\)"):
        next(blocks(_pipe(tmp_path, b""), 16000))


def test_all_verbs_in_one_pipeline(tmp_path, audio, tiny_model_dir) -> None:
    model = ("--model", tiny_model_dir)
    made = _run("tokenize", "-", "--out", "-", *model, given=audio.read_bytes(), cwd=tmp_path)
    assert made.returncode == 0 and b"utterances    1 of 1" in made.stderr
    file = tmp_path / "t.jsonl"
    file.write_bytes(made.stdout)
    (row,) = read_tokens(file)
    assert (row.id, row.speaker, row.tokens.num_samples) == ("stdin", None, 900)
    packed = _run("pack", "-", "--out", "-", given=made.stdout, cwd=tmp_path)
    (tmp_path / "t.vqa").write_bytes(packed.stdout)
    assert _run("unpack", "-", "--out", "-", given=packed.stdout, cwd=tmp_path).stdout == made.stdout
    assert b"utterances    1" in _run("info", "-", given=made.stdout, cwd=tmp_path).stdout
    assert b"payload" in _run("info", "-", given=packed.stdout, cwd=tmp_path).stdout
    arguments = ("decode", file, "--speaker", "anna", "--out", tmp_path / "o", *model)
    assert main([str(argument) for argument in arguments]) == 0
    piped = _run(
        "decode", "-", "--speaker", "anna", "--stream", "--out", "-", *model, given=made.stdout, cwd=tmp_path
    ).stdout
    assert np.array_equal(np.frombuffer(piped, "<i2"), soundfile.read(tmp_path / "o" / "stdin.wav", dtype="int16")[0])
    assert {path.name for path in tmp_path.iterdir()} == {"t.jsonl", "t.vqa", "o"}


@pytest.mark.parametrize(
    "arguments",
    [
        ("convert", "AUDIO", "--speaker", "anna", "--out", "-", "--model", "MODEL"),
        ("adapt", "--data", "FOLDER", "--out", "-", "--model", "MODEL"),
        ("prepare", "folder", "FOLDER", "--out", "-"),
    ],
)
def test_standard_output_is_no_folder(tmp_path, monkeypatch, capsys, audio, tiny_model_dir, arguments) -> None:
    monkeypatch.chdir(tmp_path)
    paths = {"AUDIO": str(audio), "FOLDER": str(audio.parents[1]), "MODEL": str(tiny_model_dir)}
    assert main([paths.get(argument) or argument for argument in arguments]) == 2
    assert "- is standard output, but a folder is written here" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("threads", ["0", "-1", "1025", "9" * 30, "9" * 5000, "nan", "1e3"])
def test_an_absurd_number_of_threads(tmp_path, capsys, audio, tiny_model_dir, threads) -> None:
    out = str(tmp_path / "t.jsonl")
    assert main(["tokenize", str(audio), "--out", out, "--model", str(tiny_model_dir), f"--threads={threads}"]) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_errors_name_the_stream_and_not_the_file_that_it_was_copied_to(tmp_path, capsys) -> None:
    pipe = _pipe(tmp_path, b"hello\n")
    assert main(["info", str(pipe)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {pipe}, line 1: not JSON")


def test_a_manifest_from_a_pipe(tmp_path, audio) -> None:
    row = {"id": "a", "path": str(audio), "speaker": "anna", "seconds": 0.1}
    (utterance,) = read_manifest(_pipe(tmp_path, json.dumps(row).encode()))
    assert (utterance.id, utterance.path) == ("a", audio)
