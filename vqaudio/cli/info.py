"""Facts about models and tokens, and how fast this machine decodes."""

from __future__ import annotations

from typing import Annotated

from tyro.conf import Positional, arg

from vqaudio.cli.console import load_any, print_facts


def info(subject: Positional[Annotated[str, arg(metavar="M_OR_TOKENS")]]) -> int:
    """Facts about a model or about a token file.

    Args:
        subject: a model (a shipped name, a folder, a Hugging Face Hub id), or tokens (a .jsonl or
            .parquet file, or a folder)
    """
    from vqaudio.images.describe import image_facts
    from vqaudio.speech.describe import model_facts, prior_facts
    from vqaudio.speech.model import SpeechVQVAE
    from vqaudio.speech.prior import CodePrior
    from vqaudio.tokens.files import names_tokens, read_tokens
    from vqaudio.tokens.stats import TokenStats

    if names_tokens(subject):
        stats = TokenStats()
        for row in read_tokens(subject):
            stats.add(row)
        print_facts(stats.facts())
    else:
        net = load_any(subject, "cpu")
        if isinstance(net, SpeechVQVAE):
            print_facts(model_facts(net))
        elif isinstance(net, CodePrior):
            print_facts(prior_facts(net))
        else:
            print_facts(image_facts(net))
    return 0
