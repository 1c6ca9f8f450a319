"""Clips of real speech of two speakers that are not in the tiny model."""

from pathlib import Path

import pytest
import soundfile

from vqaudio.data.audio import read_audio

MINI = Path(__file__).parents[2] / "egs/mini/wav16"


@pytest.fixture(scope="session")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with dora/0.wav to 5.wav and emil/0.wav to 5.wav, one second each."""
    root = tmp_path_factory.mktemp("new_speakers")
    folders = [folder for folder in sorted(MINI.iterdir()) if len(list(folder.glob("*.flac"))) >= 6]
    for name, folder in zip(("dora", "emil"), folders, strict=False):
        (root / name).mkdir()
        for i, path in enumerate(sorted(folder.glob("*.flac"))[:6]):
            soundfile.write(root / name / f"{i}.wav", read_audio(path, 16000)[4000:20000], 16000)
    return root
