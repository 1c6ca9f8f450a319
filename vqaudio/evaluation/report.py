"""The report of one speech model on one corpus: figures.json."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vqaudio.data.atomic import check_writable
from vqaudio.data.corpora import Failures
from vqaudio.data.crops import validation_batches
from vqaudio.data.manifest import read_manifest
from vqaudio.data.packed import pack
from vqaudio.evaluation.bitrate import Bitrates, bitrates
from vqaudio.evaluation.conditioning import conditioning
from vqaudio.evaluation.pictures import save_json
from vqaudio.models.prior import CodePrior
from vqaudio.models.speech import SpeechVQVAE
from vqaudio.tokens.bulk import find_sources, tokenize_all
from vqaudio.tokens.chunks import sequences
from vqaudio.tokens.files import read_tokens
from vqaudio.tokens.sample import check_prior
from vqaudio.training.health import HealthConfig, judge

FIGURES = "figures.json"
CROP_SAMPLES, CROPS_AT_ONCE = 8192, 16
NO_WAITING = HealthConfig(young_until=0)  # a model that is evaluated has been trained


def evaluate_speech(
    model: SpeechVQVAE,
    data: Path,
    out: Path,
    *,
    prior: CodePrior | None = None,
    training: Path | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> dict[str, float | str]:
    """The figures of `conditioning`, with the verdict on them, of crops of a manifest's utterances.

    `data`: a manifest, or a folder with test.jsonl. As many crops of half a second as there are utterances, at least
    32, the speakers in turns. What the utterances' tokens cost in bits per second comes with them (`bitrates`): with a
    prior also under it, with a token file of training utterances also under counts of those. Raises ValueError for
    speakers that the model does not know and for a prior or tokens of another model, FileNotFoundError where there is
    no manifest.
    """
    if prior is not None:
        check_prior(prior, model)
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
    rates = _rates(model, manifest, prior, training)
    facts = {"data": manifest.name, "crops": CROPS_AT_ONCE * batches, "rates": _plain(rates)}
    save_json(out / FIGURES, {**found, **facts}, overwrite=overwrite)
    return found | {f"{name}_bits_per_second": rate.bits_per_second for name, rate in rates.overall.items()}


def _rates(model: SpeechVQVAE, manifest: Path, prior: CodePrior | None, training: Path | None) -> Bitrates:
    failures: Failures = []
    rows = list(tokenize_all(model, find_sources([manifest]), failures))
    if failures:
        raise failures[0]
    k = model.codebook_size
    others = None if training is None else sequences(read_tokens(training), (), k, model.fingerprint)
    return bitrates(rows, k, training=others, prior=prior)


def _plain(rates: Bitrates) -> dict[str, Any]:
    """As JSON holds it."""
    speakers = {name or "": rates.by_speaker[name] for name in rates.by_speaker}
    return {
        "overall": {name: rate._asdict() for name, rate in rates.overall.items()},
        "by_speaker": {who: {name: rate._asdict() for name, rate in own.items()} for who, own in speakers.items()},
    }


def check_out(out: Path, names: Sequence[str], overwrite: bool) -> None:
    """Makes the folder. Raises the OSError that writing would end in, before any work is done for it."""
    out.mkdir(parents=True, exist_ok=True)
    for name in names:
        check_writable(out / name, overwrite=overwrite)
