"""Compiles and runs kernels_test.cpp, which holds kernels.cpp against a naive WaveNet and against itself: under
sanitizers, with the flags of the installation, and for another processor where there is an emulator of it."""

import runpy
import shutil
import subprocess
from pathlib import Path

import pytest

from vqaudio.kernels.library import runnable

SOURCE = Path(__file__).with_name("kernels_test.cpp")
SETUP = runpy.run_path(str(Path(__file__).parents[2] / "setup.py"))  # its constants; it builds only as __main__
WARNINGS = ["-Wall", "-Wextra", "-Werror"]
WARNINGS += ["-Wno-uninitialized", "-Wno-maybe-uninitialized"]  # GCC 12 finds them in its own AVX-512 headers
WARNINGS += ["-Wno-unknown-warning-option"]  # for Clang
MEMORY = [
    "-O0",
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
]  # -O1 takes three times as long to compile
THREADS = ["-O1", "-fsanitize=thread"]

VARIANTS = runnable() or ("generic",)
PLAINEST, BEST = VARIANTS[0], VARIANTS[-1]

pytestmark = pytest.mark.slow


def build(compiler: str, source: Path, flags: list[str], program: Path) -> subprocess.CompletedProcess[str]:
    command = [compiler, *SETUP["COMMON"], *flags, str(source), "-o", str(program)]
    return subprocess.run(command, capture_output=True, text=True)


def check(compiler: str, flags: list[str], folder: Path, *, nets: int, emulator: str | None = None) -> None:
    """The program of kernels_test.cpp passes with so many random nets."""
    program = folder / "kernels_test"
    built = build(compiler, SOURCE, [*WARNINGS, *flags], program)
    assert built.returncode == 0, built.stderr
    command = [str(program), str(nets)]
    run = subprocess.run([emulator, *command] if emulator else command, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.startswith(f"{nets} nets")


@pytest.fixture(scope="module")
def compiler() -> str:
    found = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    return found or pytest.skip("there is no C++ compiler (c++, g++ or clang++)")


@pytest.mark.long
@pytest.mark.parametrize(
    ("variant", "sanitizer"),
    [
        pytest.param(PLAINEST, MEMORY, id=f"memory-{PLAINEST}"),
        *([pytest.param(BEST, MEMORY, id=f"memory-{BEST}")] if BEST != PLAINEST else []),
        pytest.param(PLAINEST, THREADS, id=f"threads-{PLAINEST}"),
    ],
)
def test_under_sanitizers(compiler: str, variant: str, sanitizer: list[str], tmp_path: Path):
    empty, program = tmp_path / "empty.cpp", tmp_path / "empty"
    empty.write_text("int main() {}\n")
    built = build(compiler, empty, sanitizer, program)
    if built.returncode or subprocess.run([program], capture_output=True).returncode:
        pytest.skip(f"{compiler} makes no programs that run with {' '.join(sanitizer)}: {built.stderr[-200:]}")
    check(compiler, [*SETUP["FLAGS"][variant], *sanitizer], tmp_path, nets=8)


@pytest.mark.long
@pytest.mark.parametrize("variant", [name for name in VARIANTS if name in ("avx2", BEST)])
def test_as_installed(compiler: str, variant: str, tmp_path: Path):
    # optimised: where the compiler fuses multiplications with additions here but not there, bits differ
    check(compiler, SETUP["FLAGS"][variant], tmp_path, nets=24)


def test_for_aarch64(tmp_path: Path):
    cross, emulator = shutil.which("aarch64-linux-gnu-g++"), shutil.which("qemu-aarch64")
    if not cross or not emulator:
        pytest.skip("needs aarch64-linux-gnu-g++ and qemu-aarch64")
    check(cross, ["-O2", "-static"], tmp_path, nets=4, emulator=emulator)
