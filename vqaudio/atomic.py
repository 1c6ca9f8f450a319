"""Files and folders that are there whole or not at all."""

import errno
import json
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # Python names no file with these
TOKEN_BYTES = 4


def remove_leftovers(path: Path) -> None:
    """Removes the temporary files and folders that killed writers of `path` left; nobody may be writing it now."""
    for leftover in path.parent.glob(f".{path.stem}." + "[0-9a-f]" * 2 * TOKEN_BYTES + path.suffix):
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
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
    temporary = _temporary(path)
    try:
        with _mkdir_errors_named(path):
            temporary.touch(exist_ok=False)  # a plain file: mkstemp would make it private (0600)
        with _disk_full_named(path):
            yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield a new, empty, hidden folder beside `path`; leaving the block puts it in the place of `path`.

    Whether a folder that is there may be replaced is for the caller to check. When the block raises, `path`
    stays as it was and the new folder is removed. Raises OSError where it cannot write, or the disk is full.
    """
    path = Path(path).resolve()  # through a link: what it points to is replaced, not the link
    temporary = _temporary(path)
    try:
        with _mkdir_errors_named(path):
            temporary.mkdir()
        with _disk_full_named(path):
            yield temporary
        replace_folder(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def replace_folder(new: Path, path: Path) -> None:
    """Put the finished folder `new`, of the same file system, in the place of `path`, whether that is there or not.

    The old folder is renamed aside, to a hidden sibling, and removed when the new one has its name; where that
    fails it gets its own back and OSError is raised. A writer that was killed on the way has left one of two
    things, and `restore_folder` deals with both before anything else happens: so there is at no time less than
    one whole folder, here or aside, and a failure after a kill ends with the last whole one at `path`. Nobody
    else may be writing `path` now.
    """
    restore_folder(path)
    aside = _aside(path)
    if path.exists():
        path.rename(aside)
    try:
        new.rename(path)
    except OSError:
        if aside.exists():
            aside.rename(path)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def restore_folder(path: Path) -> None:
    """Undo what a `replace_folder` that was killed left of `path`; nothing where none was.

    An old folder aside beside a `path` that is there was about to be removed, and is. One without `path` was
    killed between the two renamings: it is the last whole folder of this name, and gets it back.
    """
    aside = _aside(path)
    if path.exists():
        shutil.rmtree(aside, ignore_errors=True)
    elif aside.exists():
        aside.rename(path)


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


def check_output_folder(out: Path, names: Sequence[str], overwrite: bool) -> None:
    """Makes the folder. Raises the OSError that writing would end in, before any work is done for it."""
    out.mkdir(parents=True, exist_ok=True)
    for name in names:
        check_writable(out / name, overwrite=overwrite)


def save_json(path: Path, figures: dict[str, Any], *, overwrite: bool = False) -> None:
    """Figures by name -> a JSON file, whole or not at all."""
    with atomic_file(path, overwrite=overwrite) as temporary:
        temporary.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.stem}.{secrets.token_hex(TOKEN_BYTES)}{path.suffix}")


def _aside(path: Path) -> Path:
    """Where the old folder is while the new one takes its place."""
    return path.with_name(f".{path.name}.old")


@contextmanager
def _mkdir_errors_named(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise type(error)(f"cannot write {path}: {error.strerror}; choose a folder that you may write to") from error


@contextmanager
def _disk_full_named(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise OSError(f"cannot write {path}: {error.strerror}; make room for it") from error
