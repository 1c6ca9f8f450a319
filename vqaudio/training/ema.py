"""Exponential moving average (EMA) of a model's parameters, used for evaluation and saving."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class ParameterEMA:
    """Averages all trainable parameters. Buffers, including the EMA statistics of a codebook, are not averaged.

    With decay 0 no average is kept and every method is a no-op.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad} if decay else {}
        self.values = {name: p.detach().clone() for name, p in self.parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Call after update `step` (0, 1, ...). The decay ramps up, so that the initial weights are soon forgotten."""
        if self.values:
            decay = min(self.decay, (1 + step) / (10 + step))
            values: list[Tensor] = list(self.values.values())
            now: list[Tensor] = [self.parameters[name].detach() for name in self.values]
            # on a GPU a few launches, not one for each parameter
            torch._foreach_lerp_(values, now, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Context manager: the model uses the averaged parameters inside."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def apply(self) -> None:
        """Replace the model's parameters by their average permanently."""
        self._swap()

    @torch.no_grad()
    def load(self, values: dict[str, Tensor]) -> None:
        """Restore the averages {name: value} from a checkpoint."""
        for name, value in self.values.items():
            value.copy_(values[name])

    @torch.no_grad()
    def _swap(self) -> None:
        for name, parameter in self.parameters.items():
            trained = parameter.detach().clone()
            parameter.copy_(self.values[name])
            self.values[name].copy_(trained)
