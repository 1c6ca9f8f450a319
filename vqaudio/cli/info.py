"""vqaudio info: properties of models and token files."""

from __future__ import annotations

from typing import Annotated

from tyro.conf import Positional, arg

from vqaudio.cli.console import load_any, print_facts


def info(source: Positional[Annotated[str, arg(metavar="M_OR_TOKENS")]]) -> int:
    """Print properties of a model or a token file.

    Args:
        source: a model (a shipped name, a folder or a Hugging Face Hub id), or tokens (a .jsonl or .parquet
            file, a folder, or - for JSON Lines on standard input)
    """
    from vqaudio.images.describe import image_facts
    from vqaudio.speech.describe import model_facts, prior_facts
    from vqaudio.speech.model import SpeechVQVAE
    from vqaudio.speech.prior import CodePrior
    from vqaudio.tokens.files import names_tokens, read_tokens, token_file
    from vqaudio.tokens.stats import TokenStats

    if names_tokens(source):
        stats = TokenStats()
        with token_file(source) as tokens:
            for row in read_tokens(tokens):
                stats.add(row)
        print_facts(stats.facts())
    else:
        net = load_any(source, "cpu")
        if isinstance(net, SpeechVQVAE):
            print_facts(model_facts(net))
        elif isinstance(net, CodePrior):
            print_facts(prior_facts(net))
        else:
            print_facts(image_facts(net))
    return 0
