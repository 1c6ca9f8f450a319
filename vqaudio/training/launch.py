"""Launch environment of a run: processes, mixed precision, threads, signals and the lock of the output folder."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, PartialState
from accelerate.utils import DistributedType, broadcast_object_list, parse_flag_from_env
from filelock import FileLock, Timeout

from vqaudio.program import SIGNALS, run_program
from vqaudio.training.checkpoint import TrainingError, complete, remove_leftovers
from vqaudio.training.config import FitConfig

PR_SET_PDEATHSIG = 1  # Linux prctl option: signal to receive when the parent process exits
LAUNCHED_PRECISION = "ACCELERATE_MIXED_PRECISION"  # environment variable set by `accelerate launch`
LAUNCHED_ACCUMULATION = "ACCELERATE_GRADIENT_ACCUMULATION_STEPS"
LAUNCHED_COMPILER = "ACCELERATE_DYNAMO_BACKEND"
PRECISIONS = ("no", "bf16", "fp16")
NOT_SUPPORTED = {  # environment variables set by `accelerate launch`
    "DeepSpeed": "ACCELERATE_USE_DEEPSPEED",
    "FSDP": "ACCELERATE_USE_FSDP",
    "Megatron-LM": "ACCELERATE_USE_MEGATRON_LM",
    "a parallelism configuration": "ACCELERATE_USE_PARALLELISM_CONFIG",
}


def run_recipe(main: Callable[[], None]) -> int:
    """Runs the main function of a recipe -> its exit code, 1 after an error, which is printed as one sentence."""

    def program() -> None:
        try:
            main()
        except BrokenPipeError:  # an OSError, but nothing to report
            raise
        except (TrainingError, ValueError, OSError) as error:  # AudioError, ModelError and ConfigError: ValueErrors
            raise SystemExit(f"error: {error}") from error

    return run_program(program)


def processes() -> PartialState:
    """The processes of this run, as started by `accelerate launch`.

    Raises TrainingError for an unsupported kind of parallelism.
    """
    for name, variable in NOT_SUPPORTED.items():  # first, because Accelerate would import packages that may be missing
        if os.environ.get(variable, "").lower() == "true":
            raise _not_supported(name)
    # without cpu=True, Accelerate starts no process group on a CPU, and each process would train on its own
    on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    return PartialState(cpu=on_cpu)


def make_accelerator(cfg: FitConfig, out: Path) -> Accelerator:
    """An Accelerator configured by `accelerate launch` and `cfg`.

    Raises TrainingError for an unsupported kind of parallelism, for environment variables that contradict `cfg`, or if
    the tracker is not installed.
    """
    _check_environment(cfg)
    if cfg.tracker == "tensorboard" and importlib.util.find_spec("tensorboard") is None:
        raise TrainingError("--fit.tracker tensorboard needs tensorboard: pip install 'vqaudio[train]'")
    accelerator = Accelerator(
        cpu=processes().device == torch.device("cpu"),
        mixed_precision=_precision(cfg.precision),
        gradient_accumulation_steps=cfg.gradient_accumulation_steps,
        log_with=None if cfg.tracker == "none" else cfg.tracker,
        project_dir=str(out),
        # buffers are identical on all processes, because the quantizer synchronises its statistics itself
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )
    allowed = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
    if accelerator.distributed_type not in allowed:
        raise _not_supported(str(accelerator.distributed_type))
    if cfg.tracker != "none":
        accelerator.init_trackers("")
    return accelerator


def _check_environment(cfg: FitConfig) -> None:
    """Raises TrainingError for variables that Accelerate would obey in place of `cfg`."""
    steps, launched = cfg.gradient_accumulation_steps, os.environ.get(LAUNCHED_ACCUMULATION)
    if launched is not None and launched.strip() != str(steps):
        raise TrainingError(
            f"{LAUNCHED_ACCUMULATION} is {launched!r}, but --fit.gradient_accumulation_steps is {steps}; unset the "
            "variable, and set the number with the flag"
        )
    compiler = os.environ.get(LAUNCHED_COMPILER, "")
    if compiler.strip().upper() not in ("", "NO"):
        raise TrainingError(
            f"{LAUNCHED_COMPILER} is {compiler!r}, but training supports NO alone; leave --dynamo_backend out, and "
            "choose with --fit.compile"
        )


def describe_launch(accelerator: Accelerator) -> str:
    """One log line: number of processes, device, precision and threads."""
    count, device, threads = accelerator.num_processes, accelerator.device.type, torch.get_num_threads()
    precision = {"no": "float32"}.get(accelerator.mixed_precision, accelerator.mixed_precision)
    each = f", {threads} thread{'s' * (threads > 1)} each" if device == "cpu" else ""
    return f"training on {count} process{'es' * (count > 1)} ({device}, {precision}{each}){_hint(accelerator)}"


def _hint(accelerator: Accelerator) -> str:
    """That the launcher's precision is overruled, if it is."""
    launched, used = os.environ.get(LAUNCHED_PRECISION, "").lower(), accelerator.mixed_precision
    if launched and launched != used:
        return f"; --fit.precision is {used}, instead of {launched} of accelerate launch"
    return ""


