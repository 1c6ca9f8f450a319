"""Atomic writing: files and folders appear completely or not at all.

Until it is complete, NAME.suffix is the hidden sibling `.NAME.partial.suffix`, locked by its writer. The system
releases the lock of a killed process, and the next writer of that name removes what it left.
"""

import errno
import json
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from vqaudio.pipes import DASH, send

if sys.platform != "win32":
    import fcntl

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # OSErrors with these numbers carry no file name
TOKEN_BYTES = 4
ADDED_BYTES = len("..") + 2 * TOKEN_BYTES  # by which a temporary name is longer than the final one


@contextmanager
def atomic_file(path: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path`; leaving the block renames it to `path` (-: sends it to standard output).

    If the block raises, `path` is left unchanged and the temporary file is deleted. The temporary name is hidden
    and keeps the suffix, from which libsndfile and others choose the format.

    Raises FileExistsError if `path` exists and `overwrite` is false, another OSError if the folder is missing or
    not writable, or if the disk is full.
    """
    path = Path(path)
    if str(path) == DASH:
        with tempfile.TemporaryDirectory(prefix="vqaudio-") as folder:
            yield Path(folder) / "output"
            send((Path(folder) / "output").read_bytes())
        return
    check_writable(path, overwrite=overwrite)
    if path.is_symlink():
        path = path.resolve()  # replaces the target of the link, not the link
    with _claimed(path, folder=False) as temporary:
        with _disk_full_named(path):
            yield temporary
        temporary.replace(path)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield a new, empty, hidden folder beside `path`; leaving the block replaces `path` by it.

    The caller must check whether an existing folder may be replaced. If the block raises, `path` is left unchanged
    and the new folder is deleted. Raises OSError if it cannot be written, or if the disk is full.
    """
    check_names_folder(Path(path))
    check_no_mount(Path(path))
    path = Path(path).resolve()  # replaces the target of a symbolic link, not the link
    with _claimed(path, folder=True) as temporary:
        with _disk_full_named(path):
            yield temporary
        replace_folder(temporary, path)


def replace_folder(new: Path, path: Path) -> None:
    """Replace `path`, which need not exist, by the finished folder `new` on the same file system.

    The old folder is renamed to a hidden sibling, which is deleted after the new folder was renamed to `path`. If
    that fails, the old folder is renamed back and OSError is raised. At every moment one complete folder exists,
    and `restore_folder` cleans up after a process that was killed in between. No other process may be writing
    `path`.
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
    """Clean up after a `replace_folder` that was killed; no effect otherwise.

    If `path` and the renamed old folder both exist, the old one is deleted. If only the old one exists, the process
    was killed between the two renames, and it is renamed back to `path`.
    """
    aside = _aside(path)
    if path.exists():
        shutil.rmtree(aside, ignore_errors=True)
    elif aside.exists():
        aside.rename(path)


def check_writable(path: Path, *, overwrite: bool) -> None:
    """Raise the OSError that writing `path` would raise, before any work is done."""
    if str(path) == DASH:
        return
    check_name(path)
    if path.is_dir():
        raise IsADirectoryError(f"cannot write {path}: it is a folder; give the name of a file")
    if path.exists() and not path.is_file():
        raise OSError(f"cannot write {path}: it is a pipe or a device; name a file, or - for standard output")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists already; pass --overwrite to replace it")
    if not path.parent.exists():
        raise FileNotFoundError(f"cannot write {path}: its folder {path.parent} does not exist; make it first")
    if not path.parent.is_dir():
        raise NotADirectoryError(f"cannot write {path}: {path.parent} is a file, not a folder")


def check_name(path: Path, *, added_bytes: int = ADDED_BYTES) -> None:
    """Raise OSError if the name of `path` is too long for the file system.

    `added_bytes` is the length that a temporary name needs more; 0 for a file in a temporary folder.
    """
    whole = path.absolute()
    folder = next(parent for parent in whole.parents if parent.is_dir())
    lengths = {"name": len(os.fsencode(path.name)), "path": len(os.fsencode(whole))}
    limits = {"name": os.pathconf(folder, "PC_NAME_MAX"), "path": os.pathconf(folder, "PC_PATH_MAX") - 1}
    for kind, length in lengths.items():
        if length > (allowed := limits[kind] - added_bytes):
            raise OSError(
                f"cannot write {path}: its {kind} has {length} bytes, at most {allowed} are allowed there; use shorter "
                "names of files and folders"
            )


def check_no_mount(path: Path) -> None:
    """Raise OSError for the place where a file system is mounted, which cannot be replaced by a new folder."""
    if path.is_mount():
        raise OSError(f"cannot write {path}: a file system is mounted there; name a folder in it")


def check_names_folder(path: Path) -> None:
    """Raise ValueError for - (standard output) in the place of a folder."""
    if str(path) == DASH:
        raise ValueError("- is standard output, but a folder is written here; name one")


def make_folder(path: Path) -> None:
    """Create a folder, unless it is there. Raises ValueError for -, and OSError that names what to do."""
    check_names_folder(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise type(error)(f"cannot make {path}: {error.strerror}; choose a folder that you may write to") from error


def check_output_folder(out: Path, names: Sequence[str], overwrite: bool) -> None:
    """Create the folder `out`. Raises the OSError that writing `names` in it would raise, before any work is done."""
    check_names_folder(out)
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"cannot write {out}: it is a file; give the name of a folder")
    out.mkdir(parents=True, exist_ok=True)
    for name in names:
        check_writable(out / name, overwrite=overwrite)


def save_json(path: Path, metrics: dict[str, Any], *, overwrite: bool = False) -> None:
    """Write metrics by name to a JSON file, atomically."""
    with atomic_file(path, overwrite=overwrite) as temporary:
        temporary.write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")


@contextmanager
def _claimed(path: Path, *, folder: bool) -> Iterator[Path]:
    """A new, empty temporary file or folder beside `path`, which the block renames; it is deleted if the block raises.

    Its name is that of a killed writer, whose file is deleted first; while another process writes `path`, and where
    there are no locks, a random one.
    """
    temporary = path.with_name(f".{path.stem}.partial{path.suffix}")
    with _mkdir_errors_named(path):
        lock = _lock(temporary, folder)
        if lock is None:
            temporary = path.with_name(f".{path.stem}.{secrets.token_hex(TOKEN_BYTES)}{path.suffix}")
            _create(temporary, folder)
    try:
        yield temporary
    except BaseException:  # not afterwards: once it is renamed, its name is free for another process
        _remove(temporary)
        raise
    finally:
        if lock is not None:
            os.close(lock)


def _lock(temporary: Path, folder: bool) -> int | None:
    """Creates `temporary`, empty, and locks it -> its descriptor; None if a living process holds it or locks fail."""
    if sys.platform == "win32":
        return None
    with suppress(FileExistsError):
        _create(temporary, folder)
    descriptor = None
    try:
        descriptor = os.open(temporary, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # its writer may have renamed it between open and flock; a folder cannot be emptied through its descriptor
        if os.path.samestat(os.fstat(descriptor), temporary.stat()) and temporary.is_dir() == folder:
            for leftover in temporary.iterdir() if folder else ():
                _remove(leftover)
            if not folder:
                os.truncate(temporary, 0)
            return descriptor
    except OSError:  # locked, renamed, or a file system without locks
        pass
    if descriptor is not None:
        os.close(descriptor)
    return None


def _create(temporary: Path, folder: bool) -> None:
    if folder:
        temporary.mkdir()
    else:
        temporary.touch(exist_ok=False)  # not mkstemp, which would create a private file (mode 0600)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _aside(path: Path) -> Path:
    """Temporary name of the old folder during replacement."""
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
        raise OSError(f"cannot write {path}: {error.strerror}; free some disk space") from error
