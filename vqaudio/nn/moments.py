"""Mean and standard deviation of rows that arrive in parts."""

from __future__ import annotations

import torch
from torch import Tensor


class Moments:
    """Running mean and standard deviation (F,) of rows (M, F), in float64."""

    def __init__(self) -> None:
        self.count, self._sum, self._squares = 0, torch.zeros(()), torch.zeros(())

    def add(self, rows: Tensor) -> None:
        """Rows (M, F), with any M."""
        rows = rows.detach().double()
        self.count += len(rows)
        self._sum = self._sum + rows.sum(0)
        self._squares = self._squares + rows.square().sum(0)

    @property
    def mean(self) -> Tensor:
        """(F,) float64. Raises ValueError without rows."""
        if not self.count:
            raise ValueError("no frames to compute statistics from; give at least one utterance")
        return self._sum / self.count

    @property
    def std(self) -> Tensor:
        """(F,) float64. Raises ValueError without rows."""
        return (self._squares / self.count - self.mean.square()).clamp(min=0).sqrt()
