"""Reading and writing audio files: mono float32, streamed in blocks, resampled once.

Shapes: T samples at the requested rate.
"""

import errno
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import soundfile

from vqaudio.atomic import atomic_file
from vqaudio.data.audio_headers import missing_bytes
from vqaudio.pipes import DASH, is_stream, spooled

WRITABLE = {".wav": "WAV", ".flac": "FLAC"}
Frames = npt.NDArray[np.float32]
UNKNOWN_FRAMES = 2**62  # libsndfile reports 2**63 - 1 for a FLAC stream without a length in its header
MIN_SECONDS = 1e-3  # shorter files have no sample left after resampling to a low rate
MAX_NAMED = 20  # failures that one message names; more are counted
MAX_PEAK = 16.0  # 24 dB above full scale: no recording or mix reaches it, integers stored as floats soon do
INT16_SCALE = 32768  # int16 value = sample * INT16_SCALE, here and in every packed corpus


class AudioError(ValueError):
    """A file that cannot be used as audio; the message names the file, the reason and the remedy."""


class AudioWarning(UserWarning):
    """Files of a corpus that were left out, or may be used in another way than intended; the message counts them."""


Failures = list[AudioError]


def blocks(path: str | Path, sample_rate: int, *, block_seconds: float = 10.0) -> Iterator[Frames]:
    """Stream a file as mono float32 blocks (T,) in [-1, 1] at `sample_rate`, in constant memory.

    Reads every format, rate and channel count that libsndfile supports; channels are averaged. Blocks are
    non-empty, and their concatenation does not depend on `block_seconds`, to the bit. Its length is
    `resampled_length(frames, file_rate, sample_rate)`.

    Raises AudioError (at the first block, or at the damaged position): missing file, not audio, no samples, NaN
    or infinite samples, samples at the scale of integers (see `check_scale`).
    """
    if sample_rate < 1:
        raise ValueError(f"sample_rate must be at least 1 Hz, got {sample_rate}")
    if not block_seconds > 0:
        raise ValueError(f"block_seconds must be above 0, got {block_seconds}")
    path = Path(path)
    with _open(path) as file:
        if resampled_length(file.frames, file.samplerate, sample_rate) == 0:
            raise AudioError(
                f"{path} is too short: {file.frames} samples at {file.samplerate} Hz are less than "
                f"one at {sample_rate} Hz; leave it out"
            )
        block_frames = min(max(1, round(block_seconds * file.samplerate)), file.frames)
        mono_blocks = _mono_blocks(file, path, block_frames)
        if file.samplerate == sample_rate:
            yield from mono_blocks
        else:
            yield from _resampled(mono_blocks, file.samplerate, sample_rate)


def read_audio(path: str | Path, sample_rate: int) -> Frames:
    """Read a whole file: (T,) float32 mono at `sample_rate`, bit-identical to the concatenated `blocks`."""
    return np.concatenate(list(blocks(path, sample_rate)))


def audio_seconds(path: str | Path) -> float:
    """Duration in seconds according to the file header, without decoding. Raises AudioError."""
    frames, rate = num_frames(path)
    return frames / rate


def num_frames(path: str | Path) -> tuple[int, int]:
    """Number of frames and their rate in Hz according to the file header, without decoding. Raises AudioError."""
    with _open(Path(path)) as file:
        return file.frames, file.samplerate


def decoded_seconds(path: str | Path) -> float:
    """Like `audio_seconds`, but decodes the whole file first.

    Raises AudioError also for a damaged or cut off file, NaN or infinite samples, and less than MIN_SECONDS of audio.
    """
    path = Path(path)
    with _open(path) as file:
        for _ in _mono_blocks(file, path, 10 * file.samplerate):
            pass
        seconds = file.frames / file.samplerate
    if seconds < MIN_SECONDS:
        raise AudioError(
            f"{path} is too short: {file.frames} samples at {file.samplerate} Hz are less than a millisecond; "
            "leave it out"
        )
    return seconds


def can_open(path: Path) -> bool:
    """Whether the file has the header of audio that can be read."""
    try:
        _open(path).close()
    except AudioError:
        return False
    return True


def combined_error(failures: Sequence[AudioError]) -> AudioError:
    """One error that names all of them, at least one."""
    if len(failures) == 1:
        return failures[0]
    named = ". ".join(str(failure) for failure in failures[:MAX_NAMED])
    more = f". {len(failures) - MAX_NAMED} more files" if len(failures) > MAX_NAMED else ""
    return AudioError(f"{len(failures)} audio files cannot be used: {named}{more}")


def resampled_length(frames: int, from_rate: int, to_rate: int) -> int:
    """Number of samples after resampling: frames * to_rate / from_rate, rounded as soxr does it, in floating point."""
    return int(frames / (from_rate / to_rate) + 0.5)


