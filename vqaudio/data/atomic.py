"""Files that are there whole or not at all."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_file(path: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path`; leaving the block renames it to `path`.

    When the block raises, `path` stays as it was and the temporary file is removed. The temporary
    name is hidden and keeps the suffix, because libsndfile and others choose the format by it.

    Raises FileExistsError when `path` exists and `overwrite` is false, another OSError when the
    folder is missing or cannot be written to.
    """
    path = Path(path)
    check_writable(path, overwrite=overwrite)
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}{path.suffix}")
    try:
        try:
            temporary.touch(exist_ok=False)  # a plain file: mkstemp would make it private (0600)
        except OSError as error:
            raise type(error)(
                f"cannot write {path}: {error.strerror}; choose a folder that you may write to"
            ) from error
        yield temporary
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
