"""Decodes a corpus of compressed speech by all cores, into WAV files of 16 kHz and 16 bits with manifests.

    python egs/gpu/decode.py data/speech_opus --out exp/gpu/work/speech/audio

Of the manifests NAME.jsonl in the corpus, valid.jsonl becomes OUT/valid.jsonl, and all others together become
OUT/train.jsonl. Training packs the files (`vqaudio.data.packed`) in one process, which is much faster from WAV files;
the samples are those that it would have packed, to the bit. OUT appears when all is done, and is not made twice.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import soundfile

from vqaudio.atomic import atomic_folder
from vqaudio.data.audio import AudioError, blocks, combined_error, to_int16
from vqaudio.data.manifest import Utterance, manifest_row, read_manifest

SAMPLE_RATE = 16000  # Hz, of all models of this recipe
VALID = "valid.jsonl"
CHUNK = 16  # files that a process takes at once


def decode(utterance: Utterance, folder: Path) -> AudioError | None:
    """Writes folder/ID.wav -> the error of a file that cannot be used."""
    try:
        with soundfile.SoundFile(folder / f"{utterance.id}.wav", "w", SAMPLE_RATE, 1, "PCM_16") as file:
            for block in blocks(utterance.path, SAMPLE_RATE):
                file.write(to_int16(block))
    except AudioError as error:
        return error
    return None


def splits(corpus: Path) -> dict[str, list[Utterance]]:
    """Utterances of train.jsonl and valid.jsonl; an id of several manifests gets the name of its manifest before it.

    Raises FileNotFoundError for a corpus without manifests, ValueError for one without training or validation.
    """
    manifests = sorted(corpus.glob("*.jsonl"))
    if corpus / VALID not in manifests or len(manifests) < 2:
        raise FileNotFoundError(
            f"{corpus} needs manifests of training speech, NAME.jsonl, and {VALID}; it has "
            f"{', '.join(path.name for path in manifests) or 'none'}"
        )
    found: dict[str, list[Utterance]] = {"train.jsonl": [], VALID: []}
    seen: set[str] = set()
    for path in manifests:
        for utterance in read_manifest(path):
            id = utterance.id if utterance.id not in seen else f"{path.stem}-{utterance.id}"
            seen.add(id)
            found[VALID if path.name == VALID else "train.jsonl"].append(replace(utterance, id=id))
    for name, utterances in found.items():
        if not utterances:
            raise ValueError(f"{corpus} has no utterances for {name}; add some to its manifests")
    return found


def decode_corpus(corpus: Path, out: Path, jobs: int) -> None:
    """Writes OUT/ID.wav for all utterances, OUT/train.jsonl and OUT/valid.jsonl, unless they are there.

    Raises AudioError with the names of all files that cannot be used, and as `splits` does.
    """
    if (out / VALID).is_file():
        return
    found = splits(corpus)
    out.parent.mkdir(parents=True, exist_ok=True)
    everything = [utterance for utterances in found.values() for utterance in utterances]
    with atomic_folder(out) as folder:
        errors = run(everything, folder, jobs)
        if errors:
            raise combined_error(errors)
        for name, utterances in found.items():
            rows = [manifest_row(replace(u, path=folder / f"{u.id}.wav"), folder) for u in utterances]
            (folder / name).write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    hours = sum(utterance.seconds for utterance in everything) / 3600
    print(f"{len(everything)} utterances, {hours:.2f} hours, decoded to {out}", flush=True)


def run(utterances: Sequence[Utterance], folder: Path, jobs: int) -> list[AudioError]:
    """Decodes in `jobs` processes -> errors of files that cannot be used."""
    context = multiprocessing.get_context("spawn" if sys.platform == "darwin" else "fork")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        folders = [folder] * len(utterances)
        return [error for error in pool.map(decode, utterances, folders, chunksize=CHUNK) if error is not None]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, help="folder of the manifests")
    parser.add_argument("--out", type=Path, required=True, help="folder of the WAV files")
    jobs = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser.add_argument("--jobs", type=int, default=jobs, help="processes; default: one for each core")
    chosen = parser.parse_args()
    try:
        decode_corpus(chosen.corpus, chosen.out, chosen.jobs)
    except (ValueError, OSError) as error:  # AudioError is a ValueError
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
