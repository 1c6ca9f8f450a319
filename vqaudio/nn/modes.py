"""Training and evaluation mode."""

from __future__ import annotations

from torch import nn


def check_evaluating(model: nn.Module) -> None:
    """Raises RuntimeError for a model in training mode."""
    if model.training:
        raise RuntimeError("the model is in training mode; call model.eval() before it is evaluated")
