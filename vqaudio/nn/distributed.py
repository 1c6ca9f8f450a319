"""Collective operations that make training on n processes equal to one process with the global batch.

All processes must call these functions at the same point. Without a process group they act on the one process.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

WORD = 2**32 - 1  # a mask of 32 bits


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def sum_over_processes(x: Tensor) -> Tensor:
    """Sum of x over all processes, bit-identical on each; x must have the same shape on all of them."""
    if _is_distributed():
        x = x.contiguous()
        dist.all_reduce(x)
    return x


def differentiable_sum(x: Tensor) -> Tensor:
    """As `sum_over_processes`, with a gradient: the sum of the gradients of all processes.

    With losses averaged over processes, as in data parallelism, n processes then give the gradient of one.
    """
    return _Sum.apply(x) if _is_distributed() else x  # pyright: ignore[reportReturnType]


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return sum_over_processes(x.clone())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return sum_over_processes(gradients[0].clone())


def broadcast_from_first(x: Tensor) -> Tensor:
    """Broadcast x from the first process to all."""
    if _is_distributed():
        x = x.contiguous()
        dist.broadcast(x, src=0)
    return x


def global_size(rows: Tensor) -> int:
    """Number of rows of the global batch; rows (M, D) on each process, where M may differ."""
    return int(sum_over_processes(torch.tensor(rows.shape[0], device=rows.device)))


def draw_rows(rows: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draw `count` rows of the global batch, the same on all processes: rows (M, D), M >= 0 -> (count, D).

    The global batch is the concatenation of the rows of all processes. Rows are drawn without replacement while there
    are enough. `generator` is on the CPU, in the same state on all processes. Raises ValueError if no process has rows.
    """
    if count == 0:
        return rows[:0]
    first, total = 0, rows.shape[0]
    if _is_distributed():
        sizes = torch.zeros(dist.get_world_size(), dtype=torch.long, device=rows.device)
        sizes[dist.get_rank()] = total
        sizes = sum_over_processes(sizes).tolist()
        first, total = sum(sizes[: dist.get_rank()]), sum(sizes)
    if not total:
        raise ValueError("there are no rows to draw from: all frames of the global batch are padding")
    order = torch.randperm(total, generator=generator)
    chosen = order.repeat(-(-count // total))[:count].to(rows.device) - first
    here = (chosen >= 0) & (chosen < rows.shape[0])
    drawn = rows.new_zeros(count, rows.shape[1])
    drawn[here] = rows[chosen[here]]
    return sum_over_processes(drawn)


def draw_rows_on_device(rows: Tensor, valid: Tensor, count: int, seed: Tensor) -> Tensor:
    """As `draw_rows`, of the valid rows and without a value that the host has to wait for; other rows than there.

    rows (M, D), valid (M,) bool, seed () int64 -> (count, D), zeros if no process has a valid row. M may differ between
    processes. The drawn rows are those with the smallest keys, in their order; the key of a row is a hash of the seed
    and its place among the valid rows of the global batch, so that no two are equal.
    """
    ranks, rank = (dist.get_world_size(), dist.get_rank()) if _is_distributed() else (1, 0)
    sizes = torch.zeros(ranks, dtype=torch.long, device=rows.device)
    sizes[rank] += valid.sum()
    sizes = sum_over_processes(sizes)
    place = valid.long().cumsum(0) - 1 + sizes[:rank].sum()
    keys = torch.where(valid, _mixed(_mixed(place & WORD) + _mixed(seed & WORD) & WORD), WORD + 1)  # (M,)
    keys, candidates = keys.topk(min(count, len(keys)), largest=False)
    gathered = torch.full((ranks, count), WORD + 1, device=rows.device)
    gathered[rank, : len(keys)] = keys
    if _is_distributed():
        dist.all_gather_into_tensor(gathered.flatten(), gathered[rank].clone())
    order = torch.searchsorted(gathered.flatten().sort().values, keys)
    at = torch.where((keys <= WORD) & (order < count), order, count)  # `count`: not drawn
    drawn = rows.new_zeros(count + 1, rows.shape[1]).index_copy(0, at, rows[candidates])[:count]
    drawn = sum_over_processes(drawn)
    return drawn[torch.arange(count, device=rows.device) % sizes.sum().clamp(min=1)]


def _mixed(x: Tensor) -> Tensor:
    """int64 in 0..2^32 - 1 -> a bijection of it (the hash function lowbias32 of Chris Wellons)."""
    x = (x ^ (x >> 16)) * 0x7FEB352D & WORD
    x = (x ^ (x >> 15)) * (0x846CA68B - 2**32) & WORD  # the same residue, without overflow
    return x ^ (x >> 16)
