"""Cross-entropy of classes without a float32 copy of all logits.

Shapes: M rows, Q classes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

ROWS = 2**14  # rows that are in float32 at once


def cross_entropy_of_each(logits: Tensor, target: Tensor, rows: int = ROWS) -> Tensor:
    """(M, Q) of any float type, (M,) int64 -> the negative log-likelihood of each row in nats, (M,) float32.

    Equals `F.cross_entropy(logits.float(), target, reduction="none")`, values and gradients, to the bit: it is computed
    for `rows` rows at a time, and again in the backward pass (as in Chen et al., "Training Deep Nets with Sublinear
    Memory Cost", arXiv 1604.06174), so that only the logits and their gradient are kept for all rows.
    """
    return _OfEach.apply(logits, target, rows)  # pyright: ignore[reportReturnType]


class _OfEach(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, rows: int) -> Tensor:
        ctx.save_for_backward(logits, target)
        ctx.rows = rows
        losses = torch.empty(len(logits), device=logits.device)
        for own, wanted, out in zip(logits.split(rows), target.split(rows), losses.split(rows), strict=True):
            out.copy_(F.cross_entropy(own.float(), wanted, reduction="none"))
        return losses

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        logits, target = ctx.saved_tensors
        gradient, rows = torch.empty_like(logits), ctx.rows
        parts = zip(*(part.split(rows) for part in (logits, target, gradients[0], gradient)), strict=True)
        for own, wanted, upstream, out in parts:
            with torch.enable_grad():
                leaf = own.detach().float().requires_grad_()
                losses = F.cross_entropy(leaf, wanted, reduction="none")
            out.copy_(torch.autograd.grad(losses, leaf, upstream)[0])
        return gradient, None, None
