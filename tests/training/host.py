"""Starts Python files at once: this process has imported what they need, and forks for each of them.

A request is a line of JSON: {"argv", "environment", "output", "group", "rendezvous"} starts a process and answers with
its id, {"poll": ID} answers with its exit status, null while it runs. matplotlib is made unavailable there, because
plotting takes longer than training.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import runpy
import signal
import sys
from typing import Any

import accelerate  # noqa: F401
import pytest  # noqa: F401
import torch
import torch._dynamo  # what the first optimizer imports
import torch.distributed
from torch.nn.parallel import DistributedDataParallel  # noqa: F401

import vqaudio.metrics.conditioning_gap
import vqaudio.training.fit  # noqa: F401

PR_SET_PDEATHSIG = 1


def serve() -> dict[str, Any] | None:
    """Answers requests until there are none; in a process that was forked, returns what to run there."""
    for line in sys.stdin:
        request = json.loads(line)
        if "poll" in request:
            pid, status = os.waitpid(request["poll"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        elif answer := os.fork():
            os.setpgid(answer, request["group"] or answer)
        else:
            return request
        print(json.dumps(answer), flush=True)
    return None


def become(request: dict[str, Any]) -> None:
    """Sets up this process as requested: its group, files, environment and process group."""
    os.setpgid(0, request["group"])
    if sys.platform == "linux":  # no process outlives the tests
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
    output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream, file in enumerate((os.open(os.devnull, os.O_RDONLY), output, output)):
        os.dup2(file, stream)
    os.environ.update(request["environment"])
    sys.argv = request["argv"]
    sys.modules["matplotlib"] = None  # pyright: ignore[reportArgumentType]
    if path := request["rendezvous"]:
        rank, size = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE"))
        torch.distributed.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=size)


if __name__ == "__main__":
    gc.collect()
    gc.freeze()  # what is there now stays as it is, in memory that all share
    if (request := serve()) is not None:
        become(request)
        runpy.run_path(sys.argv[0], run_name="__main__")
