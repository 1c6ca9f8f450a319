"""What `fit` trains on."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from vqaudio.nn.distributed import sum_over_processes

Batch = dict[str, Tensor]


class Loader(Protocol):
    """Batches by number: no state to save, and the same for any number of processes."""

    @property
    def seconds_per_step(self) -> float:
        """Audio seconds in the joint batch of a step; 0 for what is not audio."""
        ...

    def batch(self, step: int, part: int = 0, parts: int = 1) -> Batch:
        """The `part`-th of `parts` slices of a step's joint batch, a pure function of its arguments.

        The slices are not empty, follow each other, and may differ in size.
        """
        ...


def part_weights(batches: list[Batch], parts: int, device: torch.device) -> Tensor:
    """(A,) of the A parts of a joint batch on this process: rows over the mean of all parts; 1 where they are equal."""
    rows = torch.tensor([len(next(iter(batch.values()))) for batch in batches], device=device)
    return rows * parts / sum_over_processes(rows.sum())


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch where the model is."""
    return {name: value.to(device, non_blocking=True) for name, value in batch.items()}
