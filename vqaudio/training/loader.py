"""The interface of the data that `fit` trains on."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from vqaudio.nn.distributed import sum_over_processes

Batch = dict[str, Tensor]


class Loader(Protocol):
    """Batches indexed by step: stateless, and independent of the number of processes."""

    @property
    def seconds_per_step(self) -> float:
        """Seconds of audio in the global batch of a step; 0 if the data is not audio."""
        ...

    def batch(self, step: int, part: int = 0, parts: int = 1) -> Batch:
        """Slice `part` of `parts` of the global batch of a step, a pure function of its arguments.

        Slices are contiguous, non-empty, and may differ in size.
        """
        ...


def part_weights(batches: list[Batch], parts: int, device: torch.device) -> Tensor:
    """(A,) loss weights of the A slices on this process: rows of a slice / mean rows per slice; 1 if all are equal."""
    rows = torch.tensor([len(next(iter(batch.values()))) for batch in batches])
    rows = rows.to(device, non_blocking=True)
    return rows * parts / sum_over_processes(rows.sum())


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Move all tensors of the batch to `device`."""
    return {name: value.to(device, non_blocking=True) for name, value in batch.items()}
