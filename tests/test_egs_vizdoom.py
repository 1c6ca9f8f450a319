"""The stages of egs/vizdoom/run.sh on a few frames of the game."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from PIL import Image

ROOT = Path(__file__).parents[1]
TINY = {
    "frames": {
        "crops": {"batch_size": 2},
        "model": {
            "size": 84,
            "coder": {"channels": 4, "num_maps": 1, "dim": 2, "num_mixtures": 1},
            "quantizer": {"codebook_size": 8, "dim": 2},
        },
    },
    "prior": {
        "crops": {"batch_size": 2},
        "prior": {
            "context": 2,
            "action_dim": 4,
            "past": {"channels": 4, "layers": 1},
            "net": {"channels": 4, "layers": 1, "head_channels": 4, "kernel_size": 3},
        },
    },
}


@pytest.fixture
def commands(tmp_path: Path) -> Callable[..., list[list[str]]]:
    """A function (*arguments of run.sh) -> the commands of its stages, which are written down and not run."""
    log = tmp_path / "commands"
    for name in ("vqaudio", "python", "launcher"):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f'#!/bin/sh\n{{ printf "%s\\n" {name} "$@"; echo; }} >> "{log}"\n')
        program.chmod(0o755)

    def run(*arguments: str) -> list[list[str]]:
        log.unlink(missing_ok=True)
        path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "LAUNCH": "launcher"}
        command = ["bash", str(ROOT / "egs/vizdoom/run.sh"), *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        return [each.splitlines() for each in log.read_text().strip().split("\n\n")]

    return run


def _readme_commands() -> list[list[str]]:
    """All commands in the code blocks of the README."""
    text = (ROOT / "egs/vizdoom/README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [shlex.split(line, comments=True) for line in lines]


def _flags(command: list[str]) -> dict[str, list[str]]:
    flags: dict[str, list[str]] = {}
    for word in command:
        if word.startswith("--"):
            flags[word] = []
        elif flags:
            flags[[*flags][-1]].append(word)
    return flags


def test_the_stages_are_the_commands_of_the_readme(commands: Callable[..., list[list[str]]]) -> None:
    """Those of the models for a CPU, whose results it shows."""
    made = commands("--conf", str(ROOT / "egs/vizdoom/conf/cpu"))
    assert [Path(word).name for command in made for word in command[1:2]] == [
        "prepare",
        "train_image.py",
        "train_video.py",
        "evaluate",
        "evaluate",
        "compare.py",
    ]
    prepare, frames, prior, _, evaluate, compare = map(_flags, made)
    shown = _readme_commands()
    (own,) = (_flags(command) for command in shown if command[:2] == ["vqaudio", "prepare"])
    assert own == {flag: values for flag, values in prepare.items() if flag != "--overwrite"}
    (own,) = (_flags(command) for command in shown if command[:2] == ["vqaudio", "evaluate"])
    assert own == {**{flag: evaluate[flag] for flag in ("--model", "--prior", "--data")}, "--out": own["--out"]}
    (own,) = (_flags(command) for command in shown if command[1:2] == ["egs/vizdoom/compare.py"])
    assert own == {flag: compare[flag] for flag in own}
    assert compare.keys() - own.keys() == {"--data", "--out", "--overwrite"}
    assert frames == {"--data": ["data/vizdoom"], "--out": own["--model"]}
    assert prior == {"--data": ["data/vizdoom"], "--model": own["--model"], "--out": own["--prior"]}


@pytest.mark.parametrize("name", [".", "cpu"])
def test_every_configuration_has_the_folder_that_it_names(commands: Callable[..., list[list[str]]], name: str) -> None:
    conf = ROOT / "egs/vizdoom/conf" / name
    for stage, recipe in (("1", "frames"), ("2", "prior")):
        (made,) = commands("--conf", str(conf), "--stage", stage, "--stop-stage", stage)
        values = yaml.safe_load((conf / f"{recipe}.yaml").read_text())
        assert made[2] == str(conf / f"{recipe}.yaml")
        assert {flag: value for flag, (value,) in _flags(made).items()} == {
            f"--{key}": values[key] for key in ("data", "model", "out") if isinstance(values[key], str)
        }


def test_prompt_and_folder_are_options(commands: Callable[..., list[list[str]]]) -> None:
    (made,) = commands("--stage", "4", "--episode", "1", "--first-frame", "40", "--out", "exp/own")
    flags = _flags(made)
    assert (flags["--episode"], flags["--first-frame"]) == (["1"], ["40"])
    assert (flags["--prior"], flags["--out"]) == (["exp/own/prior"], ["exp/own/clips"])


@pytest.mark.long
def test_all_stages_run(tmp_path: Path) -> None:
    pytest.importorskip("vizdoom", reason="recording needs vizdoom: pip install 'vqaudio[video]'")
    (tmp_path / "conf").mkdir()
    for name, values in TINY.items():
        (tmp_path / f"conf/{name}.yaml").write_text(yaml.safe_dump(values))
    command = ["bash", str(ROOT / "egs/vizdoom/run.sh"), "--frames", "80", "--conf", str(tmp_path / "conf")]
    command += ["--data", str(tmp_path / "data"), "--out", str(tmp_path / "exp"), "--episode", "0"]
    command += ["--first-frame", "1", "--", "--fit.steps", "2"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PATH": path, "LAUNCH": "python"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "bits_per_dim" in json.loads((tmp_path / "exp/report/frames/report.json").read_text())
    report = json.loads((tmp_path / "exp/report/prior/report.json").read_text())
    assert report["uniform_bits"] == 3 and len(report["drift"]) == 2
    names = {path.name for path in (tmp_path / "exp/clips").iterdir()}
    assert names == {f"{name}.{suffix}" for name in ("forward", "right", "left") for suffix in ("png", "gif")}
    with Image.open(tmp_path / "exp/clips/left.png") as strip:  # the prompt's last frame and every third of 24, at most
        assert strip.height == 2 * 86 - 2 and strip.width in [86 * columns - 2 for columns in range(1, 10)]
