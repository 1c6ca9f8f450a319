"""`vqaudio tokenize --workers`: the same file as with one process, and no process is left behind, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from vqaudio.cli.main import main
from vqaudio.tokens import workers

COUNT = 12  # utterances


@pytest.fixture
def speech(tmp_path) -> Path:
    """Noise of various lengths, and one file that is not audio."""
    folder = tmp_path / "speech"
    folder.mkdir()
    for i in range(COUNT):
        wav = np.random.default_rng(i).uniform(-0.5, 0.5, 9000 if i == 0 else 300 + i)
        soundfile.write(folder / f"{i:02d}.wav", wav, 16000)
    return folder


@pytest.fixture
def run(tiny_model_dir) -> Callable[..., int]:
    """(*arguments) -> exit code of `vqaudio tokenize`."""
    return lambda *rest: main(["tokenize", *map(str, rest), "--model", str(tiny_model_dir)])


@pytest.fixture
def started(monkeypatch) -> list[subprocess.Popen]:
    """The processes of all workers."""
    processes: list[subprocess.Popen] = []
    original = workers._Worker.__init__

    def noted(self, *arguments) -> None:
        original(self, *arguments)
        processes.append(self.process)

    monkeypatch.setattr(workers._Worker, "__init__", noted)
    return processes


def _end_its_input(worker: workers._Worker) -> None:
    """What the system does when the process that started a worker is killed with -9: the worker ends by itself."""
    assert worker.process.stdin
    worker.process.stdin.close()
    assert worker.process.wait(60) == 0


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_two_workers_write_what_one_process_writes(tmp_path, capfd, run, speech, started) -> None:
    (speech / "05b.wav").write_text("hello")
    assert run(speech, "--out", tmp_path / "one.jsonl") == 1
    said = capfd.readouterr().err
    assert run(speech, "--out", tmp_path / "two.jsonl", "--workers", 2) == 1
    assert (tmp_path / "two.jsonl").read_bytes() == (tmp_path / "one.jsonl").read_bytes()
    assert capfd.readouterr().err == said and said.count("05b.wav") == 1
    assert len(started) == 2 and all(process.poll() is not None for process in started)


@pytest.mark.parametrize("end", ["a worker is killed", "the command is terminated"])
def test_a_run_that_ended_early_is_resumed(tmp_path, capfd, monkeypatch, run, speech, started, end) -> None:
    original, killed = workers._Worker.tokenize, end == "a worker is killed"

    def ended(self, source, *rest):
        if source.id == "06" and killed:
            self.process.kill()
        elif source.id == "06":
            os.kill(os.getpid(), signal.SIGTERM)
            self.process.wait(60)  # which the main thread ends
        return original(self, source, *rest)

    arguments = (speech, "--out", tmp_path / "t.jsonl", "--workers", 2, "--resume")
    with monkeypatch.context() as patch:
        patch.setattr(workers._Worker, "tokenize", ended)
        if not killed:
            patch.setattr(workers._Worker, "end", _end_its_input)
        assert run(*arguments) == (1 if killed else 143)
    said = capfd.readouterr().err
    if killed:
        assert said.startswith("error: worker ") and said.count("\n") == 1
        assert "was ended by SIGKILL while it tokenized" in said and "06.wav; " in said and "--resume" in said
    else:
        assert said == "error: stopped by SIGTERM\n"
    assert all(process.poll() is not None for process in started)
    assert _names(tmp_path) <= {"speech", "t.resume.jsonl"}
    if killed:
        assert (tmp_path / "t.resume.jsonl").read_bytes().count(b"\n") == 6

    assert run(*arguments[:-2], 1, "--resume") == 0
    assert run(speech, "--out", tmp_path / "whole.jsonl") == 0
    assert (tmp_path / "t.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_a_number_below_one_is_refused(tmp_path, capfd, run, speech) -> None:
    assert run(speech, "--out", tmp_path / "t.jsonl", "--workers", 0) == 2
    assert "workers must be at least 1, got 0" in capfd.readouterr().err
