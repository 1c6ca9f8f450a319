"""Runs that are killed, or whose disk is full, resume as if they had not been interrupted.

The interrupted runs are separate processes, started through this file: `test_interrupted.py HOW ... RECIPE ...`.
"""

from __future__ import annotations

import json
import os
import random
import re
import resource
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from vqaudio import SpeechVQVAE, SpeechVQVAEConfig, load_model, save_model
from vqaudio.nn.encoder import EncoderConfig
from vqaudio.nn.vector_quantizer import VectorQuantizerConfig
from vqaudio.nn.wavenet import WaveNetConfig
from vqaudio.training import FitConfig, checkpoint, fit
from vqaudio.training.loader import Batch
from vqaudio.training.metrics_file import read_metrics

STEPS = 24
OFTEN = ("--fit.steps", STEPS, "--fit.log_every", 1, "--fit.evaluate_every", STEPS, "--crops.batch_size", 6)
CHECKPOINTS = "checkpoints"


def _weights(out: Path) -> dict[str, torch.Tensor]:
    """All that the newest checkpoint of a run holds: weights, averages, codebook, the optimizer's state."""
    newest = checkpoint.complete(out / CHECKPOINTS)[-1]
    return {**load_file(newest / "training.safetensors"), **load_file(newest / "model.safetensors")}


def _assert_same_bits(out: Path, straight: Path, when: str = "") -> None:
    expected, resumed = _weights(straight), _weights(out)
    assert expected.keys() == resumed.keys(), when
    for name, value in expected.items():
        assert torch.equal(value, resumed[name]), f"{name}, {when}"
    steps = [(row["kind"], row["step"]) for row in read_metrics(out / "metrics.jsonl")]
    assert len(steps) == len(set(steps)), "a row of metrics occurs twice"
    assert not list(out.glob(f"{CHECKPOINTS}/.*")) + list(out.glob(".*.jsonl")), "something half written was left"


# --- killed at any step ---


@pytest.fixture(scope="module")
def straight(host, runs: Path, tiny: Path, recipe: Path) -> dict[int, Path]:
    """Runs that were never interrupted, by their number of processes."""
    outs = {processes: runs / f"straight{processes}" for processes in (1, 2)}
    for processes, out in outs.items():
        host.start(recipe, tiny, "--out", out, *OFTEN, processes=processes).finish()
    return outs


@pytest.fixture(scope="module")
def killed(host, runs: Path, tiny: Path, recipe: Path) -> Callable[[int], tuple[Path, str]]:
    """Number of processes -> the folder of a run that was killed, and the words for it."""

    def kill(processes: int) -> tuple[Path, str]:
        seed = int(os.environ.get("VQAUDIO_KILL_SEED", random.SystemRandom().randrange(10**6)))
        step = random.Random(seed).randrange(5, STEPS - 5)
        out = runs / f"killed{processes}"
        run = host.start(__file__, "waits", step + 4, recipe, tiny, "--out", out, *OFTEN, processes=processes)
        while not (out / "metrics.jsonl").exists() or len(read_metrics(out / "metrics.jsonl")) < step:
            assert None in run.poll(), run.output
        run.kill()
        assert run.poll() == [-signal.SIGKILL] * processes, run.output
        return out, f"killed at step {step} (VQAUDIO_KILL_SEED={seed})"

    return kill


@pytest.fixture(scope="module")
def killed_twins(killed, runs: Path) -> tuple[Path, str]:
    """Of two processes. Tests copy it."""
    return killed(2)


@pytest.mark.slow
def test_killed_and_resumed_equals_uninterrupted(host, killed, straight, tiny: Path, recipe: Path) -> None:
    out, when = killed(1)
    output = host.start(recipe, tiny, "--out", out, *OFTEN).finish()
    assert "resuming from" in output and "processes" not in output, when
    _assert_same_bits(out, straight[1], when)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 1, 3])
