"""vqaudio info: properties of models, token files and archives."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from vqaudio.cli.console import load_any, print_facts
from vqaudio.cli.pack import size_facts


def info(source: Positional[Annotated[str, arg(metavar="M_OR_TOKENS_OR_ARCHIVE")]]) -> int:
    """Print properties of a model, a token file or an archive.

    Args:
        source: a model (a shipped name, a folder or a Hugging Face Hub id), a token file or folder, unit text (of the
            formats textless and kaldi), an archive of vqaudio pack (.vqa), or - for JSON Lines or an archive on
            standard input
    """
    from vqaudio.images.describe import image_facts
    from vqaudio.speech.describe import model_facts, prior_facts
    from vqaudio.speech.model import SpeechVQVAE
    from vqaudio.speech.prior import CodePrior
    from vqaudio.tokens.archive import archive_facts
    from vqaudio.tokens.archive_format import is_archive, read_archive
    from vqaudio.tokens.files import names_tokens, names_unit_text, read_tokens, token_file
    from vqaudio.tokens.stats import TokenStats
    from vqaudio.tokens.unit_text import read_units
    from vqaudio.video.describe import video_facts
    from vqaudio.video.prior import VideoPrior

    if source.endswith(".vqa"):
        print_facts(size_facts(archive_facts(read_archive(Path(source)))))
    elif names_tokens(source):
        stats = TokenStats()
        with token_file(source) as tokens:
            if is_archive(tokens):  # from a pipe, which has no suffix
                print_facts(size_facts(archive_facts(read_archive(tokens))))
                return 0
            for row in read_tokens(tokens):
                stats.add(row)
        print_facts(stats.facts())
    elif names_unit_text(source):
        stats = TokenStats()
        for row in read_units(Path(source)):
            stats.add_units(row.codes.tolist())
        print_facts(stats.facts())
    else:
        net = load_any(source, "cpu")
        if isinstance(net, SpeechVQVAE):
            print_facts(model_facts(net))
        elif isinstance(net, CodePrior):
            print_facts(prior_facts(net))
        elif isinstance(net, VideoPrior):
            print_facts(video_facts(net))
        else:
            print_facts(image_facts(net))
    return 0
