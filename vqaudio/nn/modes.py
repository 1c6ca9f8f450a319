"""Training and evaluation mode, and calls that are recorded instead of only computed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


def check_evaluating(model: nn.Module, name: str = "model") -> None:
    """Raise RuntimeError if the model is in training mode; the message calls it `name`."""
    if model.training:
        raise RuntimeError(f"the {name} is in training mode; call {name}.eval() first")


@contextmanager
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """Within it the modules are in evaluation mode, afterwards in the mode of before."""
    modes = [module.training for module in modules]
    try:
        for module in modules:
            module.eval()
        yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.train(mode)


def is_traced() -> bool:
    """Whether torch.compile, torch.export or torch.jit.trace records this call; they cannot record compiled kernels."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]


def check_not_traced(action: str) -> None:
    """Raise RuntimeError within torch.jit.trace, for what takes a number of steps that depends on its input.

    A trace would repeat the steps of its example for audio of any length.
    """
    if torch.jit.is_tracing():  # pyright: ignore[reportPrivateImportUsage]
        raise RuntimeError(
            f"torch.jit.trace cannot record {action}: the trace would hold the length of this one example; trace "
            "model.encoder or model.decoder with inputs of one fixed shape instead"
        )
