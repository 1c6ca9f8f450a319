"""Audio written piece by piece is the file written at once."""

import io
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from vqaudio.data.audio import to_int16, write_audio
from vqaudio.data.audio_writer import open_writer

WAV = torch.linspace(-1.2, 1.2, 1001)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "A.WAV"])
def test_pieces_make_the_same_file(tmp_path: Path, name: str) -> None:
    write_audio(tmp_path / f"whole_{name}", WAV, 16000)
    with open_writer(tmp_path / name, 16000) as write:
        for piece in WAV.split(77):
            write(piece)
    assert (tmp_path / name).read_bytes() == (tmp_path / f"whole_{name}").read_bytes()


def test_raw_samples_are_little_endian(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = to_int16(WAV.numpy())
    with open_writer(tmp_path / "a.pcm", 16000) as write:
        write(WAV[:500])
        write(WAV[500:])
    assert np.array_equal(np.fromfile(tmp_path / "a.pcm", "<i2"), expected)
    out = io.TextIOWrapper(io.BytesIO())
    monkeypatch.setattr(sys, "stdout", out)
    with open_writer(Path("-"), 16000) as write:
        write(WAV[:3])
        assert len(out.buffer.getvalue()) == 6  # type: ignore[attr-defined]  # at once
        write(WAV[3:])
    assert out.buffer.getvalue() == expected.astype("<i2").tobytes()  # type: ignore[attr-defined]


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    for name in ("a.wav", "a.pcm"):
        with pytest.raises(RuntimeError, match="in between"), open_writer(tmp_path / name, 16000) as write:
            write(WAV)
            raise RuntimeError("in between")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "a.wav").touch()
    with pytest.raises(FileExistsError, match="--overwrite"), open_writer(tmp_path / "a.wav", 16000):
        pytest.fail("opened")
    refused = pytest.raises(ValueError, match=r"cannot stream to .*a\.mp3: give - .*\.wav, \.flac, \.pcm")
    with refused, open_writer(tmp_path / "a.mp3", 16000):
        pytest.fail("opened")
