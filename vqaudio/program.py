"""How a program of this package ends: a closed pipe ends it quietly, a signal ends it after it has cleaned up."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))  # beside SIGINT
SIGNALLED = 128  # exit code of a program that signal N ended: SIGNALLED + N, as a shell reports it
CLOSED_PIPE = SIGNALLED + 13  # 13: SIGPIPE, which Python turns into BrokenPipeError


class Terminated(KeyboardInterrupt):
    """The program received SIGTERM or SIGHUP; like KeyboardInterrupt it passes through every `finally`."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.number = number


def run_program(program: Callable[[], int | None]) -> int:
    """Runs `program`, which returns an exit code (None: 0) or raises SystemExit, and returns its exit code.

    A signal (SIGINT, SIGTERM, SIGHUP) raises KeyboardInterrupt in it, so that temporary files are removed; the code is
    then 128 + signal. If the reader of its output has gone, the code is that of SIGPIPE, 141, without a message. A lack
    of memory is one sentence, and the code 2.
    """
    _open_closed_streams()
    try:
        with _signals_raised():
            try:
                code = _code_of(program)
            finally:
                _flush()  # here, because an error at the exit of the interpreter becomes a traceback
        return code
    except BrokenPipeError:
        _discard_output()
        return CLOSED_PIPE
    except KeyboardInterrupt as interrupt:
        number = interrupt.number if isinstance(interrupt, Terminated) else int(signal.SIGINT)
        reason = f"stopped by {signal.Signals(number).name}" if isinstance(interrupt, Terminated) else "interrupted"
        with suppress(OSError):  # a closed terminal, after SIGHUP
            print(f"error: {reason}", file=sys.stderr, flush=True)
        return SIGNALLED + number
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        print(f"error: not enough memory; ask for less at once ({_first_line(error)})", file=sys.stderr, flush=True)
        return 2
    except OSError as error:  # of the last flush: a full disk
        _discard_output()
        with suppress(OSError):
            print(f"error: cannot write to standard output: {error.strerror or error}", file=sys.stderr, flush=True)
        return 2


def _open_closed_streams() -> None:
    """Opens the null device in the place of each stream that the caller closed (>&-), which is None in Python.

    Otherwise the next file that is opened takes its descriptor, and receives what libraries print.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115 (until the program ends)


def _out_of_memory(error: Exception) -> bool:
    """Whether Python, NumPy or PyTorch, which raises RuntimeErrors for this, got no memory, on any device."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in ("allocate memory", "out of memory"))


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or "no details are known"


def _code_of(program: Callable[[], int | None]) -> int:
    try:
        return program() or 0
    except SystemExit as stop:
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
            return 1
        return stop.code or 0


@contextmanager
def _signals_raised() -> Iterator[None]:
    """SIGTERM and SIGHUP raise Terminated, once: more of them do not disturb the cleaning up. Ignored ones stay so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def terminate(number: int, _: object) -> None:
        for each in SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        raise Terminated(number)

    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        if handler == signal.SIG_DFL:
            signal.signal(number, terminate)
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()


def _discard_output() -> None:
    """Nothing is written to streams that cannot be written to; otherwise Python reports that again at exit."""
    for stream in (sys.stdout, sys.stderr):
        if stream is None:
            continue
        try:
            stream.flush()
        except OSError:
            with suppress(OSError):  # a stream without a file descriptor
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
