"""Protects results from the default dtype, device and number of threads that the calling program gave PyTorch."""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

import torch

_ONE_CALLER = threading.RLock()
Function = TypeVar("Function", bound=Callable[..., Any])


@contextmanager
def own_defaults() -> Iterator[None]:
    """Within it, tensors are made in float32 on the CPU unless specified otherwise, whatever the program chose."""
    dtype, device = torch.get_default_dtype(), torch.get_default_device()
    on_cpu = nullcontext() if device.type == "cpu" else torch.device("cpu")  # a mode, which slows down every call
    if dtype != torch.float32:
        torch.set_default_dtype(torch.float32)
    try:
        with on_cpu:
            yield
    finally:
        if dtype != torch.float32:
            torch.set_default_dtype(dtype)


@contextmanager
def one_thread() -> Iterator[None]:
    """Within it PyTorch computes on one thread: the bits of a matrix product depend on how threads divide its rows.

    The number is one for the whole program, so callers in several Python threads wait for each other.
    """
    with _ONE_CALLER:
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def with_own_defaults(function: Function) -> Function:
    """Decorator: runs a function, or each step of a generator function, in `own_defaults`."""
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def steps(*args: Any, **kwargs: Any) -> Iterator[Any]:
            iterator, end = function(*args, **kwargs), object()
            while True:
                with own_defaults():
                    step = next(iterator, end)
                if step is end:
                    return
                yield step

        return steps  # pyright: ignore[reportReturnType]

    @functools.wraps(function)
    def whole(*args: Any, **kwargs: Any) -> Any:
        with own_defaults():
            return function(*args, **kwargs)

    return whole  # pyright: ignore[reportReturnType]
