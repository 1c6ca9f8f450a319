"""The command line: one typed function per verb; its docstring is its --help.

Exit codes: 0 if everything was done; 1 if some inputs failed (each is named on standard error, the others are done);
2 for wrong usage (a message on standard error says what to change); 128 + N if signal N ended it, 130 if interrupted,
141 if the program that reads the output has gone.
"""

from __future__ import annotations

import atexit
import functools
import gc
from collections.abc import Callable, Sequence

import tyro

from vqaudio.atomic import DISK_FULL
from vqaudio.cli.adapt import adapt
from vqaudio.cli.align import align
from vqaudio.cli.bench import bench
from vqaudio.cli.console import fail, warnings_in_one_line
from vqaudio.cli.convert import convert
from vqaudio.cli.decode import decode
from vqaudio.cli.demo import demo
from vqaudio.cli.evaluate import evaluate
from vqaudio.cli.export import export
from vqaudio.cli.info import info
from vqaudio.cli.pack import pack, unpack
from vqaudio.cli.prepare import prepare
from vqaudio.cli.reformat import reformat
from vqaudio.cli.sample import sample
from vqaudio.cli.tokenize import tokenize
from vqaudio.cli.verify import verify
from vqaudio.data.audio import AudioError
from vqaudio.program import run_program

VERBS = (
    *(prepare, align, tokenize, decode, convert, adapt, sample, reformat, pack, unpack),
    *(evaluate, verify, export, info, demo, bench),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb and returns the exit code; `argv` are the arguments without the program name (None: sys.argv)."""
    if argv is None:  # otherwise the process goes on
        atexit.register(gc.freeze)  # or Python looks for cycles in all of PyTorch as it ends, for a third of a second
    return run_program(functools.partial(_run, argv))


def _run(argv: Sequence[str] | None) -> int:
    """Errors of the verb are printed on standard error, one sentence each.

    Raises BrokenPipeError and KeyboardInterrupt.
    """
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
    # no input could be used (failures of single inputs are collected by the verbs), or a worker process died
    except (AudioError, ChildProcessError) as error:
        return fail(str(error), 1)
    except ValueError as error:  # includes ModelError and ConfigError
        return fail(str(error), 2)
    except BrokenPipeError:  # an OSError, but nothing to report
        raise
    except ModuleNotFoundError as error:  # an optional dependency is not installed
        return fail(str(error), 2)
    except OSError as error:
        if error.filename:
            return fail(f"{error.filename}: {error.strerror}", 2)
        if error.errno in DISK_FULL:  # files are named by whoever writes them
            return fail(f"cannot write to standard output or a temporary file: {error.strerror}", 2)
        return fail(error.strerror or str(error), 2)


def _deferred(verb: Callable[..., int]) -> Callable[..., Callable[[], int]]:
    """Binds the arguments and runs the verb later, so that tyro does not report errors of the verb as wrong flags."""

    @functools.wraps(verb)
    def bind(*args, **kwargs) -> Callable[[], int]:
        return functools.partial(verb, *args, **kwargs)

    return bind
