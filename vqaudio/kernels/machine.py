"""Limits of the compiled kernels on this machine: how fast a thread multiplies, and how fast it reads memory."""

from __future__ import annotations

import torch

from vqaudio.kernels.library import Kernels
from vqaudio.kernels.precision import PRECISIONS, Precision

READ_AT_ONCE = 512  # bytes, of the widest vectors


def peak(kernels: Kernels, precision: Precision, *, seconds: float = 0.2) -> float:
    """Peak multiply-adds per second of one thread, with weights in the L1 cache.

    Runs for about `seconds`.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    return kernels.functions.vq_peak(PRECISIONS.index(precision), seconds)


def bandwidth(kernels: Kernels, num_bytes: int, *, seconds: float = 0.2) -> float:
    """Bytes per second that one thread reads, repeatedly, from a buffer of `num_bytes` (rounded up).

    The size decides which cache holds the buffer. Runs for about `seconds`.
    """
    if num_bytes < 1:
        raise ValueError(f"the buffer must have at least 1 byte, got {num_bytes}")
    size = -(-num_bytes // READ_AT_ONCE) * READ_AT_ONCE
    buffer = torch.zeros(size, dtype=torch.uint8)  # written, so that its pages exist
    return kernels.functions.vq_bandwidth(buffer.data_ptr(), size, seconds)