def resampled(wav: Frames, from_rate: int, to_rate: int) -> Frames:
    """Resample (T,) from one rate to another, in Hz; returns the input if the rates are equal or it is empty."""
    if from_rate == to_rate or not len(wav):
        return wav
    import soxr

    return soxr.resample(wav, from_rate, to_rate)


def write_audio(
    path: str | Path, wav: npt.ArrayLike, sample_rate: int, *, overwrite: bool = False, comment: str | None = None
) -> None:
    """Write mono samples (T,) as 16-bit PCM; the suffix .wav or .flac chooses the format.

    Values outside [-1, 1] are clipped. The file is written atomically. `comment` goes into its metadata.

    Raises ValueError (another suffix, not one axis, no samples, NaN or infinite samples) and
    OSError (the file exists and `overwrite` is false, the folder is missing or not writable).
    """
    path = Path(path)
    file_format = WRITABLE.get(path.suffix.lower())
    if file_format is None:
        raise ValueError(
            f"cannot write {path}: the suffix must be one of {', '.join(WRITABLE)}, got {path.suffix or 'none'!r}"
        )
    samples = np.asarray(wav, dtype=np.float32)
    if samples.ndim != 1 or len(samples) == 0:
        raise ValueError(f"cannot write {path}: samples must be mono (T,) with T > 0, got shape {samples.shape}")
    if not np.isfinite(samples).all():
        raise ValueError(
            f"cannot write {path}: {np.count_nonzero(~np.isfinite(samples))} of {len(samples)} "
            "samples are NaN or infinite; check the model or program that produced them"
        )
    try:
        check_scale(float(np.abs(samples).max()))  # clipping would leave nothing but noise
    except ValueError as error:
        raise ValueError(f"cannot write {path}: {error}") from error
    with atomic_file(path, overwrite=overwrite) as temporary:
        try:
            name, pcm = sound_name(temporary), to_int16(samples)
            if comment is None:
                soundfile.write(name, pcm, sample_rate, format=file_format, subtype="PCM_16")
            else:
                with soundfile.SoundFile(name, "w", sample_rate, 1, "PCM_16", format=file_format) as file:
                    file.comment = comment  # before the samples, so that it lies in the header
                    file.write(pcm)
        except soundfile.LibsndfileError as error:
            raise unwritable(path, error, 2 * len(samples)) from error


def sound_name(path: Path) -> str:
    """A name for soundfile, which takes bytes too: it does not encode a name that is not UTF-8 itself."""
    return cast(str, os.fsencode(path))


def unwritable(path: Path, error: soundfile.LibsndfileError, num_bytes: int) -> OSError:
    """The error for a failure of libsndfile, which calls a full disk a "System error"."""
    reason = error.error_string
    if shutil.disk_usage(path.parent).free < num_bytes:
        reason = f"{os.strerror(errno.ENOSPC)}; free some disk space"
    return OSError(f"cannot write {path}: {reason}")


def check_scale(peak: float) -> None:
    """Raises ValueError if the largest magnitude of floating-point samples shows that they are integers, or is NaN.

    Full scale is 1. Mixes in floating point exceed it, by a few dB; samples above MAX_PEAK, 24 dB, are integers that
    were converted to float without dividing them by their full scale.
    """
    if math.isnan(peak):
        raise ValueError("samples are not numbers (NaN); clean the audio first")
    if peak > MAX_PEAK:
        raise ValueError(
            f"samples reach {peak:g}, but full scale is 1 and more than {MAX_PEAK:g} is no sound; they look like "
            "integers stored as floats: divide them by their full scale (32768 for 16 bits)"
        )


def to_int16(wav: Frames) -> npt.NDArray[np.int16]:
    """Samples in [-1, 1] -> int16, rounded and clipped; the exact inverse of int16 / 32768.

    Not left to libsndfile, which scales by 32,767 and so changes samples on every round trip.
    """
    return np.clip(np.rint(wav * INT16_SCALE), -INT16_SCALE, INT16_SCALE - 1).astype(np.int16)


def check_file(path: Path) -> None:
    """Raise AudioError unless `path` is a stream, or a non-empty file whose name is UTF-8, as manifests need it."""
    if str(path) == DASH:
        return
    if not named_in_utf8(path):
        raise AudioError(
            f"{printable(path)} has a name that is not UTF-8; rename it (convmv -f latin1 -t utf8 renames whole "
            "folders)"
        )
    try:
        exists = path.exists()
    except OSError as error:  # for example a name that is too long
        raise AudioError(f"{path} cannot be read: {error.strerror}; check the name") from error
    if not exists and path.is_symlink():
        target = printable(path.readlink())
        raise AudioError(f"{path} is a link to {target}, which does not exist; remove or mend the link")
    if not exists:
        raise AudioError(f"{path} does not exist; check the name")
    if path.is_dir() and not os.access(path, os.R_OK | os.X_OK):
        raise AudioError(f"{path} is a folder that may not be read, so its files are left out; change its permissions")
    if path.is_dir():
        raise AudioError(f"{path} is a folder, not an audio file; name the files in it")
    if path.is_file() and path.stat().st_size == 0:
        raise AudioError(f"{path} is empty (0 bytes); copy or download it again")


