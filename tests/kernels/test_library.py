"""Kernels that cannot be loaded are treated as missing, and the reason is reported."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import vqaudio.kernels
from vqaudio.kernels import library


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of compiled libraries is replaced by an empty one, and caches are cleared."""
    monkeypatch.setattr(library, "__file__", str(tmp_path / "library.py"))
    monkeypatch.delenv(library.VARIABLE, raising=False)
    cached = (library.kernels, library.runnable, library.load)
    for function in cached:
        function.cache_clear()
    yield tmp_path
    for function in cached:
        function.cache_clear()


def test_none_were_built(elsewhere: Path) -> None:
    assert library.kernels() is None
    assert library.runnable() == ()
    assert library.why_missing().startswith("the compiled kernels were not built: install g++")


def test_a_file_that_is_no_library(elsewhere: Path) -> None:
    library._path("generic").write_bytes(b"not a library")
    assert library.kernels() is None
    assert "cannot be loaded" in library.why_missing()
    assert "install vqaudio again" in library.why_missing()


@pytest.mark.skipif(library.kernels() is None, reason=library.why_missing())
def test_a_broken_variant_leaves_the_plainer_ones(elsewhere: Path) -> None:
    _bring_generic(elsewhere)
    library._path("avx2").write_bytes(b"not a library")
    found = library.kernels()
    assert found is not None
    assert found.variant == "generic"


@pytest.mark.skipif(library.kernels() is None, reason=library.why_missing())
def test_those_of_another_version_are_not_used(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _bring_generic(elsewhere)
    monkeypatch.setattr(library, "INTERFACE", library.INTERFACE + 1)
    assert library.kernels() is None
    assert "belongs to another version" in library.why_missing()


def test_a_choice_that_is_not_here_is_refused(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(library.VARIABLE, "avx2")
    with pytest.raises(ValueError, match=r"VQAUDIO_KERNELS must be off or one of \(none is here\), got 'avx2'"):
        library.kernels()
    monkeypatch.setenv(library.VARIABLE, "off")
    library.kernels.cache_clear()
    assert library.kernels() is None
    assert library.why_missing() == "the compiled kernels are switched off (VQAUDIO_KERNELS=off)"


def _bring_generic(folder: Path) -> None:
    """Copies the plainest kernels that were built."""
    (built,) = Path(vqaudio.kernels.__path__[0]).glob("_kernels_generic*")
    shutil.copy(built, folder)
