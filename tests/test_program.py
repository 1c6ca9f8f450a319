"""Closed pipes and signals, in processes of their own: no traceback, the code that a shell expects, nothing left."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from vqaudio.program import run_program

REPOSITORY = Path(__file__).resolve().parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
WAITS = """
import sys, time
from pathlib import Path
from vqaudio.atomic import atomic_file, atomic_folder
from vqaudio.program import run_program

def program():
    with atomic_file(Path("file.jsonl")) as file, atomic_folder(Path("folder")) as folder:
        file.write_text("half"), (folder / "half").write_text("half")
        print("ready", flush=True)
        time.sleep(60)

sys.exit(run_program(program))
"""


def _start(*command: str, cwd: Path, **streams: object) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, *command], cwd=cwd, env=ENVIRONMENT, text=True, **streams)  # pyright: ignore


@pytest.mark.parametrize(
    ("command", "closed"),
    [
        (("-m", "vqaudio", "--help"), "stdout"),
        (("-m", "vqaudio", "decode", "--help"), "stdout and stderr"),
        (("-m", "vqaudio", "info", "mini"), "stdout"),
    ],
)
def test_a_closed_pipe_ends_every_verb_quietly(tmp_path, command, closed) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    errors = writer if closed == "stdout and stderr" else subprocess.PIPE
    process = _start(*command, cwd=tmp_path, stdout=writer, stderr=errors)
    os.close(writer)
    _, said = process.communicate(timeout=120)
    assert (process.returncode, said or "") == (141, "")


ROW = '{"id": "a", "speaker": null, "codes": [1], "num_samples": 8, "sample_rate": 16000, "hop": 8, "model": "m"}\n'


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("--help >&-", 0, ""),
        ("info row.jsonl >&-", 0, ""),
        ("reformat row.jsonl --out - >&-", 2, "error: standard output is closed; name a file\n"),
        ("decode row.jsonl --stream --out - >&-", 2, "error: standard output is closed; name a file\n"),
        ("info - <&-", 2, "error: - is empty: it contains no token rows; vqaudio tokenize creates token files\n"),
        ("reformat row.jsonl --out - >/dev/full", 2, "error: cannot write to standard output or a temporary file: "),
    ],
)
def test_streams_that_are_closed_or_full(tmp_path, command, code, said) -> None:
    (tmp_path / "row.jsonl").write_text(ROW)
    process = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m vqaudio {command}"],
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == code
    assert process.stderr.startswith(said) and process.stderr.count("\n") == bool(said)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 34. GiB for an array"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8000000000000000 bytes."),
        RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB"),
    ],
)
def test_a_lack_of_memory_is_one_sentence(capsys, error) -> None:
    def program() -> None:
        raise error

    assert run_program(program) == 2
    assert capsys.readouterr().err == f"error: not enough memory; ask for less at once ({error})\n"


def test_other_errors_of_the_runtime_are_not_hidden() -> None:
    def program() -> None:
        raise RuntimeError("a fault of the program")

    with pytest.raises(RuntimeError, match="a fault"):
        run_program(program)


@pytest.mark.parametrize("recipe", ["train.py", "train_prior.py", "train_image.py"])
def test_every_recipe_is_run_as_a_program(recipe) -> None:
    assert (REPOSITORY / "recipes" / recipe).read_text().endswith("sys.exit(run_recipe(main))\n")


def test_a_closed_pipe_ends_a_recipe_quietly(tmp_path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = (str(REPOSITORY / "recipes/train.py"), "--help")
    process = _start(*command, cwd=tmp_path, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    _, said = process.communicate(timeout=120)
    assert (process.returncode, said) == (141, "")


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_removes_temporary_files(tmp_path, name) -> None:
    number = getattr(signal, name)
    process = _start("-c", WAITS, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout and process.stdout.readline() == "ready\n"
    assert len(list(tmp_path.iterdir())) == 2
    process.send_signal(number)
    if number != signal.SIGINT:
        process.send_signal(number)  # timeout(1) sends it to the process and to its group
    _, said = process.communicate(timeout=60)
    reason = "interrupted" if number == signal.SIGINT else f"stopped by {name}"
    assert (process.returncode, said) == (128 + number, f"error: {reason}\n")
    assert list(tmp_path.iterdir()) == []


def test_a_program_that_was_started_with_nohup_goes_on(tmp_path) -> None:
    script = (
        "import os, signal, sys; from vqaudio.program import run_program\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "sys.exit(run_program(lambda: os.kill(os.getpid(), signal.SIGHUP)))\n"
    )
    process = _start("-c", script, cwd=tmp_path)
    assert process.wait(timeout=60) == 0
