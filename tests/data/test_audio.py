import os
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vqaudio.data.audio import (
    AudioError,
    audio_seconds,
    blocks,
    read_audio,
    resampled_length,
    to_int16,
    unwritable,
    write_audio,
)
from vqaudio.data.audio_writer import open_writer

FORMATS = [
    pytest.param("a.wav", 8000, 1, "PCM_16", id="8 kHz"),
    pytest.param("a.wav", 16000, 1, "PCM_16", id="16 kHz"),
    pytest.param("a.flac", 44100, 2, "PCM_16", id="44.1 kHz stereo FLAC"),
    pytest.param("a.flac", 96000, 1, "PCM_24", id="96 kHz 24-bit FLAC"),
    pytest.param("a.wav", 48000, 6, "FLOAT", id="6 channels float"),
    pytest.param("a.wav", 22050, 9, "PCM_32", id="9 channels 32-bit"),
    pytest.param("a.ogg", 48000, 2, "VORBIS", id="Ogg Vorbis"),
    pytest.param("a.mp3", 44100, 1, "MPEG_LAYER_III", id="MP3"),
]


def _names(folder: Path) -> list[str]:
    """Everything in a folder, hidden files too."""
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(("name", "rate", "channels", "subtype"), FORMATS)
@pytest.mark.parametrize("block_seconds", [0.003, 0.0501, 0.25])
def test_blocks_equal_whole(tmp_path, write_noise, name, rate, channels, subtype, block_seconds) -> None:
    path = write_noise(tmp_path / name, rate=rate, frames=rate // 2 + 13, channels=channels, subtype=subtype)
    whole = read_audio(path, 16000)
    pieces = list(blocks(path, 16000, block_seconds=block_seconds))
    assert len(pieces) > 1
    assert all(len(piece) for piece in pieces)
    assert whole.dtype == np.float32
    np.testing.assert_array_equal(np.concatenate(pieces), whole)


@pytest.mark.parametrize(("name", "rate", "channels", "subtype"), FORMATS)
def test_read_is_the_channel_mean_resampled_once(tmp_path, write_noise, name, rate, channels, subtype) -> None:
    path = write_noise(tmp_path / name, rate=rate, frames=rate // 4 + 1, channels=channels, subtype=subtype)
    frames, _ = soundfile.read(path, dtype="float64", always_2d=True)
    expected = soxr.resample(frames.mean(axis=1), rate, 16000, quality="HQ")
    got = read_audio(path, 16000)
    assert len(got) == len(expected) == resampled_length(len(frames), rate, 16000)
    np.testing.assert_allclose(got, expected, atol=2e-5)


@settings(max_examples=60, deadline=None)
@given(
    frames=st.integers(1, 3000),
    from_rate=st.sampled_from([8000, 11025, 22050, 24000, 32000, 44100, 48000, 96000]),
    to_rate=st.sampled_from([8000, 16000, 22050, 24000, 48000]),
)
@example(frames=960, from_rate=96000, to_rate=22050)  # exactly 220.5: soxr gives 220
@example(frames=160, from_rate=48000, to_rate=22050)  # exactly 73.5: soxr gives 74
def test_resampled_length_is_what_soxr_gives(frames, from_rate, to_rate) -> None:
    exact = Fraction(frames * to_rate, from_rate)
    length = resampled_length(frames, from_rate, to_rate)
    assert abs(length - exact) <= Fraction(1, 2)
    if from_rate != to_rate:
        resampled = soxr.resample(np.zeros(frames, np.float32), from_rate, to_rate)
        assert len(resampled) == length


def test_memory_does_not_grow_with_length(tmp_path, peak_memory) -> None:
    """Peak memory of streaming 40 minutes stays within 15 MB of that of streaming one."""
    script = (
        f"{peak_memory}"
        "import sys\n"
        "from vqaudio.data.audio import blocks\n"
        "n = sum(len(b) for b in blocks(sys.argv[1], 16000))\n"
        "print(n, peak_memory())\n"
    )
    peaks = []
    for minutes in (1, 40):
        path = tmp_path / f"{minutes}.wav"
        with soundfile.SoundFile(path, "w", samplerate=8000, channels=1) as file:
            for _ in range(minutes):
                file.write(np.zeros(60 * 8000, np.int16))
        run = subprocess.run(
            [sys.executable, "-c", script, str(path)],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).resolve().parents[2],
        )
        samples, kilobytes = map(int, run.stdout.split())
        assert samples == minutes * 60 * 16000
        peaks.append(kilobytes)
    assert peaks[1] - peaks[0] < 15_000  # the whole of 40 minutes would be 150 MB


def test_audio_seconds(tmp_path, write_noise) -> None:
    assert audio_seconds(write_noise(tmp_path / "a.wav", rate=8000, frames=2000)) == 0.25


def _bad_files(folder: Path) -> dict[str, tuple[Path, str]]:
    """name -> (path, expected message)."""
    (folder / "text.wav").write_text("I am not audio\n" * 50)
    (folder / "empty.wav").touch()
    (folder / "folder.wav").mkdir()
    (folder / "headerless.raw").write_bytes(bytes(100))
    soundfile.write(folder / "none.wav", np.zeros(0, np.float32), 16000)
    for name, value in (("nan.wav", np.nan), ("inf.wav", np.inf)):
        samples = np.zeros((16000, 2), np.float32)
        samples[8000, 1] = value
        soundfile.write(folder / name, samples, 16000, subtype="FLOAT")
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 48000)
    soundfile.write(folder / "cut.flac", noise, 16000)
    whole = (folder / "cut.flac").read_bytes()
    (folder / "cut.flac").write_bytes(whole[: len(whole) // 2])
    stream = bytearray(whole)
    stream[21] &= 0xF0  # the 36 bits of STREAMINFO that hold the number of samples
    stream[22:26] = bytes(4)
    (folder / "stream.flac").write_bytes(stream)
    soundfile.write(folder / "tiny.wav", np.zeros(2, np.float32), 96000)
    says = {
        "missing.wav": "does not exist",
        "text.wav": "not audio that can be read",
        "empty.wav": r"empty \(0 bytes\)",
        "folder.wav": "is a folder",
        "headerless.raw": "no header",
        "none.wav": "no samples",
        "nan.wav": r"NaN or infinite samples \(the first one after 0\.500 s\)",
        "inf.wav": "NaN or infinite samples",
        "cut.flac": "damaged or cut off",
        "stream.flac": "has no length in its header",
        "tiny.wav": "too short",
    }
    return {name: (folder / name, message) for name, message in says.items()}


WAVS = ("missing", "text", "empty", "folder", "none", "nan", "inf", "tiny")


@pytest.mark.parametrize("name", [*(f"{stem}.wav" for stem in WAVS), "cut.flac", "stream.flac", "headerless.raw"])
def test_bad_file_is_explained_in_one_sentence_with_its_path(tmp_path, name) -> None:
    path, message = _bad_files(tmp_path)[name]
    with pytest.raises(AudioError, match=message) as caught:
        read_audio(path, 16000)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert ";" in str(caught.value)  # what is wrong; what to do


@pytest.mark.parametrize("name", ["missing.wav", "text.wav", "empty.wav", "folder.wav", "none.wav"])
def test_audio_seconds_explains_bad_files(tmp_path, name) -> None:
    path, message = _bad_files(tmp_path)[name]
    with pytest.raises(AudioError, match=message):
        audio_seconds(path)


def test_nan_late_in_the_file_is_found_while_streaming(tmp_path) -> None:
    samples = np.zeros(16000, np.float32)
    samples[12000] = np.nan
    soundfile.write(tmp_path / "a.wav", samples, 16000, subtype="FLOAT")
    stream = blocks(tmp_path / "a.wav", 16000, block_seconds=0.5)
    assert len(next(stream)) == 8000
    with pytest.raises(AudioError, match=r"after 0\.750 s"):
        next(stream)


@pytest.mark.parametrize("kwargs", [{"sample_rate": 0}, {"sample_rate": 8000, "block_seconds": 0}])
def test_wrong_arguments(tmp_path, write_noise, kwargs) -> None:
    with pytest.raises(ValueError, match="got 0"):
        next(blocks(write_noise(tmp_path / "a.wav"), **kwargs))


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".WAV"])
def test_written_int16_reads_back_exactly(tmp_path, suffix) -> None:
    wav = np.arange(-32768, 32768, dtype=np.float32) / 32768
    path = tmp_path / f"a{suffix}"
    write_audio(path, wav, 16000)
    assert soundfile.info(path).subtype == "PCM_16"
    np.testing.assert_array_equal(read_audio(path, 16000), wav)
    assert _names(tmp_path) == [path.name]


