"""What `fit` trains on."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

Batch = dict[str, Tensor]


class Loader(Protocol):
    """Batches by number: no state to save, and the same for any number of processes."""

    @property
    def seconds_per_step(self) -> float:
        """Audio seconds in the joint batch of a step; 0 for what is not audio."""
        ...

    def batch(self, step: int, part: int = 0, parts: int = 1) -> Batch:
        """The `part`-th of `parts` equal slices of a step's joint batch, a pure function of its arguments."""
        ...


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch where the model is."""
    return {name: value.to(device, non_blocking=True) for name, value in batch.items()}
