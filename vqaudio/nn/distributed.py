"""What several training processes must do together, so that n of them equal one on the joint batch.

Every function here is called by all processes at the same point, for all take part in its collective calls. Without
a process group each is the same arithmetic on one process.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def sum_over_processes(x: Tensor) -> Tensor:
    """The sum of x over all processes, the same bits on each; x has the same shape everywhere."""
    if _is_distributed():
        x = x.contiguous()
        dist.all_reduce(x)
    return x


def differentiable_sum(x: Tensor) -> Tensor:
    """As `sum_over_processes`; its gradient is the sum of the gradients that the processes have.

    With losses that are averaged over processes, as data parallelism does, n processes then equal one.
    """
    return _Sum.apply(x) if _is_distributed() else x  # pyright: ignore[reportReturnType]


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return sum_over_processes(x.clone())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return sum_over_processes(gradients[0].clone())


def same_as_first(x: Tensor) -> Tensor:
    """The first process's x, on all."""
    if _is_distributed():
        x = x.contiguous()
        dist.broadcast(x, src=0)
    return x


def joint_size(rows: Tensor) -> int:
    """Rows of the joint batch: rows (M, D) of each process, M of any size."""
    return int(sum_over_processes(torch.tensor(rows.shape[0], device=rows.device)))


def draw_rows(rows: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` rows of the joint batch, the same on all processes: rows (M, D), M >= 0 here -> (count, D).

    The joint batch is the processes' rows one after the other. `generator` (on the CPU, in the same state
    everywhere) chooses: no row twice while there are enough. Raises ValueError if no process has a row.
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
        raise ValueError("there is no row to draw from: every frame of the joint batch is padding")
    order = torch.randperm(total, generator=generator)
    chosen = order.repeat(-(-count // total))[:count].to(rows.device) - first
    here = (chosen >= 0) & (chosen < rows.shape[0])
    drawn = rows.new_zeros(count, rows.shape[1])
    drawn[here] = rows[chosen[here]]
    return sum_over_processes(drawn)
