"""Writes the audio examples of a model card: examples.py MODEL MANIFEST... --out FOLDER [--count 4]

For one short utterance of each of the speakers with the most utterances: the original, its reconstruction, and its
conversion to the next of these speakers, as FLAC files; and golden.jsonl in the parent folder, with the tokens of the
originals as read from these files.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import numpy as np

import vqaudio
from vqaudio.data.audio import read_audio, write_audio
from vqaudio.data.manifest import read_manifest
from vqaudio.tokens.files import write_tokens
from vqaudio.tokens.rows import TokenRow

SECONDS = 2.5, 6.0  # range of durations of an example


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("manifests", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=4, help="number of speakers")
    args = parser.parse_args()
    model = vqaudio.load_model(args.model)
    known = [u for path in args.manifests for u in read_manifest(path) if u.speaker in model.speakers]
    fitting = [u for u in known if SECONDS[0] <= u.seconds <= SECONDS[1]]
    most = Counter(u.speaker for u in fitting).most_common(args.count)
    chosen = [next(u for u in fitting if u.speaker == speaker) for speaker, _ in most]
    args.out.mkdir(parents=True, exist_ok=True)

    def write(name: str, wav: np.ndarray) -> Path:
        path = args.out / f"{name}.flac"
        write_audio(path, wav, model.sample_rate, overwrite=True)
        return path

    originals = [write(f"{u.id}_original", read_audio(u.path, model.sample_rate)) for u in chosen]
    tokens = [model.tokenize(path) for path in originals]
    own = [u.speaker for u in chosen]
    other = own[1:] + own[:1]
    wavs = model.decode_batch(tokens * 2, own + other)
    for i, u in enumerate(chosen):
        write(f"{u.id}_reconstruction", wavs[i].numpy())
        write(f"{u.id}_as_{other[i]}", wavs[len(own) + i].numpy())
    rows = [TokenRow(u.id, u.speaker, found) for u, found in zip(chosen, tokens, strict=True)]
    write_tokens(args.out.parent / "golden.jsonl", rows, overwrite=True)


if __name__ == "__main__":
    main()
