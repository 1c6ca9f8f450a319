"""vqaudio prepare: speech and image corpora, and recordings of an environment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tyro.conf import Positional

from vqaudio.cli.console import Overwrite, SpeakerLevel, print_facts, report_failures
from vqaudio.data.corpora import Kind, Mic
from vqaudio.images.kinds import ImageKind
from vqaudio.video.kinds import VideoKind


def prepare(
    kind: Positional[Kind | ImageKind | VideoKind],
    root: Positional[Path | None] = None,
    *,
    out: Path,
    valid: float = 0.05,
    test: float = 0.05,
    seed: int = 0,
    mic: Mic = "mic1",
    held_out: Path | None = None,
    speaker_level: SpeakerLevel = 1,
    verify: bool = True,
    side: int | None = None,
    scenario: str | None = None,
    frames: int | None = None,
    frame_skip: int | None = None,
    overwrite: Overwrite = False,
) -> int:
    """Find a corpus, split it, and write manifests (speech) or decoded pixels (images), or record a game (video).

    Speech: train.jsonl, valid.jsonl, test.jsonl and speakers.json. Images: the folders train, valid and test. Video:
    recording.json and the folder episodes; it takes no ROOT.

    Args:
        kind: layout of the corpus; folder: audio files in one folder per speaker; images: image files, optionally in
            one folder per class; vizdoom: episodes of a random walk that avoids walls
        root: folder of the corpus; for cifar10 the binary archive, a .npz file, or the folder of one of these; none for
            vizdoom
        out: output folder
        valid: fraction of each speaker's utterances, of each class's images, or of the episodes, for validation, 0 to 1
        test: fraction for testing, 0 to 1 (CIFAR-10 has an official test set); --valid 0 --test 1 makes an
            evaluation-only corpus
        seed: random seed of the split, and of what is recorded
        mic: microphone (vctk 0.92)
        held_out: text file with one speaker name or utterance id per line that always goes to test.jsonl (speech)
        verify: decode every file once, so that files that are damaged, cut off, not finite or too short are left out
            now; --no-verify reads headers only (speech)
        side: scale the shorter side of images to this many pixels, at least the size of the model (default: no
            scaling; training takes crops of the full image)
        scenario: one of ViZDoom's scenarios, or a .cfg file (default: my_way_home)
        frames: number of frames to record (default: 20000)
        frame_skip: tics of the game, 35 per second, between two recorded frames (default: 2)
    """
    if mic != "mic1" and kind != "vctk":
        raise ValueError(f"--mic applies to vctk, got {mic} with {kind}; leave it out")
    recorded = {"scenario": scenario, "frames": frames, "frame_skip": frame_skip}
    recorded = {name: value for name, value in recorded.items() if value is not None}
    of_speech = held_out is not None or speaker_level != 1 or not verify
    if kind == "vizdoom":
        if root is not None or side is not None or of_speech:
            raise ValueError("ROOT, --side and the options of speech do not apply to vizdoom; omit them")
        return _record(recorded, out, valid, test, seed, overwrite)
    if recorded:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in recorded)
        raise ValueError(f"{names} applies to vizdoom, not to {kind}; leave it out")
    if root is None:
        raise ValueError(f"prepare {kind} needs the folder of the corpus: vqaudio prepare {kind} ROOT --out DIR")
    if kind in ("cifar10", "images"):
        if of_speech:
            raise ValueError(f"--held-out, --speaker-level and --no-verify apply to speech, not to {kind}; omit them")
        return _prepare_images(kind, root, out, valid, test, side, seed, overwrite)
    if side is not None:
        raise ValueError(f"--side applies to images only, got {side} with {kind}; leave it out")
    splits = {"valid": valid, "test": test, "seed": seed, "held_out": held_out}
    return _prepare_speech(
        kind, root, out, **splits, mic=mic, speaker_level=speaker_level, verify=verify, overwrite=overwrite
    )


def _prepare_speech(kind: Kind, root: Path, out: Path, **options: Any) -> int:
    """options: of `corpora.prepare`."""
    from vqaudio.data import corpora

    made = corpora.prepare(kind, root, out, **options)
    for split, count in made.utterances.items():
        print_facts({split: f"{count} utterances, {made.hours[split]:.3f} hours, in {out / split}.jsonl"})
    print_facts({"speakers": f"{len(made.speakers)}, in {out / 'speakers.json'}"})
    return report_failures(made.failures)


def _record(recorded: dict[str, Any], out: Path, valid: float, test: float, seed: int, overwrite: bool) -> int:
    from vqaudio.video.recorder import RecordConfig, record

    made = record(RecordConfig(**recorded, seed=seed), out, valid=valid, test=test, overwrite=overwrite)
    for split, episodes in made.episodes.items():
        print_facts({split: f"{len(episodes)} episodes, {sum(facts.frames for facts in episodes)} frames"})
    print_facts({"actions": ", ".join(made.actions), "written": str(out)})
    return 0


def _prepare_images(
    kind: ImageKind,
    root: Path,
    out: Path,
    valid: float,
    test: float,
    side: int | None,
    seed: int,
    overwrite: bool,
) -> int:
    from vqaudio.images import corpora

    made = corpora.prepare_images(kind, root, out, valid=valid, test=test, side=side, seed=seed, overwrite=overwrite)
    for split, count in made.images.items():
        print_facts({split: f"{count} images, in {out / split}"})
    print_facts({"classes": f"{len(made.classes)}: {', '.join(made.classes)}"})
    if made.duplicates:
        print_facts({"duplicates": f"{made.duplicates} exact duplicates were left out"})
    return report_failures(made.failures)
