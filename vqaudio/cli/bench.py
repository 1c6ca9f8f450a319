"""vqaudio bench: decoding speed of this machine."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from vqaudio.cli.console import Overwrite, Threads, facts_file
from vqaudio.sampling.config import check_threads


def bench(
    threads: Threads = None,
    quick: bool = False,
    out: Annotated[
        Path | None, arg(metavar="NAME.json", help="write the results to this JSON file, - for standard output")
    ] = None,
    overwrite: Overwrite = False,
) -> int:
    """Measure decoding speed on this machine, compared to other implementations and to hardware limits.

    The machine should be idle. Takes about four minutes.

    Args:
        quick: only the preset `base`, in half a minute
    """
    from vqaudio.benchmark import speed, table

    check_threads(threads)
    print_line = functools.partial(print, flush=True, file=facts_file(out or Path()))
    table.bench(speed.QUICK if quick else speed.FULL, threads, print_line, out=out, overwrite=overwrite)
    return 0