def test_write_clips(tmp_path) -> None:
    write_audio(tmp_path / "a.wav", [-3.0, -1.0, 0.0, 1.0, 3.0], 16000)
    np.testing.assert_array_equal(
        soundfile.read(tmp_path / "a.wav", dtype="int16")[0], [-32768, -32768, 0, 32767, 32767]
    )


def test_int16_round_trip_of_every_value() -> None:
    values = np.arange(-32768, 32768, dtype=np.int16)
    np.testing.assert_array_equal(to_int16(np.divide(values, 32768, dtype=np.float32)), values)


def test_write_refuses_to_overwrite(tmp_path, write_noise) -> None:
    path = write_noise(tmp_path / "a.wav")
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match="--overwrite"):
        write_audio(path, np.zeros(10), 16000)
    assert path.read_bytes() == before
    write_audio(path, np.zeros(10), 16000, overwrite=True)
    assert len(read_audio(path, 16000)) == 10


@pytest.mark.parametrize(
    ("wav", "message"),
    [
        ([0.0, np.nan], "1 of 2 samples are NaN"),
        ([np.inf, np.nan], "2 of 2"),
        (np.zeros((1, 5)), r"shape \(1, 5\)"),
        ([], r"shape \(0,\)"),
    ],
)
def test_write_refuses_bad_samples(tmp_path, wav, message) -> None:
    with pytest.raises(ValueError, match=message):
        write_audio(tmp_path / "a.wav", wav, 16000)
    assert _names(tmp_path) == []


