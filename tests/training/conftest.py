"""Real training processes that start within milliseconds, single or as a process group."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes/train.py"
TINY = {
    "train": ["egs/mini/train.jsonl"],
    "valid": ["egs/mini/valid.jsonl"],
    "crops": {"samples": 1024, "batch_size": 8},
    "validation": {"samples": 1024, "batch_size": 4, "num_batches": 1},
    "model": {
        "encoder": {"channels": [8, 8, 8, 8, 8, 16], "dilations": [1], "dim": 8},
        "quantizer": {"codebook_size": 16, "dim": 8, "restart_threshold": 0.3},
        "decoder": {
            "layers": 3,
            "layers_per_stack": 3,
            "residual_channels": 8,
            "skip_channels": 8,
            "cond_hidden_channels": 8,
        },
    },
    "fit": {
        "steps": 12,
        "precision": "no",
        "log_every": 4,
        "evaluate_every": 6,
        "save_every": 4,
        "codebook_init_batches": 4,
    },
}


@dataclass
class Run:
    """Processes of one run, in a separate process group."""

    host: Host
    output_path: Path
    pids: list[int]
    statuses: dict[int, int] = field(default_factory=dict)

    @property
    def output(self) -> str:
        """Their output so far."""
        return self.output_path.read_text() if self.output_path.exists() else ""

    def poll(self) -> list[int | None]:
        """Exit statuses, in the order of the processes; None: still running, below 0: ended by that signal."""
        for pid in self.pids:
            if pid not in self.statuses and (status := self.host.ask({"poll": pid})) is not None:
                self.statuses[pid] = status
        return [self.statuses.get(pid) for pid in self.pids]

    def wait(self, seconds: float = 300) -> list[int | None]:
        """Exit statuses once all have ended. They are killed when that takes longer."""
        end = time.monotonic() + seconds
        while None in (statuses := self.poll()):
            if time.monotonic() > end:
                self.kill()
                raise TimeoutError(f"still running after {seconds} s; output:\n{self.output}")
            time.sleep(0.03)
        return statuses

    def finish(self) -> str:
        """Waits for them, checks that all succeeded, and returns their output."""
        statuses = self.wait()
        assert not any(statuses), f"exit statuses {statuses}; output:\n{self.output}"
        return self.output

    def kill(self) -> None:
        """SIGKILL to the whole group."""
        if None in self.poll():
            os.killpg(self.pids[0], signal.SIGKILL)
            self.wait()


class Host:
    """The process that has imported everything and forks."""

    def __init__(self, folder: Path):
        self.folder, self.runs = folder, []
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("host.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            cwd=ROOT,
            text=True,
        )

    def ask(self, request: dict[str, Any]) -> Any:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline() or "null")

    def start(self, *argv: object, processes: int = 1, environment: dict[str, str] | None = None) -> Run:
        """Runs a Python file with these arguments, in several processes as a launcher would."""
        token = secrets.token_hex(4)
        run = Run(self, self.folder / f"{token}.txt", [])
        self.runs.append(run)
        for rank in range(processes):
            several = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
            request = {
                "argv": [str(argument) for argument in argv],
                "environment": {
                    **(environment or {}),
                    **({k: str(v) for k, v in several.items()} if processes > 1 else {}),
                },
                "output": str(run.output_path),
                "group": run.pids[0] if run.pids else 0,
                "rendezvous": str(self.folder / f"{token}.rendezvous") if processes > 1 else "",
            }
            run.pids.append(self.ask(request))
        return run

    def close(self) -> None:
        for run in self.runs:
            run.kill()
        self.process.communicate(timeout=60)


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """`host.start(file, *arguments, processes=2)`: a Run. What still runs in the end is killed."""
    host = Host(tmp_path_factory.mktemp("host"))
    yield host
    host.close()


@pytest.fixture
def launched() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """`launched(CONFIG, FLAGS..., processes=2)`: the recipe by `accelerate launch`, as people start it."""
    started = []

    def launch(*arguments: object, processes: int = 1) -> subprocess.Popen[str]:
        # without --multi_gpu, Accelerate starts a single process on a CPU whatever the flags
        several = ["--multi_gpu", "--num_processes", str(processes)]
        command = [sys.executable, "-m", "accelerate.commands.launch", *(several if processes > 1 else ["--cpu"])]
        command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
        command += ["--main_process_port", "0"] if processes > 1 else []
        command += [str(RECIPE), *map(str, arguments)]
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        return process

    yield launch
    for process in started:
        process.kill()


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the folders of runs; the corpus is decoded there once for all."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="session")
def tiny(runs: Path) -> Path:
    """Configuration of a model whose steps take milliseconds."""
    path = runs / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY))
    return path


@pytest.fixture(scope="session")
def recipe() -> Path:
    """The recipe, as a file."""
    return RECIPE
