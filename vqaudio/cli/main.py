"""The command line: one typed function per verb, whose docstring is its help.

Exit codes: 0 all that was asked for was done; 1 some inputs failed (each is named on standard error, the others
are done); 2 wrong usage: a sentence on standard error says what to change; 130 interrupted.
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
from vqaudio.cli.console import fail
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
    """Run one verb; `argv` without the program's name, or None for the process's own -> the exit code."""
    verbs = {verb.__name__: _later(verb) for verb in VERBS}
    try:
        run = tyro.extras.subcommand_cli_from_dict(
            verbs,
            prog="vqaudio",
            description="Speech to discrete tokens, and tokens to speech in any voice that the model knows.",
            args=None if argv is None else list(argv),
            config=(tyro.conf.FlagCreatePairsOff,),
        )
    except SystemExit as stop:  # after --help, or when a flag is wrong
        return stop.code if isinstance(stop.code, int) else 2
    except ValueError as error:  # of a configuration, which checks itself when it is made
        return fail(str(error), 2)
    try:
        return run()
    except AudioError as error:  # of every input: single ones are collected
        return fail(str(error), 1)
    except ValueError as error:  # ModelError and ConfigError are ones
        return fail(str(error), 2)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains again at its end
        return fail("nobody reads the output any longer", 1)
    except ModuleNotFoundError as error:  # an extra that is not installed
        return fail(str(error), 2)
    except OSError as error:
        return fail(f"{error.filename}: {error.strerror}" if error.filename else str(error), 2)
    except KeyboardInterrupt:
        return fail("interrupted", 130)


def _later(verb: Callable[..., int]) -> Callable[..., Callable[[], int]]:
    """The verb with its arguments bound: tyro then takes no error of the verb's own for a wrong flag."""

    @functools.wraps(verb)
    def bind(*args, **kwargs) -> Callable[[], int]:
        return functools.partial(verb, *args, **kwargs)

    return bind
