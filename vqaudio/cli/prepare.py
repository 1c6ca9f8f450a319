"""Corpora of speech and of images, made ready for training."""

from __future__ import annotations

from pathlib import Path

from tyro.conf import Positional

from vqaudio.cli.console import Overwrite, print_facts, report_failures
from vqaudio.data.corpora import Kind, Mic
from vqaudio.images.kinds import ImageKind


def prepare(
    kind: Positional[Kind | ImageKind],
    root: Positional[Path],
    out: Path,
    valid: float = 0.05,
    test: float = 0.05,
    seed: int = 0,
    mic: Mic = "mic1",
    held_out: Path | None = None,
    side: int | None = None,
    overwrite: Overwrite = False,
) -> int:
    """Find a corpus and split it; of speech the manifests are written, of images their decoded pixels.

    Speech: train.jsonl, valid.jsonl, test.jsonl and speakers.json. Images: folders train, valid and test.

    Args:
        kind: the layout of the corpus; folder: any tree of audio with a folder for each speaker; images: any tree of
            images, with a folder for each class or without
        root: the folder that holds the corpus; of cifar10 its binary archive, or a .npz, or the folder of either
        out: folder for what is written
        valid: share of each speaker's utterances, or of each class's images, for validation, 0 to 1
        test: share for testing, 0 to 1 (CIFAR-10 has a test set of its own); with --valid 0 a 1 makes a corpus that is
            evaluated on alone
        seed: of the split
        mic: which microphone of VCTK 0.92
        held_out: a file of what goes into test.jsonl besides: the name of a speaker or the id of an utterance in each
            line (speech)
        side: pixels to which the shorter side of images is scaled, at least the model's size; without it they are as
            they are, which for photos is much: training crops them
    """
    if kind in ("cifar10", "images"):
        if held_out is not None:
            raise ValueError(f"--held-out is for speech, got {held_out} with {kind}; leave it out")
        from vqaudio.images import corpora

        made = corpora.prepare_images(
            kind, root, out, valid=valid, test=test, side=side, seed=seed, overwrite=overwrite
        )
        for split, count in made.images.items():
            print_facts({split: f"{count} images, in {out / split}"})
        print_facts({"classes": f"{len(made.classes)}: {', '.join(made.classes)}"})
        if made.duplicates:
            print_facts({"duplicates": f"{made.duplicates} files that equal an earlier one were left out"})
        return report_failures(made.failures)
    if side is not None:
        raise ValueError(f"--side is for images, got {side} with {kind}; leave it out")
    from vqaudio.data import corpora

    made = corpora.prepare(
        kind, root, out, valid=valid, test=test, seed=seed, mic=mic, held_out=held_out, overwrite=overwrite
    )
    for split, count in made.utterances.items():
        print_facts({split: f"{count} utterances, {made.hours[split]:.3f} hours, in {out / split}.jsonl"})
    print_facts({"speakers": f"{len(made.speakers)}, in {out / 'speakers.json'}"})
    return report_failures(made.failures)
