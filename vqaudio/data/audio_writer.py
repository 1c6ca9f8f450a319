"""Incremental audio output: to a file, or as raw samples to standard output."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import soundfile
from torch import Tensor

from vqaudio.atomic import atomic_file
from vqaudio.data.audio import WRITABLE, sound_name, to_int16, unwritable
from vqaudio.pipes import DASH as STDOUT
from vqaudio.pipes import check_stdout, send

RAW = ".pcm"


@contextmanager
def open_writer(out: Path, sample_rate: int, *, overwrite: bool = False) -> Iterator[Callable[[Tensor], object]]:
    """Context manager that yields a function `write(wav)`, (T,) float32 in [-1, 1], for mono 16-bit PCM.

    `out` is NAME.wav, NAME.flac, NAME.pcm (raw little-endian samples without header) or - (raw samples to standard
    output, flushed after every call, so that they can be piped to a player). Files are written atomically. Raises
    ValueError for another suffix, OSError if the file cannot be written.
    """
    check_destination(out)
    if str(out) == STDOUT:
        yield lambda wav: send(_pcm(wav))
        return
    with atomic_file(out, overwrite=overwrite) as temporary:
        if out.suffix.lower() == RAW:
            with temporary.open("wb") as file:
                yield lambda wav: file.write(_pcm(wav))
        else:
            file_format = WRITABLE[out.suffix.lower()]
            try:
                with soundfile.SoundFile(
                    sound_name(temporary), "w", sample_rate, 1, "PCM_16", format=file_format
                ) as file:
                    yield lambda wav: file.write(to_int16(wav.numpy()))
            except soundfile.LibsndfileError as error:
                raise unwritable(out, error, 1) from error


def check_destination(out: Path) -> None:
    """Raise ValueError for an unsupported suffix, or if `out` is - and standard output is a terminal or closed."""
    if str(out) == STDOUT:
        check_stdout()
    if str(out) == STDOUT and sys.stdout.isatty():
        raise ValueError(
            "standard output is a terminal: pipe it to a player (| aplay -f S16_LE -r 16000), or name a file"
        )
    if str(out) != STDOUT and out.suffix.lower() not in (*WRITABLE, RAW):
        allowed = ", ".join((*WRITABLE, RAW))
        raise ValueError(f"cannot stream to {out}: give - for standard output, or a file whose suffix is {allowed}")


def _pcm(wav: Tensor) -> bytes:
    return to_int16(wav.numpy()).astype("<i2").tobytes()
