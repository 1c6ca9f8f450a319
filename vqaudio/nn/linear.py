"""A linear layer whose rounding does not depend on whether its weights require gradients."""

from __future__ import annotations

from torch import Tensor, nn


class Linear(nn.Linear):
    """As `nn.Linear`, on contiguous inputs.

    For an input of three or more axes with other strides, `F.linear` folds the axes if the weight requires gradients
    and multiplies in a batch if not, and on some processors the two round differently.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(..., C) -> (..., output channels)."""
        return super().forward(input.contiguous())
