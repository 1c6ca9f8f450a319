"""Truncated files are distinguished from whole ones and from recorded streams."""

import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from vqaudio.data.audio import AudioError, audio_seconds, read_audio
from vqaudio.data.audio_headers import UNKNOWN_SIZES, missing_bytes

COVERED = ("WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "SVX", "NIST", "MP3", "OGG")


def _write(path: Path, name: str, **options) -> Path:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 16000)
    soundfile.write(path, noise, 16000, format=name, **options)
    return path


@pytest.mark.parametrize("name", COVERED)
@pytest.mark.parametrize("lost", [1, 3000])
def test_a_file_that_lost_its_end_is_named(tmp_path, name, lost) -> None:
    whole = _write(tmp_path / f"x.{name}", name)
    assert missing_bytes(whole) == 0 and audio_seconds(whole) == pytest.approx(1, abs=0.1)
    cut = tmp_path / "cut"
    cut.write_bytes(whole.read_bytes()[:-lost])
    with pytest.raises(AudioError, match=r"cut is (cut off: its header promises|not audio)"):
        audio_seconds(cut)


@pytest.mark.parametrize(("name", "options"), [("WAV", {"endian": "BIG"}), ("AU", {"endian": "LITTLE"})])
def test_the_other_byte_order(tmp_path, name, options) -> None:
    path = _write(tmp_path / "x", name, **options)
    assert missing_bytes(path) == 0
    path.write_bytes(path.read_bytes()[:-100])
    assert missing_bytes(path) == 100


@pytest.mark.parametrize("size", [size for size in sorted(UNKNOWN_SIZES) if size < 2**32])
def test_the_header_of_a_stream_promises_nothing(tmp_path, size) -> None:
    path = _write(tmp_path / "stream.wav", "WAV")
    content = bytearray(path.read_bytes())
    position = content.index(b"data") + 4
    content[position : position + 4] = struct.pack("<I", size)
    path.write_bytes(content)
    assert missing_bytes(path) == 0
    if size == 0xFFFFFFFF:
        assert len(read_audio(path, 16000)) == 16000


@pytest.mark.parametrize("channels", [1, 2, 100])
@pytest.mark.parametrize("unknown", [0x7FFFF000, 0x7FFFFFFF - 36, 0x80000000, 0xFFFFFFFF - 36, 0xFFFFFFFE])
def test_a_stream_may_promise_whole_frames_of_24_bits(tmp_path, unknown, channels) -> None:
    path = tmp_path / "stream.wav"
    soundfile.write(path, np.zeros((16000, channels)), 16000, subtype="PCM_24")
    content = bytearray(path.read_bytes())
    position = content.index(b"data") + 4
    for size in (unknown, unknown // (3 * channels) * 3 * channels):
        content[position : position + 4] = struct.pack("<I", size)
        path.write_bytes(content)
        assert missing_bytes(path) == 0


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_an_ogg_file_without_its_last_pages_is_cut_off(tmp_path, subtype) -> None:
    content = _write(tmp_path / "x.ogg", "OGG", subtype=subtype).read_bytes()
    cut = tmp_path / "cut.ogg"
    cut.write_bytes(content[: content.rindex(b"OggS")])  # all pages that are left are whole
    with pytest.raises(AudioError, match=r"cut\.ogg is cut off: its header promises 27 bytes more"):
        audio_seconds(cut)


def test_chunks_around_the_audio_are_skipped(tmp_path) -> None:
    content = _write(tmp_path / "x.wav", "WAV").read_bytes()
    position = content.index(b"data")
    odd = b"LIST" + struct.pack("<I", 5) + b"12345\0"  # padded to an even length
    path = tmp_path / "more.wav"
    path.write_bytes(content[:position] + odd + content[position:] + odd)
    assert missing_bytes(path) == 0 and len(read_audio(path, 16000)) == 16000
    path.write_bytes(content[:position] + odd + content[position:-10])
    assert missing_bytes(path) == 10


@pytest.mark.parametrize(
    "content", [b"", b"RIFF", b"RIFF____WAVE", b"NIST_1A\n   1024\n", b".snd", b"OggS", b"ID3", b"caff"]
)
def test_a_damaged_header_promises_nothing(tmp_path, content) -> None:
    (tmp_path / "x").write_bytes(content)
    assert missing_bytes(tmp_path / "x") == 0


def test_half_a_wav_file_has_no_tokens_and_no_row(tmp_path) -> None:
    path = _write(tmp_path / "half.wav", "WAV")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(
        AudioError, match=r"half\.wav is cut off: its header promises 16022 bytes more than the file has"
    ):
        read_audio(path, 16000)
