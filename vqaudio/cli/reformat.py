"""vqaudio reformat: token files in other formats."""

from __future__ import annotations

from pathlib import Path

from tyro.conf import Positional

from vqaudio.cli.console import Overwrite, TokenLayout, facts_file, print_facts
from vqaudio.tokens.layout import Layout


def reformat(
    tokens: Positional[Path],
    out: Path,
    layout: TokenLayout = Layout(),
    overwrite: Overwrite = False,
) -> int:
    """Write tokens in another format, also as text for language-model toolkits.

    Args:
        tokens: output of vqaudio tokenize: a token file or folder, or - for JSON Lines on standard input
        out: token file (NAME.jsonl, NAME.parquet, NAME.tar), a name without a suffix for a folder of .npy files, unit
            text (NAME.units, or any name with --format), or - for standard output
    """
    from vqaudio.tokens.files import read_tokens, token_file, write_tokens
    from vqaudio.tokens.stats import TokenStats

    stats = TokenStats()
    with token_file(tokens) as file:
        write_tokens(out, stats.watch(read_tokens(file)), overwrite=overwrite, layout=layout)
    print_facts({**stats.facts(), "written": str(out)}, facts_file(out))
    return 0
