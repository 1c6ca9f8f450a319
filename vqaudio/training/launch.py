"""What a run asks of the machine: processes, precision, signals, a folder of its own."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import DistributedType
from filelock import FileLock, Timeout

from vqaudio.training.checkpoint import TrainingError
from vqaudio.training.config import FitConfig

PR_SET_PDEATHSIG = 1  # of Linux's prctl: the signal to get when the parent ends


def make_accelerator(cfg: FitConfig, out: Path) -> Accelerator:
    """As `accelerate launch` and `cfg` say. Raises TrainingError for what is not supported."""
    if cfg.tracker == "tensorboard" and importlib.util.find_spec("tensorboard") is None:
        raise TrainingError("--fit.tracker tensorboard needs tensorboard: pip install 'vqaudio[train]'")
    accelerator = Accelerator(
        mixed_precision=_precision(cfg.precision),
        gradient_accumulation_steps=cfg.accumulate,
        log_with=None if cfg.tracker == "none" else cfg.tracker,
        project_dir=str(out),
        # buffers are the same on all processes by construction: the quantizer sees to it
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )
    allowed = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
    if accelerator.distributed_type not in allowed:
        raise TrainingError(
            f"{accelerator.distributed_type} is not supported: the codebook and its averages must be whole on every "
            "process; launch plain data parallelism (accelerate launch --multi_gpu, or --cpu --num_processes N)"
        )
    if cfg.tracker != "none":
        accelerator.init_trackers("")
    return accelerator


def _precision(wanted: str) -> str:
    """ "auto" becomes bf16 where the GPU, or without one the CPU, has instructions for it."""
    if wanted != "auto":
        return wanted
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no"
    return "bf16" if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else "no"


@contextmanager
def alone_in_folder(out: Path, accelerator: Accelerator) -> Iterator[None]:
    """No second run may write to `out` meanwhile; a killed one's lock is gone with it."""
    if not accelerator.is_main_process:
        yield
        return
    out.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(out / ".lock", blocking=False):
            yield
    except Timeout:
        raise TrainingError(f"another run is training in {out}; stop it, or choose another --out") from None


@contextmanager
def caught_signals() -> Iterator[list[int]]:
    """SIGINT and SIGTERM are noted in the list instead of ending the process; a second SIGINT does end it."""
    caught: list[int] = []

    def note(number: int, _: Any) -> None:
        if number in caught and number == signal.SIGINT:
            raise KeyboardInterrupt
        caught.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    if sys.platform == "linux" and "ACCELERATE_MIXED_PRECISION" in os.environ:
        # `accelerate launch` hands no signal on to a single process: its own end must stand for one
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM))
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
