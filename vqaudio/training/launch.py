"""What a run asks of the machine: processes, precision, threads, signals, a folder of its own."""

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
from accelerate import Accelerator, DistributedDataParallelKwargs, PartialState
from accelerate.utils import DistributedType, broadcast_object_list, parse_flag_from_env
from filelock import FileLock, Timeout

from vqaudio.training.checkpoint import TrainingError, complete, remove_leftovers
from vqaudio.training.config import FitConfig

PR_SET_PDEATHSIG = 1  # of Linux's prctl: the signal to get when the parent ends
NOT_SUPPORTED = {  # what `accelerate launch` sets for it
    "DeepSpeed": "ACCELERATE_USE_DEEPSPEED",
    "FSDP": "ACCELERATE_USE_FSDP",
    "Megatron-LM": "ACCELERATE_USE_MEGATRON_LM",
    "a parallelism configuration": "ACCELERATE_USE_PARALLELISM_CONFIG",
}


def processes() -> PartialState:
    """Those of this run, as `accelerate launch` started them. Raises TrainingError for what is not supported."""
    for name, variable in NOT_SUPPORTED.items():  # before Accelerate looks for it: it may not even be installed
        if os.environ.get(variable, "").lower() == "true":
            raise _not_supported(name)
    # left to itself on a CPU, Accelerate starts no process group: each of several processes would think it is alone
    on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    return PartialState(cpu=on_cpu)


def make_accelerator(cfg: FitConfig, out: Path) -> Accelerator:
    """As `accelerate launch` and `cfg` say. Raises TrainingError for what is not supported."""
    if cfg.tracker == "tensorboard" and importlib.util.find_spec("tensorboard") is None:
        raise TrainingError("--fit.tracker tensorboard needs tensorboard: pip install 'vqaudio[train]'")
    accelerator = Accelerator(
        cpu=processes().device == torch.device("cpu"),
        mixed_precision=_precision(cfg.precision),
        gradient_accumulation_steps=cfg.gradient_accumulation_steps,
        log_with=None if cfg.tracker == "none" else cfg.tracker,
        project_dir=str(out),
        # buffers are the same on all processes by construction: the quantizer sees to it
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )
    allowed = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
    if accelerator.distributed_type not in allowed:
        raise _not_supported(str(accelerator.distributed_type))
    if cfg.tracker != "none":
        accelerator.init_trackers("")
    return accelerator


def describe_launch(accelerator: Accelerator) -> str:
    """What a run trains on, so that nobody takes one process for several."""
    count, device, threads = accelerator.num_processes, accelerator.device.type, torch.get_num_threads()
    precision = {"no": "float32"}.get(accelerator.mixed_precision, accelerator.mixed_precision)
    each = f", {threads} thread{'s' * (threads > 1)} each" if device == "cpu" else ""
    return f"training on {count} process{'es' * (count > 1)} ({device}, {precision}{each})"


def _not_supported(way: str) -> TrainingError:
    return TrainingError(
        f"{way} is not supported: the codebook and its averages must be whole on every process; launch plain data "
        "parallelism (accelerate launch --multi_gpu --num_processes N, which starts N processes on a CPU too)"
    )


def _precision(wanted: str) -> str:
    """ "auto" becomes bf16 where the GPU, or without one the CPU, has instructions for it."""
    if wanted != "auto":
        return wanted
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no"
    return "bf16" if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else "no"


@contextmanager
def cpu_threads(wanted: int) -> Iterator[None]:
    """Within, PyTorch has as many CPU threads as FitConfig.threads says."""
    before = torch.get_num_threads()
    torch.set_num_threads(wanted or default_threads())
    try:
        yield
    finally:
        torch.set_num_threads(before)


def default_threads() -> int:
    """PyTorch's number, except where `accelerate launch` wrote OMP_NUM_THREADS=1 since nobody had said how many.

    There the processors that this process may use are divided among the processes of this machine.
    """
    if "ACCELERATE_MIXED_PRECISION" not in os.environ or os.environ.get("OMP_NUM_THREADS") != "1":
        return torch.get_num_threads()
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, processors // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


@contextmanager
def run_folder_locked(out: Path, accelerator: Accelerator) -> Iterator[None]:
    """No second run may write to `out` meanwhile; a killed one's lock is gone with it, what it left half is removed."""
    if not accelerator.is_main_process:
        yield
        return
    out.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(out / ".lock", blocking=False):
            remove_leftovers(out / "checkpoints")
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


def largest_over_processes(signal_number: int, accelerator: Accelerator) -> int:
    """The largest of the processes' numbers: all of them stop after the same step."""
    if accelerator.num_processes == 1:
        return signal_number
    mine = torch.tensor([signal_number], device=accelerator.device)
    return int(torch.as_tensor(accelerator.gather(mine)).max())


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint in `folder`. Raises TrainingError where a process sees another than the main one."""
    found = complete(folder)
    here = found[-1] if found else None
    (decided,) = broadcast_object_list([here])
    if decided != here:
        raise TrainingError(
            f"the main process continues from {decided}, process {processes().process_index} sees {here}; "
            "--out must be a folder that all machines share"
        )
    return here
