"""The commands of the README work as they are printed, in a folder that has egs/ and recipes/."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(
    r"<!-- run by tests/test_readme.py -->\n```(bash|python)\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL
)
MADE = {"vqaudio tokenize": ["tokens.jsonl", "converted.wav"], "accelerate launch": ["run/model.safetensors"]}
# appended to the training command: two updates and one small evaluation in place of minutes; one thread, because
# `accelerate launch` takes all processors, whose threads wait for each other where other tests run beside this one
SHORT = "--fit.steps 2 --fit.threads 1 --validation.num_batches 1 --validation.batch_size 2 --validation.samples 2560"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("egs", "recipes"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def test_blocks_are_found() -> None:
    assert [language for language, _ in BLOCKS] == ["bash", "python", "bash"]
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200


@pytest.mark.slow
@pytest.mark.parametrize(("language", "text"), BLOCKS, ids=["shell", "python", "training"])
def test_the_commands_of_the_readme_run(folder: Path, language: str, text: str) -> None:
    if "accelerate launch" in text:
        assert text.rstrip().rpartition("accelerate launch")[2].count("\n") == 1, "training must be the last command"
        text = f"{text.rstrip()} {SHORT}"
    command = ["bash", "-euo", "pipefail", "-c", text] if language == "bash" else [sys.executable, "-c", text]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(command, cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    products = [name for verb, names in MADE.items() if verb in text for name in names]
    assert language == "python" or products
    for name in products:
        assert (folder / name).stat().st_size > 0
