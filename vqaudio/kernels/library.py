"""Finds the compiled kernels (kernels.cpp) for this machine and loads them once.

setup.py compiles one library for each instruction set that the compiler supports. Without a compiler there are none,
and the callers do the same work in PyTorch.
"""

from __future__ import annotations

import ctypes
import functools
import os
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import NamedTuple

VARIANTS = ("generic", "avx2", "avx512", "avx512bf16")  # of kernels.cpp, the fastest last
INTERFACE = 3  # of the functions and structures at the end of kernels.cpp; raise both together
VARIABLE = "VQAUDIO_KERNELS"  # environment: `off`, or one of the variants
MAX_SIZE = 2**16  # of any dimension of a tensor for the kernels; a larger one is a mistake


class Kernels(NamedTuple):
    """A loaded library and the variant that it is."""

    variant: str
    functions: ctypes.CDLL


@functools.cache
def kernels() -> Kernels | None:
    """The fastest kernels that were compiled and that this machine runs, or None; `why_missing` then gives the reason.

    The environment variable VQAUDIO_KERNELS selects another variant, or none (`off`). Raises ValueError for a variant
    that this machine does not have.
    """
    choice = os.environ.get(VARIABLE, "")
    if choice == "off":
        return None
    names = runnable()
    if choice and choice not in names:
        raise ValueError(f"{VARIABLE} must be off or one of {', '.join(names) or '(none is here)'}, got {choice!r}")
    return load(choice or names[-1]) if names else None


@functools.cache
def runnable() -> tuple[str, ...]:
    """The variants that were compiled, that this machine runs, and that can be loaded; the fastest last."""
    names = tuple(name for name in _compiled() if _why_not(name) is None)
    return names if VARIANTS[0] in names else ()


def unloadable() -> dict[str, str]:
    """The variants that were compiled and that this machine would run, but that cannot be loaded -> why."""
    return {name: str(error) for name in _compiled() if (error := _why_not(name)) is not None}


def _compiled() -> list[str]:
    """The variants that were compiled and that this machine would run; all, if the generic one cannot report which."""
    names = [name for name in VARIANTS if _path(name).exists()]
    if VARIANTS[0] in names and _why_not(VARIANTS[0]) is None:
        best = load(VARIANTS[0]).functions.vq_best_variant().decode()
        names = [name for name in names if VARIANTS.index(name) <= VARIANTS.index(best)]
    return names


def why_missing() -> str:
    """Why there are no compiled kernels here, as a clause for messages."""
    if os.environ.get(VARIABLE) == "off":
        return f"the compiled kernels are switched off ({VARIABLE}=off)"
    if _path(VARIANTS[0]).exists():
        return f"the compiled kernels cannot be loaded ({_why_not(VARIANTS[0])}): install vqaudio again"
    return "the compiled kernels were not built: install g++ 9 or clang++ 10 or newer, then vqaudio again"


def _why_not(variant: str) -> OSError | None:
    """Why a variant cannot be loaded: built with another C++ library, by an older vqaudio, ..."""
    try:
        load(variant)
    except OSError as error:
        return error
    return None


def _path(variant: str) -> Path:
    here = Path(__file__).parent
    names = [here / f"_kernels_{variant}{suffix}" for suffix in EXTENSION_SUFFIXES]
    return next((name for name in names if name.exists()), names[0])


@functools.cache
def load(variant: str) -> Kernels:
    """One variant, its functions typed as at the end of kernels.cpp. Raises OSError where it cannot be loaded."""
    pointer, int32, int64, double = ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64, ctypes.c_double
    library = ctypes.CDLL(str(_path(variant)))
    if not hasattr(library, "vq_interface") or library.vq_interface() != INTERFACE:
        raise OSError(f"{_path(variant).name} belongs to another version")
    signatures: dict[str, tuple[object, ...]] = {  # the result first
        "vq_best_variant": (ctypes.c_char_p,),
        "vq_max_group": (int32,),
        "vq_streams_new": (pointer, pointer, pointer, int32, int32, int32, int32),
        "vq_streams_free": (None, pointer),
        "vq_streams_extend": (int32, pointer, pointer),
        "vq_nearest": (int32, pointer, int64, pointer, int32, int32, int32, pointer),
        "vq_gate": (None, int32, pointer, pointer, int64, int32, int32, int32, pointer),
        "vq_gate_backward": (None, int32, pointer, pointer, int64, int32, int32, int32, pointer, pointer, pointer),
        "vq_peak": (double, int32, double),
        "vq_bandwidth": (double, pointer, int64, double),
    }
    for name, (result, *arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return Kernels(variant, library)
