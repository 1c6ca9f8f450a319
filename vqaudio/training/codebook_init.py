"""The first values of every codebook: k-means on the vectors of several batches, more than one batch holds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from vqaudio.nn.quantizer import VectorQuantizer
from vqaudio.training.loader import Loader, to_device


def quantizers(model: nn.Module) -> list[VectorQuantizer]:
    """Those in `model`."""
    return [module for module in model.modules() if isinstance(module, VectorQuantizer)]


@torch.no_grad()
def initialise_codebooks(model: nn.Module, loader: Loader, accelerator: Accelerator, batches: int) -> None:
    """Runs `model` on the first batches and hands each quantizer without first values the vectors that reached it.

    One that has its values already, in a model that is trained further, keeps them. The batches are divided among the
    processes, as in training, but not into accumulated passes: the outcome is that of one process, but for what the
    model draws at random before its quantizers.
    """
    if not (found := [quantizer for quantizer in quantizers(model) if not quantizer.initialised]):
        return
    with _inputs_recorded(found) as seen, accelerator.autocast():
        for step in range(batches):
            batch = loader.batch(step, accelerator.process_index, accelerator.num_processes)
            model(**to_device(batch, accelerator.device))
    for quantizer, passes in seen.items():
        quantizer.initialise(passes)


@contextmanager
def _inputs_recorded(found: list[VectorQuantizer]) -> Iterator[dict[VectorQuantizer, list[Tensor]]]:
    """Within, the vectors of each forward pass are kept."""
    seen: dict[VectorQuantizer, list[Tensor]] = {quantizer: [] for quantizer in found}

    def keep(quantizer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(quantizer, VectorQuantizer)
        seen[quantizer].append(quantizer.valid_rows(*inputs))

    hooks = [quantizer.register_forward_pre_hook(keep) for quantizer in found]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
