"""Facts about models and tokens, and how fast this machine decodes."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from vqaudio.console import Overwrite, Threads, load_any, tell


def info(subject: Positional[Annotated[str, arg(metavar="M_OR_TOKENS")]]) -> int:
    """Facts about a model or about a token file.

    Args:
        subject: a model (a shipped name, a folder, a Hugging Face Hub id), or tokens (a .jsonl or
            .parquet file, or a folder)
    """
    from vqaudio.speech.model import SpeechVQVAE
    from vqaudio.tokens.stats import TokenStats, model_facts, other_facts
    from vqaudio.tokens.files import names_tokens, read_tokens

    if names_tokens(subject):
        stats = TokenStats()
        for row in read_tokens(subject):
            stats.add(row)
        tell(stats.facts())
    else:
        net = load_any(subject, "cpu")
        tell(model_facts(net) if isinstance(net, SpeechVQVAE) else other_facts(net))
    return 0


def bench(
    threads: Threads = None,
    quick: bool = False,
    out: Annotated[Path | None, arg(metavar="NAME.json", help="file for the same figures")] = None,
    overwrite: Overwrite = False,
) -> int:
    """How fast this machine decodes, beside other ways to do it and beside what it could do; it should be idle.

    Args:
        quick: the preset base alone, in half a minute instead of four
    """
    from vqaudio.evaluation import speed, speed_table

    plan, say = speed.QUICK if quick else speed.FULL, functools.partial(print, flush=True)
    speed_table.bench(plan, threads, say, out=out, overwrite=overwrite)
    return 0
