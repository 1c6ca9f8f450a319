import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from vqaudio.atomic import atomic_file, atomic_folder, replace_folder, restore_folder

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


KILLED = """
import os, signal, sys
from pathlib import Path
from vqaudio.atomic import atomic_file, atomic_folder
with atomic_file(Path("a[1].jsonl")) as file, atomic_folder(Path("a")) as folder:
    file.write_text("half")
    (folder / "inner").mkdir()
    (folder / "inner" / "text").write_text("half")
    if sys.argv[1] == "wait":
        print("ready", flush=True)
        input()
    else:
        os.kill(os.getpid(), signal.SIGKILL)
"""


def _all_names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def _write_both(folder: Path) -> None:
    with atomic_file(folder / "a[1].jsonl", overwrite=True) as file, atomic_folder(folder / "a") as new:
        assert file.read_text() == "" and list(new.iterdir()) == []
        file.write_text("whole")
        (new / "text").write_text("whole")


def test_the_next_writer_removes_what_a_killed_one_left(tmp_path) -> None:
    for name in (".a.01", ".b.partial"):
        _fill(tmp_path / name, name)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    killed = subprocess.run([sys.executable, "-c", KILLED, "now"], cwd=tmp_path, env=environment)
    assert killed.returncode == -signal.SIGKILL
    assert {".a.partial", ".a[1].partial.jsonl"} < _all_names(tmp_path)
    _write_both(tmp_path)
    assert _all_names(tmp_path) == {".a.01", ".b.partial", "a", "a[1].jsonl"}


def test_a_living_writer_of_the_same_name_is_not_disturbed(tmp_path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command, pipe = [sys.executable, "-c", KILLED, "wait"], subprocess.PIPE
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdin=pipe, stdout=pipe, text=True) as living:
        assert living.stdout and living.stdout.readline() == "ready\n"
        _write_both(tmp_path)
        assert (tmp_path / ".a.partial" / "inner" / "text").read_text() == "half"
        living.communicate("\n")
    assert living.returncode == 0
    assert _all_names(tmp_path) == {"a", "a[1].jsonl"}
    assert (tmp_path / "a[1].jsonl").read_text() == "half"  # the last one to finish


def test_a_link_is_written_through_and_pipes_and_devices_are_refused(tmp_path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to("real/a.txt")
    with atomic_file(tmp_path / "link.txt", overwrite=True) as temporary:
        temporary.write_text("new")
    assert (tmp_path / "link.txt").is_symlink() and (tmp_path / "real" / "a.txt").read_text() == "new"
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/null")):
        with pytest.raises(OSError, match=f"{path}: it is a pipe or a device"), atomic_file(path, overwrite=True):
            pass
    assert (tmp_path / "pipe").is_fifo()


def test_the_place_of_a_mounted_file_system_is_refused() -> None:
    with pytest.raises(OSError, match="cannot write /proc: a file system is mounted there"), atomic_folder("/proc"):
        pass
