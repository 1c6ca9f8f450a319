"""`import vqaudio` is quick: heavy libraries wait for the functions that use them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import vqaudio

REPOSITORY = Path(__file__).resolve().parents[1]
HEAVY = ("torchaudio", "librosa", "soxr", "transformers", "matplotlib", "accelerate")

# processor time, not the clock: other work on the machine must not fail this
PROGRAM = f"""
import json, sys, time
import torch
began = time.process_time()
import vqaudio
for name in vqaudio.__all__:
    getattr(vqaudio, name)
seconds = time.process_time() - began
print(json.dumps({{"seconds": seconds, "heavy": [name for name in {HEAVY} if name in sys.modules]}}))
"""


@pytest.fixture(scope="module")
def imported() -> dict:
    path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_it_loads_no_heavy_library(imported: dict) -> None:
    assert imported["heavy"] == []


def test_it_takes_less_than_two_seconds_beyond_torch(imported: dict) -> None:
    assert imported["seconds"] < 2


def test_the_public_names_are_there() -> None:
    for name in vqaudio.__all__:
        assert getattr(vqaudio, name).__name__ == name
    assert {"load_model", "save_model", "Tokens", "SpeechVQVAE"} <= set(vqaudio.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        vqaudio.no_such_name  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]
