"""The moving average of a model's parameters: what is evaluated and saved."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class ParameterEMA:
    """Averages the parameters that are trained; buffers, the codebook's averages among them, are taken as they are.

    With decay 0 there is no average and every method leaves the model alone.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad} if decay else {}
        self.values = {name: p.detach().clone() for name, p in self.parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After update `step` (0, 1, ...): a short memory at first, so that the beginning is forgotten."""
        if self.values:
            decay = min(self.decay, (1 + step) / (10 + step))
            for name, value in self.values.items():
                value.lerp_(self.parameters[name], 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within, the model has the averaged parameters."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def apply(self) -> None:
        """The model has the averaged parameters from now on."""
        self._swap()

    @torch.no_grad()
    def load(self, values: dict[str, Tensor]) -> None:
        """From a checkpoint."""
        for name, value in self.values.items():
            value.copy_(values[name])

    @torch.no_grad()
    def _swap(self) -> None:
        for name, parameter in self.parameters.items():
            trained = parameter.detach().clone()
            parameter.copy_(self.values[name])
            self.values[name].copy_(trained)
