"""Autoregressive generation: a reference loop, and faster backends with the same signature that must equal it."""

from typing import TYPE_CHECKING

from vqaudio.sampling.config import SamplingConfig

if TYPE_CHECKING:
    from vqaudio.sampling.backends import choose, generate
else:

    def __getattr__(name):
        """Imports `choose` and `generate` when first used: the command line's --help must not wait for PyTorch."""
        import importlib

        if name in ("choose", "generate"):
            return getattr(importlib.import_module("vqaudio.sampling.backends"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["SamplingConfig", "choose", "generate"]
