"""What the README tells a newcomer to type works, word for word, in a folder that has egs/ and recipes/."""

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


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("egs", "recipes"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def test_blocks_are_found() -> None:
    assert [language for language, _ in BLOCKS] == ["bash", "python", "bash"]


@pytest.mark.slow
@pytest.mark.parametrize("language, text", BLOCKS)
def test_the_readmes_commands_run(folder: Path, language: str, text: str) -> None:
    command = ["bash", "-euo", "pipefail", "-c", text] if language == "bash" else [sys.executable, "-c", text]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(command, cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    made = {"vqaudio info": "tokens.jsonl", "accelerate": "run/model.safetensors"}
    for first, product in made.items():
        if first in text and language == "bash":
            assert (folder / product).stat().st_size > 0


def test_every_file_that_the_readme_links_to_exists() -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)\)", (ROOT / "README.md").read_text())
    missing = [link for link in links if not (ROOT / link).exists()]
    assert links and not missing
