"""What bounds the compiled kernels on this machine: how fast a thread multiplies, and how fast it reads."""

from __future__ import annotations

import torch

from vqaudio.kernels.library import Kernels
from vqaudio.kernels.wavenet import PRECISIONS, Precision

READ_AT_ONCE = 512  # bytes, of the widest vectors


def peak(kernels: Kernels, precision: Precision, *, seconds: float = 0.2) -> float:
    """Multiply-adds per second of one thread whose weights lie in the first cache and who waits for nothing.

    Takes about so many seconds.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    return kernels.functions.vq_peak(PRECISIONS.index(precision), seconds)


def bandwidth(kernels: Kernels, num_bytes: int, *, seconds: float = 0.2) -> float:
    """Bytes per second that one thread reads, over and over, from a buffer of so many bytes (rounded up).

    The buffer's size decides in which cache it lies. Takes about so many seconds.
    """
    if num_bytes < 1:
        raise ValueError(f"the buffer must have at least 1 byte, got {num_bytes}")
    size = -(-num_bytes // READ_AT_ONCE) * READ_AT_ONCE
    buffer = torch.zeros(size, dtype=torch.uint8)  # written, so that it is there
    return kernels.functions.vq_bandwidth(buffer.data_ptr(), size, seconds)