def test_two_killed_processes_continue_as_two_one_or_three(
    host, killed_twins, straight, runs: Path, tiny: Path, recipe: Path, processes: int
) -> None:
    """As two: the same bits. Otherwise equal within rounding, with a log message."""
    (twins, when), out = killed_twins, runs / f"continued{processes}"
    shutil.copytree(twins, out)
    output = host.start(recipe, tiny, "--out", out, *OFTEN, processes=processes).finish()
    warning = f"the checkpoint was written by 2 processes, this run has {processes}"
    assert "resuming from" in output and (warning in output) == (processes != 2), when
    if processes == 2:
        _assert_same_bits(out, straight[2], when)
        return
    resumed_at = int(re.findall(r"resuming from \S*/0*(\d+)\n", output)[0])
    rows, expected = (
        [row for row in read_metrics(folder / "metrics.jsonl") if row["kind"] == "train" and row["step"] > resumed_at]
        for folder in (out, straight[2])
    )
    assert [row["step"] for row in rows] == list(range(resumed_at + 1, STEPS + 1)), when
    for name in ("loss", "gradient_norm", "gradient_norm/encoder", "gradient_norm/decoder", "perplexity"):
        assert rows[0][name] == pytest.approx(expected[0][name], rel=1e-4), f"{name}, {when}"
    for row, other in zip(rows, expected, strict=True):  # a vector between two codes may have gone the other way
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-2), when


@pytest.mark.slow
def test_when_one_of_two_is_killed_the_other_ends_and_both_resume(
    host, straight, runs: Path, tiny: Path, recipe: Path
) -> None:
    out = runs / "one-of-two"
    run = host.start(__file__, "waits", 12, recipe, tiny, "--out", out, *OFTEN, processes=2)
    while not (out / "metrics.jsonl").exists() or len(read_metrics(out / "metrics.jsonl")) < 9:
        assert None in run.poll(), run.output
    os.kill(run.pids[1], signal.SIGKILL)
    Path(f"{out}.go").touch()
    first, second = run.wait()
    assert second == -signal.SIGKILL and first != 0
    host.start(recipe, tiny, "--out", out, *OFTEN, processes=2).finish()
    _assert_same_bits(out, straight[2])


# --- killed while a checkpoint is written ---

SMALL = SpeechVQVAEConfig(
    encoder=EncoderConfig(strides=(4,), channels=(4,), dilations=(1,), dim=2, lookahead=0),
    quantizer=VectorQuantizerConfig(codebook_size=4, dim=2),
    decoder=WaveNetConfig(
        num_classes=4, layers=1, layers_per_stack=1, residual_channels=2, skip_channels=2, cond_hidden_channels=2
    ),
)
SHORT = FitConfig(steps=3, precision="no", codebook_init_batches=1, log_every=1, save_every=1, keep_checkpoints=1)


class Noise:
    """Batches of fixed noise."""

    seconds_per_step = 0.0

    def batch(self, step: int, part: int = 0, parts: int = 1) -> Batch:
        wav = torch.rand(2, 1, 32, generator=torch.Generator().manual_seed(step))
        lengths = torch.full((2,), 32)
        return {"wav": wav, "target": (wav[:, 0] * 4).long(), "speaker": lengths * 0, "lengths": lengths}


def _fit(out: Path, cfg: FitConfig = SHORT) -> None:
    torch.manual_seed(0)
    fit(SpeechVQVAE(SMALL), Noise(), cfg, out, save=save_model)


