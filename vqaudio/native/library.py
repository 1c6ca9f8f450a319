"""Finds the compiled kernels (kernels.cpp) for this machine and loads them, once.

setup.py compiles them once for each instruction set that the compiler knows. Where there was no compiler there are
none, and the callers do the same work in PyTorch.
"""

from __future__ import annotations

import ctypes
import functools
import os
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import NamedTuple

VARIANTS = ("generic", "avx2", "avx512", "avx512bf16")  # of kernels.cpp, from the plainest to the best
CHOICE = "VQAUDIO_NATIVE"  # environment: `off`, or one of the variants


class Kernels(NamedTuple):
    """A loaded library and the variant that it is."""

    variant: str
    functions: ctypes.CDLL


@functools.cache
def kernels() -> Kernels | None:
    """The best kernels that were compiled and that this machine runs, or None.

    The environment variable VQAUDIO_NATIVE chooses otherwise. Raises ValueError for a choice that this machine does
    not have.
    """
    choice = os.environ.get(CHOICE, "")
    if choice == "off":
        return None
    names = runnable()
    if choice and choice not in names:
        raise ValueError(f"{CHOICE} must be off or one of {', '.join(names) or '(none is compiled)'}, got {choice!r}")
    if not names:
        return None
    variant = choice or names[-1]
    return Kernels(variant, _load(_path(variant)))


def runnable() -> tuple[str, ...]:
    """The variants that were compiled and that this machine runs, the best last."""
    generic = _path(VARIANTS[0])
    if not generic.exists():
        return ()
    best = ctypes.CDLL(str(generic)).vq_best_variant
    best.restype = ctypes.c_char_p
    return tuple(name for name in VARIANTS[: VARIANTS.index(best().decode()) + 1] if _path(name).exists())


def why_missing() -> str:
    """A sentence for people who wait longer than they would have to."""
    if os.environ.get(CHOICE) == "off":
        return f"the compiled kernels are switched off ({CHOICE}=off)"
    return "the compiled kernels were not built: install a C++ compiler, then vqaudio again"


def _path(variant: str) -> Path:
    here = Path(__file__).parent
    names = [here / f"_kernels_{variant}{suffix}" for suffix in EXTENSION_SUFFIXES]
    return next((name for name in names if name.exists()), names[0])


def _load(path: Path) -> ctypes.CDLL:
    """The library with the types of its functions, as at the end of kernels.cpp."""
    pointer, int32, int64, double = ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64, ctypes.c_double
    library = ctypes.CDLL(str(path))
    signatures: dict[str, tuple[object, ...]] = {  # the result first
        "vq_max_group": (int32,),
        "vq_streams_new": (pointer, pointer, pointer, int32, int32, int32, int32),
        "vq_streams_free": (None, pointer),
        "vq_streams_extend": (int32, pointer, pointer),
        "vq_nearest": (int32, pointer, int64, pointer, int32, int32, int32, pointer),
        "vq_peak": (double, int32, double),
        "vq_bandwidth": (double, pointer, int64, double),
    }
    for name, (result, *arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library
