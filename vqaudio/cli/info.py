"""Facts about models and tokens, and how fast this machine decodes."""

from __future__ import annotations

from typing import Annotated

from tyro.conf import Positional, arg

from vqaudio.cli.console import load_any, tell


def info(subject: Positional[Annotated[str, arg(metavar="M_OR_TOKENS")]]) -> int:
    """Facts about a model or about a token file.

    Args:
        subject: a model (a shipped name, a folder, a Hugging Face Hub id), or tokens (a .jsonl or
            .parquet file, or a folder)
    """
    from vqaudio.speech.model import SpeechVQVAE
    from vqaudio.tokens.files import names_tokens, read_tokens
    from vqaudio.tokens.stats import TokenStats, model_facts, other_facts

    if names_tokens(subject):
        stats = TokenStats()
        for row in read_tokens(subject):
            stats.add(row)
        tell(stats.facts())
    else:
        net = load_any(subject, "cpu")
        tell(model_facts(net) if isinstance(net, SpeechVQVAE) else other_facts(net))
    return 0
