import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from vqaudio.atomic import atomic_folder, remove_leftovers, replace_folder, restore_folder

REPOSITORY = Path(__file__).resolve().parents[2]


def _fill(folder: Path, text: str) -> Path:
    folder.mkdir()
    (folder / "text").write_text(text)
    return folder


def _tree(folder: Path) -> dict[str, str]:
    """Name of each folder in `folder`, hidden ones too, and its text."""
    return {path.name: (path / "text").read_text() for path in folder.iterdir()}


@pytest.mark.parametrize("before", [{}, {"a": "old"}, {"a": "old", ".a.old": "older"}, {".a.old": "old"}])
def test_the_new_folder_takes_the_place_whatever_was_there(tmp_path, before) -> None:
    for name, text in before.items():
        _fill(tmp_path / name, text)
    replace_folder(_fill(tmp_path / "new", "new"), tmp_path / "a")
    assert _tree(tmp_path) == {"a": "new"}


@pytest.mark.parametrize("before", [{"a": "old"}, {"a": "old", ".a.old": "older"}, {".a.old": "old"}])
def test_the_old_folder_is_put_back_where_the_new_one_cannot_be(tmp_path, before, monkeypatch) -> None:
    for name, text in before.items():
        _fill(tmp_path / name, text)
    new = _fill(tmp_path / "new", "new")
    rename = Path.rename

    def fails(self: Path, target: Path) -> Path:
        if self == new:
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(OSError, match="Input/output error"):
        replace_folder(new, tmp_path / "a")
    assert _tree(tmp_path) == {"a": "old", "new": "new"}


@pytest.mark.parametrize("call", ["rename 1", "rename 2", "rmtree"])
def test_a_writer_killed_at_any_step_loses_nothing(tmp_path, call) -> None:
    """After each kill either folder is whole under its name, or the old one is and gets it back."""
    _fill(tmp_path / "a", "old")
    _fill(tmp_path / "new", "new")
    script = (
        "import os, pathlib, shutil, signal, sys\n"
        "from vqaudio.atomic import replace_folder\n"
        "rename, calls = pathlib.Path.rename, []\n"
        "def counted(self, target):\n"
        "    calls.append(1)\n"
        "    if sys.argv[1] == f'rename {len(calls)}':\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return rename(self, target)\n"
        "pathlib.Path.rename = counted\n"
        "shutil.rmtree = lambda *a, **k: calls and os.kill(os.getpid(), signal.SIGKILL)\n"
        "replace_folder(pathlib.Path('new'), pathlib.Path('a'))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    run = subprocess.run([sys.executable, "-c", script, call], cwd=tmp_path, env=environment)
    assert run.returncode == -signal.SIGKILL
    left = {
        "rename 1": {"a": "old", "new": "new"},
        "rename 2": {".a.old": "old", "new": "new"},
        "rmtree": {"a": "new", ".a.old": "old"},
    }
    assert _tree(tmp_path) == left[call]
    restore_folder(tmp_path / "a")
    assert _tree(tmp_path)["a"] == ("new" if call == "rmtree" else "old")
    assert ".a.old" not in _tree(tmp_path)
    replace_folder(_fill(tmp_path / "newer", "newer"), tmp_path / "a")
    assert _tree(tmp_path)["a"] == "newer"


@pytest.mark.parametrize("had_one_before", [False, True])
def test_a_block_that_raises_leaves_the_folder_as_it_was(tmp_path, had_one_before) -> None:
    before = {"a": "old"} if had_one_before else {}
    for name, text in before.items():
        _fill(tmp_path / name, text)
    with pytest.raises(KeyError), atomic_folder(tmp_path / "a") as new:
        (new / "text").write_text("half")
        raise KeyError
    assert _tree(tmp_path) == before


def test_through_a_link_what_it_points_to_is_replaced(tmp_path) -> None:
    (tmp_path / "disk").mkdir()
    _fill(tmp_path / "disk" / "a", "old")
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "a")
    with atomic_folder(tmp_path / "link") as new:
        (new / "text").write_text("new")
    assert _tree(tmp_path / "disk") == {"a": "new"}
    assert (tmp_path / "link").is_symlink() and (tmp_path / "link" / "text").read_text() == "new"


def test_a_full_disk_and_a_missing_parent_are_explained(tmp_path) -> None:
    message = r"cannot write .*/a: No space left on device; free some disk space"
    with pytest.raises(OSError, match=message), atomic_folder(tmp_path / "a"):
        raise OSError(errno.ENOSPC, "No space left on device")
    message = r"cannot write .*/missing/a: No such file .* you may write to"
    with pytest.raises(FileNotFoundError, match=message), atomic_folder(tmp_path / "missing" / "a"):
        pass
    assert _tree(tmp_path) == {}


def test_leftovers_of_this_name_alone_are_removed(tmp_path) -> None:
    for name in (".a.0123abcd", ".a.01", ".b.0123abcd", "a"):
        _fill(tmp_path / name, name)
    remove_leftovers(tmp_path / "a")
    assert _tree(tmp_path) == {name: name for name in (".a.01", ".b.0123abcd", "a")}
