"""Audio that is written while it comes into being: to a file, or raw to whoever reads standard output."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import soundfile
from torch import Tensor

from vqaudio.atomic import atomic_file
from vqaudio.data.audio import WRITABLE, to_int16

STDOUT = "-"
RAW = ".pcm"


@contextmanager
def open_writer(out: Path, sample_rate: int, *, overwrite: bool = False) -> Iterator[Callable[[Tensor], object]]:
    """Yields a function that takes the next samples, (T,) float32 in [-1, 1], as 16-bit PCM, mono.

    `out`: NAME.wav or NAME.flac; NAME.pcm for samples without a header (little-endian); - for the same on standard
    output, at once, so that it can be piped to a player. A file appears whole or not at all. Raises ValueError for
    another suffix, OSError where it cannot be written.
    """
    check_destination(out)
    if str(out) == STDOUT:
        yield lambda wav: _send(_pcm(wav))
        return
    with atomic_file(out, overwrite=overwrite) as temporary:
        if out.suffix.lower() == RAW:
            with temporary.open("wb") as file:
                yield lambda wav: file.write(_pcm(wav))
        else:
            file_format = WRITABLE[out.suffix.lower()]
            try:
                with soundfile.SoundFile(temporary, "w", sample_rate, 1, "PCM_16", format=file_format) as file:
                    yield lambda wav: file.write(to_int16(wav.numpy()))
            except soundfile.LibsndfileError as error:  # a full disk, for one
                raise OSError(f"cannot write {out}: {error.error_string}") from error


def check_destination(out: Path) -> None:
    """Raises ValueError for a name that is no sink, and for a terminal, which is no place for samples."""
    if str(out) == STDOUT and sys.stdout.isatty():
        raise ValueError(
            "standard output is a terminal: pipe it to a player (| aplay -f S16_LE -r 16000), or name a file"
        )
    if str(out) != STDOUT and out.suffix.lower() not in (*WRITABLE, RAW):
        allowed = ", ".join((*WRITABLE, RAW))
        raise ValueError(f"cannot stream to {out}: give - for standard output, or a file whose suffix is {allowed}")


def _pcm(wav: Tensor) -> bytes:
    return to_int16(wav.numpy()).astype("<i2").tobytes()


def _send(pcm: bytes) -> None:
    sys.stdout.buffer.write(pcm)
    sys.stdout.buffer.flush()
