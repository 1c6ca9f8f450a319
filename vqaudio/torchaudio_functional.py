"""torchaudio where it can be imported; it is built for one version of PyTorch, and no release follows 2.11."""

from __future__ import annotations

import functools
from types import ModuleType


@functools.cache
def torchaudio_functional() -> ModuleType | None:
    """`torchaudio.functional`; None if torchaudio is missing or refuses to be imported beside this PyTorch.

    Callers then compute the same values themselves, bit for bit. torchaudio raises RuntimeError if it was built for
    another version of CUDA, and OSError for symbols that PyTorch no longer has.
    """
    try:
        import torchaudio.functional
    except (ImportError, OSError, RuntimeError):
        return None
    return torchaudio.functional
