"""Python interface of the compiled nearest-code search.

Letters: M rows, K codes, D width of both.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vqaudio.kernels.library import MAX_SIZE, Kernels

THREAD_WORK = 2**24  # multiply-adds for each thread at least: 0.3 ms, where starting a thread takes 0.02 to 0.08


def nearest_code(kernels: Kernels, rows: Tensor, codebook: Tensor, threads: int) -> Tensor:
    """(M, D), (K, D) float32 -> (M,) int64: the code at the smallest Euclidean distance, the first of equals.

    On up to `threads` threads, fewer for little work. The code of a row depends neither on the other rows nor on the
    number of threads. Rows may hold values that are not finite: a row with a NaN has code 0. Raises ValueError for
    other shapes, sizes out of range, and codes that are not finite.
    """
    if threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    _check("rows", rows)
    _check("codebook", codebook)
    (count, width), (num_codes, code_width) = rows.shape, codebook.shape
    if width != code_width:
        raise ValueError(f"rows and codes must have the same width, got {width} and {code_width}")
    for name, size in {"the number of codes": num_codes, "the width of a code": width}.items():
        if not 1 <= size <= MAX_SIZE:
            raise ValueError(f"{name} must lie in 1..{MAX_SIZE}, got {size}")
    found = torch.empty(count, dtype=torch.int64)
    rows, codebook = rows.contiguous(), codebook.contiguous()
    threads = min(threads, max(1, count * num_codes * width // THREAD_WORK))
    failure = kernels.functions.vq_nearest(
        rows.data_ptr(), count, codebook.data_ptr(), num_codes, width, threads, found.data_ptr()
    )
    if failure == 1:
        raise ValueError(f"the codebook ({num_codes}, {width}) has values that are not finite")
    if failure:
        raise MemoryError(f"not enough memory to search {num_codes} codes of width {width}")
    return found


def _check(name: str, tensor: Tensor) -> None:
    if tensor.ndim != 2 or tensor.dtype != torch.float32 or tensor.device.type != "cpu":
        got = f"{tuple(tensor.shape)} {tensor.dtype} on {tensor.device}"
        raise ValueError(f"{name} must have two axes, torch.float32, on the CPU, got {got}")