def _die_while_writing(step: int, event: int) -> Callable[[], int]:
    """This process kills itself before the `event`-th file operation of writing a checkpoint.

    Counted are files opened, made, renamed and removed since the folder of step `step` was made. -> counts so far
    """
    count = 0

    def note(name: str, args: tuple[Any, ...]) -> None:
        nonlocal count
        begins = name == "os.mkdir" and f".{step:08d}." in str(args[0])
        if begins or (count and name in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir")):
            count += 1
            if count == event:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(note)
    return lambda: count


def _at_every_point(folder: Path) -> None:
    """For each file operation of writing a checkpoint: a run that is killed before it, and its continuation.

    Leaves folders 1, 2, ... and "straight" with runs that have ended, and what was there between in between.json.
    """
    _fit(folder / "straight")
    _fit(folder / "begun", replace(SHORT, steps=1))
    between = []
    for event in range(1, 1000):
        out = folder / str(event)
        shutil.copytree(folder / "begun", out)
        if not (pid := os.fork()):
            counted = _die_while_writing(2, event)
            _fit(out, replace(SHORT, steps=2))
            os._exit(0 if counted() else 3)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if status == 0:  # it has done everything
            shutil.rmtree(out)
            break
        assert status == -signal.SIGKILL, f"exit status {status} at {event}"
        found = checkpoint.complete(out / CHECKPOINTS)
        for path in found:
            load_model(path)
            load_file(path / "training.safetensors")
        between.append({"checkpoints": [path.name for path in found], "files": len(list(out.rglob("*")))})
        if not (pid := os.fork()):
            _fit(out)
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
    (folder / "between.json").write_text(json.dumps(between))


@pytest.mark.slow
def test_killed_at_any_point_of_writing_a_checkpoint(host, tmp_path: Path) -> None:
    host.start(__file__, "at-every-point", tmp_path).finish()
    between = json.loads((tmp_path / "between.json").read_text())
    assert len(between) > 10
    # before it is renamed the old one alone, then both, then the new one alone
    seen = [step["checkpoints"] for step in between]
    assert all(names in (["00000001"], ["00000001", "00000002"], ["00000002"]) for names in seen)
    assert seen[0] == ["00000001"] and seen[-1] == ["00000002"] and seen == sorted(seen, key=lambda names: names[-1])
    for event in range(1, len(between) + 1):
        _assert_same_bits(tmp_path / str(event), tmp_path / "straight")


# --- a file that is cut off, a disk that is full ---


@pytest.fixture(scope="module")
def begun(host, runs: Path, tiny: Path, recipe: Path) -> tuple[Path, Path]:
    """A run of 12 steps, and one with the same settings that has stopped after 4."""
    whole, part = runs / "whole", runs / "part"
    host.start(recipe, tiny, "--out", whole).finish()
    shutil.copytree(whole, part)
    for path in sorted((part / CHECKPOINTS).iterdir()):
        assert path.name in ("00000008", "00000012")
    shutil.rmtree(part / CHECKPOINTS / "00000012")
    for path in part.glob("*.*"):
        if path.name != "metrics.jsonl":
            path.unlink()
    return whole, part


@pytest.mark.slow
@pytest.mark.parametrize("cut", ["model.safetensors", "training.safetensors"])
def test_killed_in_the_middle_of_a_file(host, begun, runs: Path, tiny: Path, recipe: Path, cut: str) -> None:
    (whole, part), out = begun, runs / f"cut-{cut}"
    shutil.copytree(part, out)
    half = (whole / CHECKPOINTS / "00000012" / cut).stat().st_size // 2
    run = host.start(__file__, "dies-beyond", half, recipe, tiny, "--out", out)
    assert run.wait() == [-signal.SIGXFSZ], run.output
    assert [path.name for path in checkpoint.complete(out / CHECKPOINTS)] == ["00000008"]
    host.start(recipe, tiny, "--out", out).finish()
    _assert_same_bits(out, whole)


@pytest.mark.slow
@pytest.mark.parametrize("cut", ["model.safetensors", "training.safetensors", "metrics.jsonl"])
def test_a_file_that_cannot_grow_is_named(host, begun, runs: Path, tiny: Path, recipe: Path, cut: str) -> None:
    """A limit on the size of files, as a quota is."""
    (whole, part), out = begun, runs / f"limit-{cut}"
    shutil.copytree(part, out)
    limit = (out / cut if cut == "metrics.jsonl" else whole / CHECKPOINTS / "00000012" / cut).stat().st_size - 5
    run = host.start(__file__, "fails-beyond", limit, recipe, tiny, "--out", out)
    assert run.wait() == [1], run.output
    message = run.output.splitlines()[-1]
    named = out / cut if cut == "metrics.jsonl" else f"the checkpoint {out / CHECKPOINTS / '00000012'}"
    assert message.startswith(f"error: cannot write {named}: ") and "File too large" in message
    assert [path.name for path in (out / CHECKPOINTS).iterdir()] == ["00000008"]
    host.start(recipe, tiny, "--out", out).finish()
    _assert_same_bits(out, whole)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MiB."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(tmp_path)]
    if sys.platform != "linux" or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("file systems cannot be mounted here")
    yield tmp_path
    subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


def _fill(disk: Path, leave: int) -> Path:
    """Makes a file that leaves so many bytes."""
    filler = disk / "filler"
    filler.write_bytes(bytes(shutil.disk_usage(disk).free - leave))
    return filler


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_full_disk_ends_the_run_in_words_and_room_continues_it(
    host, begun, small_disk: Path, runs: Path, tiny: Path, recipe: Path, processes: int
) -> None:
    (whole, part), out = begun, small_disk / "run"
    shutil.copytree(part, out)
    (small_disk / "packed").symlink_to(runs / "packed")
    size = sum(path.stat().st_size for path in (whole / CHECKPOINTS / "00000012").iterdir())
    filler = _fill(small_disk, leave=size // 2)
    run = host.start(recipe, tiny, "--out", out, processes=processes)
    assert run.wait()[0] == 1, run.output
    (message,) = [line for line in run.output.splitlines() if line.startswith("error: ")]
    assert f"cannot write the checkpoint {out / CHECKPOINTS / '00000012'}" in message and "No space left" in message
    assert [path.name for path in (out / CHECKPOINTS).iterdir()] == ["00000008"]
    filler.unlink()
    assert "resuming from" in host.start(recipe, tiny, "--out", out, processes=processes).finish()
    if processes == 1:
        _assert_same_bits(out, whole)


# --- stopped by a signal ---


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "to_launcher"), [(signal.SIGTERM, False), (signal.SIGINT, False), (signal.SIGTERM, True)]
)
def test_a_signal_saves_a_checkpoint_and_a_message_explains_how_to_continue(
    launched, runs: Path, tiny: Path, number: signal.Signals, to_launcher: bool
) -> None:
    out = runs / f"stopped-{number.name}-{to_launcher}"
    process = launched(tiny, "--out", out, "--fit.steps", 100000, "--fit.save_every", 100000)
    while not (out / "metrics.jsonl").exists():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    newest = int(subprocess.check_output(["pgrep", "-n", "-f", str(out)], text=True))
    os.kill(process.pid if to_launcher else newest, number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "the same command resumes from there" in output
    (newest_checkpoint,) = (out / CHECKPOINTS).iterdir()
    assert json.loads((newest_checkpoint / "state.json").read_text())["step"] == int(newest_checkpoint.name)
    assert (newest_checkpoint / "config.json").exists(), "a checkpoint alone can be used as a model"


def _wait_at_row(row: int, go: Path) -> None:
    """This process waits, where it would write this row of metrics.jsonl, until the file `go` is there."""
    rows = 0

    def note(event: str, args: tuple[Any, ...]) -> None:
        nonlocal rows
        if event == "open" and str(args[0]).endswith("/metrics.jsonl") and args[1] == "a":
            rows += 1
            while rows == row and not go.exists():
                time.sleep(0.01)

    sys.addaudithook(note)


def _limit_files(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def _main(how: str, what: str, *argv: str) -> None:
    if how == "at-every-point":
        return _at_every_point(Path(what))
    if how == "waits":
        _wait_at_row(int(what), Path(argv[argv.index("--out") + 1] + ".go"))
    elif how == "dies-beyond":
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # the kernel kills it in the middle of a write
        _limit_files(int(what))
    elif how == "fails-beyond":
        _limit_files(int(what))
    sys.argv = list(argv)
    runpy.run_path(argv[0], run_name="__main__")


if __name__ == "__main__":
    _main(*sys.argv[1:])
