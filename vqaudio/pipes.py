"""Standard input, pipes and standard output in the place of files."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DASH = "-"  # standard input where a file is read, standard output where one is written


def is_stream(path: str | Path) -> bool:
    """Whether reading `path` consumes it: -, a pipe such as <(command), a device such as /dev/stdin."""
    path = Path(path)
    return str(path) == DASH or (path.exists() and not path.is_file() and not path.is_dir())


@contextmanager
def spooled(path: str | Path, suffix: str = "") -> Iterator[Path]:
    """A file with the content of a stream, which can be read twice and in any order; another path is yielded as it is.

    The file lies in the system's folder for temporary files (TMPDIR) and is deleted at the end of the block. Raises
    OSError if it cannot be written.
    """
    if not is_stream(path):
        yield Path(path)
        return
    with tempfile.NamedTemporaryFile(prefix="vqaudio-", suffix=suffix) as spool:
        if str(path) == DASH:
            shutil.copyfileobj(sys.stdin.buffer, spool)
        else:
            with Path(path).open("rb") as stream:
                shutil.copyfileobj(stream, spool)
        spool.flush()
        yield Path(spool.name)


def check_stdout() -> None:
    """Raises OSError if the program was started without standard output (>&-); the null device is in its place then."""
    if sys.stdout is None or getattr(sys.stdout, "name", None) == os.devnull:
        raise OSError("standard output is closed; name a file")


def send(content: bytes) -> None:
    """Writes to standard output at once. Raises OSError if it is closed."""
    check_stdout()
    sys.stdout.buffer.write(content)
    sys.stdout.buffer.flush()
