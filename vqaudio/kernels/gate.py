"""Python interface of the compiled gates of a WaveNet layer, forward and backward, for training.

Letters: N frames, T steps (T = N * hop), R residual channels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vqaudio.kernels.library import MAX_SIZE, Kernels

LANES = 16  # floats in the widest vector register: R must be a multiple
THREAD_WORK = 2**17  # gates for each thread at least: 0.1 ms, where starting a thread takes 0.02 to 0.08


def fits(y: Tensor) -> bool:
    """Whether the kernels support the dtype, device and width of y (T, 2R)."""
    width = y.shape[-1]
    known = y.device.type == "cpu" and y.dtype in (torch.float32, torch.bfloat16)
    return known and width % (2 * LANES) == 0 and 0 < width <= MAX_SIZE


def gate_forward(kernels: Kernels, y: Tensor, frames: Tensor, z: Tensor, threads: int) -> None:
    """Adds to each row of y (T, 2R) that of its frame (N, 2R); z (T, R) = tanh(first half) * sigmoid(second half).

    Raises ValueError for tensors that the kernels do not support.
    """
    hop = _check(threads, frames.shape[0], y, {"frames": frames, "z": z})
    kernels.functions.vq_gate(
        y.dtype == torch.bfloat16,
        y.data_ptr(),
        frames.data_ptr(),
        frames.shape[0],
        hop,
        z.shape[1],
        _useful(threads, z),
        z.data_ptr(),
    )


def gate_backward(
    kernels: Kernels, y: Tensor, dz: Tensor, num_frames: int, dy: Tensor, z: Tensor, threads: int
) -> Tensor:
    """y (T, 2R) as `gate_forward` left it, gradient dz (T, R) -> the gradient of the frames (N, 2R) float32.

    Fills dy (T, 2R), the gradient of y, and z (T, R) as in the forward pass. Raises ValueError for tensors that the
    kernels do not support.
    """
    hop = _check(threads, num_frames, y, {"dz": dz, "dy": dy, "z": z})
    sums = torch.empty(num_frames, y.shape[1])
    kernels.functions.vq_gate_backward(
        y.dtype == torch.bfloat16,
        y.data_ptr(),
        dz.data_ptr(),
        num_frames,
        hop,
        z.shape[1],
        _useful(threads, z),
        dy.data_ptr(),
        z.data_ptr(),
        sums.data_ptr(),
    )
    return sums


def _check(threads: int, num_frames: int, y: Tensor, others: dict[str, Tensor]) -> int:
    """Checks shapes and types -> steps per frame."""
    if threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    steps, width = y.shape
    if not fits(y) or not 0 < num_frames <= steps or steps % num_frames or steps // num_frames >= 2**31:
        raise ValueError(
            f"the kernels do not support {num_frames} frames of y {tuple(y.shape)} {y.dtype} on {y.device}: y must be "
            f"(T, 2R) float32 or bfloat16 on the CPU, R a multiple of {LANES}, T a multiple of the frames"
        )
    shapes = {"frames": (num_frames, width), "dy": (steps, width)}  # z and dz: (T, R)
    for name, tensor in {"y": y, **others}.items():
        shape = (steps, width) if name == "y" else shapes.get(name, (steps, width // 2))
        if tensor.shape != shape or (tensor.dtype, tensor.device) != (y.dtype, y.device) or not tensor.is_contiguous():
            got = f"{tuple(tensor.shape)} {tensor.dtype} on {tensor.device}"
            raise ValueError(f"{name} must be {shape} {y.dtype}, contiguous, got {got}")
    return steps // num_frames


def _useful(threads: int, z: Tensor) -> int:
    return max(1, min(threads, z.numel() // THREAD_WORK))
