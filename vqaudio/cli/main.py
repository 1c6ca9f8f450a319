"""The command line: one typed function per verb; its docstring is its --help.

Exit codes: 0 if everything was done; 1 if some inputs failed (each is named on standard error, the others are done);
2 for wrong usage (a message on standard error explains what to change); 130 if interrupted.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Sequence

import tyro

from vqaudio.cli.adapt import adapt
from vqaudio.cli.align import align
from vqaudio.cli.bench import bench
from vqaudio.cli.console import fail, warnings_in_one_line
from vqaudio.cli.convert import convert
from vqaudio.cli.decode import decode
from vqaudio.cli.evaluate import evaluate
from vqaudio.cli.info import info
from vqaudio.cli.pack import pack, unpack
from vqaudio.cli.prepare import prepare
from vqaudio.cli.sample import sample
from vqaudio.cli.tokenize import tokenize
from vqaudio.data.audio import AudioError

VERBS = (prepare, align, tokenize, decode, convert, adapt, sample, pack, unpack, evaluate, info, bench)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb and returns the exit code; `argv` are the arguments without the program name (None: sys.argv)."""
    verbs = {verb.__name__: _deferred(verb) for verb in VERBS}
    try:
        run = tyro.extras.subcommand_cli_from_dict(
            verbs,
            prog="vqaudio",
            description="Speech to discrete tokens, and tokens to speech of any speaker of the model.",
            args=None if argv is None else list(argv),
            config=(tyro.conf.FlagCreatePairsOff,),
        )
    except SystemExit as stop:  # after --help or a wrong flag
        return stop.code if isinstance(stop.code, int) else 2
    except ValueError as error:  # from a configuration, which checks itself when it is created
        return fail(str(error), 2)
    try:
        with warnings_in_one_line():
            return run()
    except AudioError as error:  # no input could be used; failures of single inputs are collected by the verbs
        return fail(str(error), 1)
    except ValueError as error:  # includes ModelError and ConfigError
        return fail(str(error), 2)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # otherwise Python reports it again at exit
        return fail("standard output was closed by the program that reads it", 1)
    except ModuleNotFoundError as error:  # an optional dependency is not installed
        return fail(str(error), 2)
    except OSError as error:
        return fail(f"{error.filename}: {error.strerror}" if error.filename else str(error), 2)
    except KeyboardInterrupt:
        return fail("interrupted", 130)


def _deferred(verb: Callable[..., int]) -> Callable[..., Callable[[], int]]:
    """Binds the arguments and runs the verb later, so that tyro does not report errors of the verb as wrong flags."""

    @functools.wraps(verb)
    def bind(*args, **kwargs) -> Callable[[], int]:
        return functools.partial(verb, *args, **kwargs)

    return bind
