"""Compiles the modules marked `compiled_in_training` with torch.compile, in training only.

A WaveNet is one. It is most of the work of a step and many small operations, which a GPU starts more slowly than it
computes them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import nn

Compile = Literal["auto", "true", "false"]


class CompiledParts:
    """Compiled calls of the parts of `model`, used only inside the context manager `used`.

    Nothing of it is in the modules outside of `used`: names of weights, checkpoints, evaluation and copies are those of
    a model that was never compiled.
    """

    def __init__(self, model: nn.Module, wanted: Compile, device: torch.device):
        parts = [module for module in model.modules() if getattr(module, "compiled_in_training", False)]
        compiled = wanted == "true" or (wanted == "auto" and can_compile(device))
        # crops have one shape, and the last slice of a batch at most one more
        self._calls: list[tuple[nn.Module, Callable[..., Any]]] = (
            [(part, torch.compile(part._call_impl, dynamic=False)) for part in parts] if compiled else []
        )

    def __len__(self) -> int:
        return len(self._calls)

    @contextmanager
    def used(self) -> Iterator[None]:
        """Context manager: calls of the parts are compiled ones."""
        for part, call in self._calls:
            part._compiled_call_impl = call  # as nn.Module.compile does
        try:
            yield
        finally:
            for part, _ in self._calls:
                part._compiled_call_impl = None


def can_compile(device: torch.device) -> bool:
    """Whether compilation is known to pay and has what it needs: a GPU, Triton and the C compiler that Triton calls."""
    if device.type != "cuda":
        return False
    from torch.utils._triton import has_triton

    return has_triton() and any(map(shutil.which, filter(None, (os.environ.get("CC"), "cc", "gcc", "clang"))))
