"""Downloads a subset of LibriSpeech from its public home and unpacks it: download.py OUT_DIR [SUBSET]

The address and checksum come from torchaudio. An existing subset is not downloaded again, and an existing archive
OUT_DIR/SUBSET.tar.gz is unpacked instead of downloaded.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path


def download(out: Path, subset: str = "train-clean-100") -> Path:
    """Download and unpack a subset into OUT/LibriSpeech/SUBSET unless it exists, and return OUT/LibriSpeech.

    The folder is renamed to its final name when it is complete; an interrupted download starts over.
    """
    from torchaudio.datasets import LIBRISPEECH

    corpus, partial, archive = out / "LibriSpeech", out / f".{subset}.partial", f"{subset}.tar.gz"
    if not (corpus / subset).is_dir():
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        if (out / archive).is_file():
            (partial / archive).symlink_to((out / archive).resolve())
        LIBRISPEECH(str(partial), url=subset, download=True)
        corpus.mkdir(exist_ok=True)
        (partial / "LibriSpeech" / subset).rename(corpus / subset)
        shutil.rmtree(partial)
    return corpus


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder for the corpus")
    parser.add_argument("subset", nargs="?", default="train-clean-100", help="name of the subset")
    chosen = parser.parse_args()
    print(download(chosen.out, chosen.subset))
