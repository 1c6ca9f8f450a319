"""Synthetic audio files and packed corpora that the data tests share."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from vqaudio.data.manifest import Utterance
from vqaudio.data.packed import PackedSpeech, pack

REPOSITORY = Path(__file__).resolve().parents[2]


def _noise(path: Path, *, rate: int = 16000, frames: int = 1600, channels: int = 1, subtype: str = "PCM_16") -> Path:
    """Write deterministic noise (frames, channels) in [-0.5, 0.5]; make the folder if needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([rate, frames, channels])
    samples = rng.uniform(-0.5, 0.5, (frames, channels)).astype(np.float32)
    soundfile.write(path, samples, rate, subtype=subtype)
    return path


@pytest.fixture
def write_noise() -> Callable[..., Path]:
    return _noise


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory) -> PackedSpeech:
    """Three speakers: a has 6 s in 6 files, b 1.5 s in 3, c 0.05 s in 1 (800 samples)."""
    folder = tmp_path_factory.mktemp("corpus")
    utterances = [
        Utterance(
            id=f"{speaker}_{i}",
            path=_noise(folder / f"{speaker}_{i}.wav", frames=frames + i),
            speaker=speaker,
            seconds=(frames + i) / 16000,
        )
        for speaker, count, frames in (("b", 3, 8000), ("a", 6, 16000), ("c", 1, 800))
        for i in range(count)
    ]
    return pack(utterances, folder / "packed", 16000)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with vctk_mini and other real corpora."""
    root = Path(os.environ.get("VQAUDIO_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (root / "vctk_mini" / "wav16").is_dir():
        pytest.skip(f"no real speech in {root} (set VQAUDIO_DATA to a folder with vctk_mini)")
    return root
