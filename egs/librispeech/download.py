"""Downloads a subset of LibriSpeech from its public home and unpacks it: download.py OUT_DIR [SUBSET]

torchaudio knows the address and the checksum. What is there already is not fetched again, and an archive SUBSET.tar.gz
in OUT_DIR is unpacked instead of being fetched.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path


def download(out: Path, subset: str = "train-clean-100") -> Path:
    """Fetches and unpacks a subset into OUT/LibriSpeech/SUBSET, unless that is there. Returns OUT/LibriSpeech.

    It gets its name when it is complete; an interrupted download begins anew.
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
    parser.add_argument("subset", nargs="?", default="train-clean-100", help="as LibriSpeech calls it")
    chosen = parser.parse_args()
    print(download(chosen.out, chosen.subset))
