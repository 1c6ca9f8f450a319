"""Codebook initialisation from the encoder outputs of several batches."""

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
    """A module that is initialised from its inputs and updated once per optimizer step, such as a quantizer."""

    forwards_per_step: int
    """forward passes of an optimizer step on each process; `fit` sets it"""

    @property
    def initialised(self) -> bool:
        """Whether it has been initialised or needs no initialisation."""
        ...

    def valid_rows(self, z: Tensor, mask: Tensor | None = None) -> Tensor:
        """The inputs of a forward pass -> the vectors that `initialise` takes, (M, D) float32."""
        ...

    def initialise(self, passes: Sequence[Tensor]) -> None:
        """Initialises it from this process's vectors (M, D) of each forward pass. All processes must call it."""
        ...


def initialised_from_data(model: nn.Module) -> list[InitialisedFromData]:
    """The modules of `model` with this interface."""
    return [module for module in model.modules() if isinstance(module, InitialisedFromData)]


@torch.no_grad()
def initialise_codebooks(model: nn.Module, loader: Loader, accelerator: Accelerator, batches: int) -> None:
    """Runs `model` on the first batches and initialises each codebook from the inputs of its quantizer.

    Codebooks that are already initialised are not changed. The batches are divided among the processes, as in training,
    but not into accumulation steps. The result equals that of one process, except for random numbers that the model
    uses before its quantizers. Raises RuntimeError for a quantizer that the model does not call.
    """
    if not (found := [module for module in initialised_from_data(model) if not module.initialised]):
        return
    with _inputs_recorded(found) as passes, accelerator.autocast():
        for step in range(batches):
            batch = loader.batch(step, accelerator.process_index, accelerator.num_processes)
            model(**to_device(batch, accelerator.device))
    for module, own in zip(found, passes, strict=True):
        if not own:
            raise RuntimeError(
                f"{type(module).__name__} was not called in the first batches, so its codebook cannot be initialised; "
                "initialise it before training (pitch tokens: initialise_pitch)"
            )
        module.initialise(own)


@contextmanager
def _inputs_recorded(found: Sequence[InitialisedFromData]) -> Iterator[list[list[Tensor]]]:
    """Context manager that records the vectors of each forward pass, for each module."""
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
