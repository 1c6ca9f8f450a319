"""Decoding speed of this machine."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from vqaudio.cli.console import Overwrite, Threads


def bench(
    threads: Threads = None,
    quick: bool = False,
    out: Annotated[Path | None, arg(metavar="NAME.json", help="file for the same results")] = None,
    overwrite: Overwrite = False,
) -> int:
    """Measure the decoding speed of each implementation on this machine, which should be idle.

    Args:
        quick: only the preset base, in half a minute instead of four
    """
    from vqaudio.benchmark import speed, table

    plan, say = speed.QUICK if quick else speed.FULL, functools.partial(print, flush=True)
    table.bench(plan, threads, say, out=out, overwrite=overwrite)
    return 0
