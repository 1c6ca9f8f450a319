"""Downloads VCTK 0.92 (11 GB) from its public home and unpacks it: download.py OUT_DIR

The address and checksum come from torchaudio. An existing corpus is not downloaded again.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path


def download(out: Path, url: str | None = None) -> Path:
    """Download and unpack the corpus into OUT/VCTK-Corpus-0.92 unless it exists, and return that folder.

    The folder is renamed to its final name when it is complete; an interrupted download starts over.
    """
    from torchaudio.datasets import VCTK_092

    corpus, partial = out / "VCTK-Corpus-0.92", out / ".VCTK-Corpus-0.92.partial"
    if not corpus.is_dir():
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        VCTK_092(str(partial), download=True, **({} if url is None else {"url": url}))
        (partial / corpus.name).rename(corpus)
        shutil.rmtree(partial)
    return corpus


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder for the corpus")
    print(download(parser.parse_args().out))
