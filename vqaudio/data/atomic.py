"""Files that are there whole or not at all."""

import errno
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # Python names no file with these
TOKEN_BYTES = 4


def remove_leftovers(path: Path) -> None:
    """Removes the temporary files that killed writers of `path` left; nobody may be writing it now."""
    for leftover in path.parent.glob(f".{path.stem}." + "[0-9a-f]" * 2 * TOKEN_BYTES + path.suffix):
        leftover.unlink()


@contextmanager
def atomic_file(path: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path`; leaving the block renames it to `path`.

    When the block raises, `path` stays as it was and the temporary file is removed. The temporary
    name is hidden and keeps the suffix, because libsndfile and others choose the format by it.

    Raises FileExistsError when `path` exists and `overwrite` is false, another OSError when the
    folder is missing or cannot be written to, or when the disk is full.
    """
    path = Path(path)
    check_writable(path, overwrite=overwrite)
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(TOKEN_BYTES)}{path.suffix}")
    try:
        try:
            temporary.touch(exist_ok=False)  # a plain file: mkstemp would make it private (0600)
        except OSError as error:
            raise type(error)(
                f"cannot write {path}: {error.strerror}; choose a folder that you may write to"
            ) from error
        try:
            yield temporary
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            raise OSError(f"cannot write {path}: {error.strerror}; make room for it") from error
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(path: Path, *, overwrite: bool) -> None:
    """Raise the OSError that writing `path` would end in, before any work is done for it."""
    if path.is_dir():
        raise IsADirectoryError(f"cannot write {path}: it is a folder; give the name of a file")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists already; pass --overwrite to replace it")
    if not path.parent.exists():
        raise FileNotFoundError(f"cannot write {path}: its folder {path.parent} does not exist; make it first")
    if not path.parent.is_dir():
        raise NotADirectoryError(f"cannot write {path}: {path.parent} is a file, not a folder")