def test_write_refuses_other_formats_and_places(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"\.wav, \.flac"):
        write_audio(tmp_path / "a.mp3", np.zeros(10), 16000)
    with pytest.raises(FileNotFoundError, match="does not exist; make it"):
        write_audio(tmp_path / "missing" / "a.wav", np.zeros(10), 16000)
    (tmp_path / "b.wav").mkdir()
    with pytest.raises(IsADirectoryError, match="folder"):
        write_audio(tmp_path / "b.wav", np.zeros(10), 16000, overwrite=True)
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(NotADirectoryError, match="is a file"):
        write_audio(file / "a.wav", np.zeros(10), 16000)


def test_failed_write_keeps_the_old_file_and_leaves_nothing(tmp_path, write_noise, monkeypatch) -> None:
    path = write_noise(tmp_path / "a.wav")
    before = path.read_bytes()

    def half_written(file, *args, **kwargs) -> None:
        Path(os.fsdecode(file)).write_bytes(b"RIFF")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(soundfile, "write", half_written)
    with pytest.raises(OSError, match="No space"):
        write_audio(path, np.zeros(10), 16000, overwrite=True)
    assert path.read_bytes() == before
    assert _names(tmp_path) == ["a.wav"]


def test_read_only_folder_is_explained(tmp_path, monkeypatch) -> None:
    """Simulated, because root may write everywhere."""

    def refuse(self, *args, **kwargs) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(PermissionError, match=r"cannot write .*a\.wav: Permission denied; choose"):
        write_audio(tmp_path / "a.wav", np.zeros(10), 16000)
    assert _names(tmp_path) == []


def test_written_file_has_the_usual_permissions(tmp_path) -> None:
    write_audio(tmp_path / "a.wav", np.zeros(10), 16000)
    (tmp_path / "plain").touch()
    assert (tmp_path / "a.wav").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("scale", [128, 32768, 2**31])
def test_integers_stored_as_floats_are_refused(tmp_path, scale) -> None:
    path, samples = tmp_path / "a.wav", np.sin(np.arange(800, dtype=np.float32))
    soundfile.write(path, samples * scale, 16000, subtype="FLOAT")
    with pytest.raises(AudioError, match=r"a\.wav: samples reach .*; they look like integers stored as floats"):
        read_audio(path, 8000)
    with pytest.raises(ValueError, match=r"cannot write .*b\.wav: samples reach"):
        write_audio(tmp_path / "b.wav", samples * scale, 16000)
    assert not (tmp_path / "b.wav").exists()


def test_a_mix_far_above_full_scale_is_audio(tmp_path) -> None:
    path = tmp_path / "loud.wav"
    soundfile.write(path, np.full(80, 15.9, dtype=np.float32), 16000, subtype="FLOAT")
    assert read_audio(path, 16000).max() == np.float32(15.9)


def test_a_full_disk_is_named_and_other_failures_as_libsndfile_does(tmp_path: Path) -> None:
    error = soundfile.LibsndfileError(2)  # "System error."
    assert str(unwritable(tmp_path / "a.wav", error, 0)) == f"cannot write {tmp_path}/a.wav: {error.error_string}"
    full = str(unwritable(tmp_path / "a.wav", error, 2**62))
    assert full == f"cannot write {tmp_path}/a.wav: No space left on device; free some disk space"


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_a_name_that_is_not_utf8_is_written(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9" + suffix.encode())
    try:
        path.touch()
    except OSError:
        pytest.skip("the file system takes UTF-8 only")
    write_audio(path, np.zeros(8), 16000, overwrite=True)
    with open_writer(path, 16000, overwrite=True) as write:
        write(torch.full((8,), 0.5))
    shutil.copy(path, tmp_path / f"read{suffix}")
    assert np.array_equal(read_audio(tmp_path / f"read{suffix}", 16000), np.full(8, 0.5, np.float32))
