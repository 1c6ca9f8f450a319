"""The report of one speech model on one corpus: figures.json."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from vqaudio.data.atomic import check_writable
from vqaudio.data.crops import validation_batches
from vqaudio.data.manifest import read_manifest
from vqaudio.data.packed import pack
from vqaudio.evaluation.conditioning import conditioning
from vqaudio.evaluation.pictures import save_json
from vqaudio.models.speech import SpeechVQVAE
from vqaudio.training.health import HealthConfig, judge

FIGURES = "figures.json"
CROP_SAMPLES, CROPS_AT_ONCE = 8192, 16
NO_WAITING = HealthConfig(young_until=0)  # a model that is evaluated has been trained


def evaluate_speech(
    model: SpeechVQVAE, data: Path, out: Path, *, seed: int = 0, overwrite: bool = False
) -> dict[str, float | str]:
    """The figures of `conditioning`, with the verdict on them, of crops of a manifest's utterances.

    `data`: a manifest, or a folder with test.jsonl. As many crops of half a second as there are utterances, at least
    32, the speakers in turns. Raises ValueError for speakers that the model does not know, FileNotFoundError where
    there is no manifest.
    """
    check_out(out, [FIGURES], overwrite)
    manifest = data / "test.jsonl" if data.is_dir() else data
    if not manifest.is_file():
        raise FileNotFoundError(f"there is no manifest {manifest}; vqaudio prepare writes one")
    utterances = read_manifest(manifest)
    unknown = sorted({u.speaker for u in utterances} - set(model.speakers))
    if unknown and model.speakers:
        raise ValueError(
            f"{manifest} has {len(unknown)} speakers that the model does not know ({', '.join(unknown[:8])}); "
            "leave them out, or teach them to it with vqaudio adapt"
        )
    batches = max(2, -(-len(utterances) // CROPS_AT_ONCE))
    with tempfile.TemporaryDirectory() as folder:
        speech = pack(utterances, Path(folder) / "packed", model.sample_rate, model.speakers or None)
        crops = validation_batches(
            speech, CROP_SAMPLES, CROPS_AT_ONCE, batches, seed, num_classes=model.cfg.decoder.classes
        )
        figures = conditioning(model, crops)
    verdict = judge(figures, 0, NO_WAITING)
    found: dict[str, float | str] = {**figures, "model": model.fingerprint, "verdict": str(verdict)}
    save_json(out / FIGURES, {**found, "data": manifest.name, "crops": CROPS_AT_ONCE * batches}, overwrite=overwrite)
    return found


def check_out(out: Path, names: Sequence[str], overwrite: bool) -> None:
    """Makes the folder. Raises the OSError that writing would end in, before any work is done for it."""
    out.mkdir(parents=True, exist_ok=True)
    for name in names:
        check_writable(out / name, overwrite=overwrite)
