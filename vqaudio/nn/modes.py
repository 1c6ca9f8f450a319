"""Training and evaluation mode."""

from __future__ import annotations

from torch import nn


def check_evaluating(model: nn.Module) -> None:
    """Raise RuntimeError if the model is in training mode."""
    if model.training:
        raise RuntimeError("the model is in training mode; call model.eval() first")