def named_in_utf8(path: Path) -> bool:
    """Whether the name of a file can be written as UTF-8 text."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def printable(path: str | Path) -> str:
    """A path as text that can be written; bytes that are not UTF-8 become an escape sequence such as \\xe9."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


class _Sequential(soundfile.SoundFile):
    """A SoundFile that never seeks. soundfile seeks after every read of a seekable file, and for MP3 this changes
    the last bits of the following samples, so that blocks would differ from the whole file."""

    def seekable(self) -> bool:
        return False


def _open(path: Path) -> soundfile.SoundFile:
    """Open for reading. Raises AudioError unless the file has at least one sample."""
    check_file(path)
    if is_stream(path):
        with spooled(path) as spool:
            if spool.stat().st_size == 0:
                raise AudioError(f"{path} is an empty stream (0 bytes); check the program that writes to it")
            return _open_named(spool, path)  # the open file can still be read after the spool has been deleted
    return _open_named(path, path)


def _open_named(file_path: Path, path: Path) -> soundfile.SoundFile:
    """`_open` for a file whose name in messages is `path`."""
    if path.suffix.lower() == ".raw":
        raise AudioError(f"{path} has no header with a sample rate; convert it to WAV or FLAC")
    try:
        missing = missing_bytes(file_path)
    except OSError as error:
        raise AudioError(f"{path} cannot be read: {error.strerror}; change its permissions, or leave it out") from error
    if missing:
        raise AudioError(
            f"{path} is cut off: its header promises {missing} bytes more than the file has; copy or download it again"
        )
    try:
        file = _Sequential(file_path)
    except soundfile.LibsndfileError as error:
        raise AudioError(f"{path} is not audio that can be read; convert it to WAV or FLAC, or leave it out") from error
    if file.frames < 1:
        file.close()
        raise AudioError(f"{path} has no samples (a header only); record it again or leave it out")
    if file.frames >= UNKNOWN_FRAMES:
        file.close()
        raise AudioError(f"{path} has no length in its header (a recorded stream); convert it to WAV")
    return file


def _mono_blocks(file: soundfile.SoundFile, path: Path, block_frames: int) -> Iterator[Frames]:
    """Mono blocks (frames,) at the file's own rate, checked for NaN, infinity and truncation."""
    frames_read = 0
    while True:
        try:
            frames = cast(Frames, file.read(block_frames, dtype="float32", always_2d=True))
        except soundfile.LibsndfileError as error:
            raise _damaged(path, frames_read / file.samplerate) from error
        if len(frames) == 0:
            break
        finite = np.isfinite(frames).all(axis=1)
        if not finite.all():
            seconds = (frames_read + int(np.argmin(finite))) / file.samplerate
            raise AudioError(
                f"{path} has NaN or infinite samples (the first one after {seconds:.3f} s); "
                "export it again or leave it out"
            )
        try:
            check_scale(float(max(frames.max(), -frames.min())))
        except ValueError as error:
            raise AudioError(f"{path}: {error}") from error
        frames_read += len(frames)
        yield _mono(frames)
    if frames_read < file.frames and file.format != "MP3":  # the header of an MP3 file only estimates the length
        raise _damaged(path, frames_read / file.samplerate)


def _mono(frames: Frames) -> Frames:
    """(frames, channels) -> (frames,), the mean; the order of summation does not depend on the block length."""
    mono = frames[:, 0].copy()
    for channel in range(1, frames.shape[1]):
        mono += frames[:, channel]
    mono /= frames.shape[1]
    return mono


def _resampled(mono_blocks: Iterator[Frames], from_rate: int, to_rate: int) -> Iterator[Frames]:
    import soxr

    stream = soxr.ResampleStream(from_rate, to_rate, 1, dtype="float32", quality="HQ")
    for mono in mono_blocks:
        resampled = stream.resample_chunk(mono)
        if len(resampled):
            yield resampled
    tail = stream.resample_chunk(np.empty(0, dtype=np.float32), last=True)
    if len(tail):
        yield tail


def _damaged(path: Path, seconds: float) -> AudioError:
    return AudioError(
        f"{path} is damaged or cut off: nothing can be decoded after {seconds:.1f} s; copy or download it again"
    )
