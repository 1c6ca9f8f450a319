"""Codebook initialisation: from the vectors of several batches, more than one batch holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from vqaudio.training.loader import Loader, to_device


@runtime_checkable
class InitialisedFromData(Protocol):
    """A module of a model that is initialised from what reaches it, and that counts optimizer steps."""

    forwards_per_step: int
    """forward passes of an optimizer step on each process; `fit` sets it"""

    @property
    def initialised(self) -> bool:
        """Whether it needs no initialisation, or no more."""
        ...

    def valid_rows(self, z: Tensor, mask: Tensor | None = None) -> Tensor:
        """The inputs of a forward pass -> what `initialise` wants of them, (M, D) float32."""
        ...

    def initialise(self, passes: Sequence[Tensor]) -> None:
        """Takes this process's (M, D) of each forward pass. All processes call it at the same time."""
        ...


def initialised_from_data(model: nn.Module) -> list[InitialisedFromData]:
    """Those in `model`, by what they offer."""
    return [module for module in model.modules() if isinstance(module, InitialisedFromData)]


@torch.no_grad()
def initialise_codebooks(model: nn.Module, loader: Loader, accelerator: Accelerator, batches: int) -> None:
    """Runs `model` on the first batches and initialises each codebook from the vectors that reached it.

    One that is initialised already, in a model that is trained further, stays as it is. The batches are divided among
    the processes, as in training, but not into accumulated passes: the outcome is that of one process, but for what
    the model draws at random before its quantizers.
    """
    if not (found := [module for module in initialised_from_data(model) if not module.initialised]):
        return
    with _inputs_recorded(found) as passes, accelerator.autocast():
        for step in range(batches):
            batch = loader.batch(step, accelerator.process_index, accelerator.num_processes)
            model(**to_device(batch, accelerator.device))
    for module, own in zip(found, passes, strict=True):
        module.initialise(own)


@contextmanager
def _inputs_recorded(found: Sequence[InitialisedFromData]) -> Iterator[list[list[Tensor]]]:
    """Within, the vectors of each forward pass are kept, for each module."""
    seen: list[list[Tensor]] = [[] for _ in found]
    hooks = []
    for module, passes in zip(found, seen, strict=True):
        assert isinstance(module, nn.Module)

        def keep(
            _: nn.Module,
            inputs: tuple[Tensor, ...],
            module: InitialisedFromData = module,
            passes: list[Tensor] = passes,
        ) -> None:
            passes.append(module.valid_rows(*inputs))

        hooks.append(module.register_forward_pre_hook(keep))
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
