"""What pyproject.toml has installed is all that the package reads, and works without the rest and without a network."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
NOT_READ = (".py", ".pyc", ".so", ".cpp")
PROGRAM = """
import vqaudio
model = vqaudio.load_model("mini")
print(vqaudio.__file__, len(model.tokenize([0.1] * 3200).codes))
"""


def test_the_shipped_model_is_installed_and_needs_nothing_else(tmp_path: Path) -> None:
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["vqaudio"]
    installed = {path for pattern in patterns for path in (ROOT / "vqaudio").glob(pattern) if path.is_file()}
    everything = {path for path in (ROOT / "vqaudio").rglob("*") if path.is_file()}
    assert installed == {path for path in everything if path.suffix not in NOT_READ}
    assert {"golden.jsonl", "MODEL_CARD.md", "config.json", "model.safetensors"} <= {path.name for path in installed}
    for path in installed | {path for path in everything if path.suffix == ".py"}:
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=tmp_path, env=environment, check=False, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.split() == [str(tmp_path / "vqaudio/__init__.py"), "20"]