def _not_supported(kind: str) -> TrainingError:
    return TrainingError(
        f"{kind} is not supported, because every process needs the complete codebook; use data parallelism instead "
        "(accelerate launch --multi_gpu --num_processes N, which starts N processes on a CPU too)"
    )


def _precision(wanted: str) -> str:
    """Resolve "auto": bf16 or fp16 if `accelerate launch` or its configuration sets it, otherwise by the hardware.

    The launcher also passes "no" by default, which cannot be distinguished from a choice: then, as without a
    launcher, it is bf16 if the GPU (or, without a GPU, the CPU) has native bf16 instructions, otherwise no, and
    `describe_launch` reports that "no" was overruled. Raises TrainingError for a precision that `fit` does not have.
    """
    if wanted != "auto":
        return wanted
    launched = os.environ.get(LAUNCHED_PRECISION, "").lower() or "no"
    if launched not in PRECISIONS:
        raise TrainingError(
            f"accelerate launch asks for precision {launched}, but training supports {', '.join(PRECISIONS)}; "
            "choose one with --mixed_precision or --fit.precision"
        )
    return _native_precision() if launched == "no" else launched


def _native_precision() -> str:
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no"
    return "bf16" if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else "no"


@contextmanager
def cpu_threads(wanted: int) -> Iterator[None]:
    """Context manager that sets the number of CPU threads of PyTorch; `wanted` as in FitConfig.threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(wanted or default_threads())
    try:
        yield
    finally:
        torch.set_num_threads(before)


def default_threads() -> int:
    """PyTorch's number of threads, except where `accelerate launch` set OMP_NUM_THREADS=1 because it was unset.

    In that case the available cores are divided by the number of local processes.
    """
    if LAUNCHED_PRECISION not in os.environ or os.environ.get("OMP_NUM_THREADS") != "1":
        return torch.get_num_threads()
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, processors // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


@contextmanager
def run_folder_locked(out: Path, accelerator: Accelerator) -> Iterator[None]:
    """Lock `out` against a second run, and delete partial files of a killed one (whose lock the system releases).

    Raises TrainingError if another run holds the lock.
    """
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
    """Collect SIGINT, SIGTERM and SIGHUP in a list instead of ending the process; a second SIGINT ends it at once."""
    caught: list[int] = []

    def note(number: int, _: Any) -> None:
        if number in caught and number == signal.SIGINT:
            raise KeyboardInterrupt
        caught.append(number)

    numbers = [number for number in (signal.SIGINT, *SIGNALS) if signal.getsignal(number) != signal.SIG_IGN]  # nohup
    before = {number: signal.signal(number, note) for number in numbers}
    if sys.platform == "linux" and LAUNCHED_PRECISION in os.environ:
        # `accelerate launch` does not forward signals to a single process, so its exit is turned into SIGTERM
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM))
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def largest_over_processes(signal_number: int, accelerator: Accelerator) -> int:
    """Maximum over all processes, so that all of them stop after the same step."""
    if accelerator.num_processes == 1:
        return signal_number
    mine = torch.tensor([signal_number], device=accelerator.device)
    return int(torch.as_tensor(accelerator.gather(mine)).max())


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint in `folder`, or None. Raises TrainingError if the processes see different ones."""
    found = complete(folder)
    here = found[-1] if found else None
    (decided,) = broadcast_object_list([here])
    if decided != here:
        raise TrainingError(
            f"the main process resumes from {decided}, but process {processes().process_index} sees {here}; "
            "--out must be a folder shared by all machines"
        )
    return here
