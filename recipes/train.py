"""Trains a speech tokenizer: accelerate launch recipes/train.py [CONFIG.yaml] [--flags].

Without arguments it trains on the embedded corpus egs/mini. The model is written to `out`; if `out`
contains checkpoints, the run resumes from the newest one.
"""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

from accelerate.utils import set_seed

from vqaudio.checkpoint import save_model
from vqaudio.config import flatten, parse, save_yaml, to_dict
from vqaudio.data.crops import CropConfig, SpeechCrops, ValidationConfig, preload_device, validation_batches
from vqaudio.data.manifest import read_manifest
from vqaudio.data.packed import PackedSpeech, pack
from vqaudio.metrics.conditioning_gap import conditioning_metrics
from vqaudio.speech.config import TRAINED_VOCODERS
from vqaudio.speech.conversion_teacher import initialise_conversion_teacher
from vqaudio.speech.frontend_init import initialise_frontend
from vqaudio.speech.init_from import by_part, init_from
from vqaudio.speech.model import SpeechVQVAE, SpeechVQVAEConfig
from vqaudio.speech.pitch_init import initialise_harmonics, initialise_pitch
from vqaudio.speech.unit_targets import unit_targets
from vqaudio.training import FitConfig, fit, processes, run_recipe
from vqaudio.training.curves import plot_curves

ROOT = Path(__file__).parent.parent
MAX_NAME = 200  # bytes of the name of a folder; file systems allow 255


@dataclass(frozen=True)
class TrainConfig:
    """Configuration of a training run."""

    out: Path = Path("exp/mini")
    """output folder; decoded corpora are cached beside it in packed/, shared with other runs"""
    train: tuple[Path, ...] = (Path("egs/mini/train.jsonl"),)
    """training manifests"""
    valid: tuple[Path, ...] = (Path("egs/mini/valid.jsonl"),)
    """validation manifests"""
    crops: CropConfig = field(default_factory=CropConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    model: SpeechVQVAEConfig = field(default_factory=SpeechVQVAEConfig)
    init_from: tuple[str, ...] = ()
    """models to initialise from; later ones override earlier ones. Parameters of equal name and shape are copied;
    encoder and codebook are copied all or none (without the constants of another front-end and a quantizer of
    another size or kind), speaker embeddings by speaker name, and no decoder from a model trained with stage: codes"""
    fit: FitConfig = field(default_factory=FitConfig)

    def __post_init__(self) -> None:
        fraction, stage, dilations = self.model.predicted_spectra, self.model.stage, self.model.istft.dilations
        if fraction and not (dilations and "istft" in TRAINED_VOCODERS[stage]):
            raise ValueError(
                "model.predicted_spectra is for training the vocoder istft: set model.istft.dilations and model.stage "
                f"joint or istft, or leave it out; got {fraction} with stage {stage} and dilations {dilations}"
            )
        if self.model.conversions and (self.crops.past or self.crops.future):
            raise ValueError(
                "model.conversions are of crops alone: set crops.past and crops.future to 0, got "
                f"{self.crops.past} and {self.crops.future}"
            )


def packed(manifests: tuple[Path, ...], cfg: TrainConfig, speakers: tuple[str, ...] = ()) -> PackedSpeech:
    """Decoded audio of the manifests, cached for all runs; relative paths are also tried from the repository root."""
    found = [path if path.exists() else ROOT / path for path in manifests]
    utterances = [utterance for path in found for utterance in read_manifest(path)]
    name = "+".join(f"{path.absolute().parent.name}-{path.stem}" for path in found)
    if len(name.encode()) > MAX_NAME:
        name = f"{len(found)}-manifests-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    return pack(utterances, cfg.out.parent / "packed" / name, cfg.model.sample_rate, speakers or None, progress=True)


def main() -> None:
    cfg = parse(TrainConfig, ROOT / "egs/mini/conf/mini.yaml", description=__doc__ or "")
    speech = packed(cfg.train, cfg, cfg.model.speakers)
    cfg = replace(cfg, model=replace(cfg.model, speakers=speech.speakers))
    held_out = packed(cfg.valid, cfg, speech.speakers)
    set_seed(cfg.fit.seed)  # weight initialisation
    model = SpeechVQVAE(cfg.model)
    for name, left in init_from(model, cfg.init_from).items():
        processes().print(f"initialised from {name}; not copied: {by_part(left, model)}", file=sys.stderr)
    initialise_frontend(model, speech)
    initialise_pitch(model, speech)
    initialise_harmonics(model, speech)
    teacher_facts = initialise_conversion_teacher(model, speech)
    targets, held_out_targets = unit_targets(cfg.model, speech, held_out, cfg.out.parent / "packed")
    v, around = cfg.validation, {"past": cfg.crops.past, "future": cfg.crops.future, "targets": held_out_targets}
    classes = cfg.model.decoder.num_classes
    batches = validation_batches(held_out, v.samples, v.batch_size, v.num_batches, num_classes=classes, **around)

    def save(trained: SpeechVQVAE, folder: Path) -> None:
        save_model(trained, folder)
        save_yaml(cfg, folder / "config.yaml")

    preload_to = preload_device(cfg.crops.device, speech, processes().device)
    crops = SpeechCrops(speech, cfg.crops, classes, targets, preload_to)
    facts = flatten({name: to_dict(cfg)[name] for name in ("crops", "model", "init_from")})
    del facts["crops.device"]  # another device has the same crops
    facts |= teacher_facts
    facts["utterances"] = speech.content_hash()  # not the paths: the same run continues wherever its data lie
    model = fit(
        model, crops, cfg.fit, cfg.out, evaluate=lambda m: conditioning_metrics(m, batches), save=save, facts=facts
    )
    if processes().is_main_process:
        save(model, cfg.out)
        plot_curves(cfg.out / "metrics.jsonl", cfg.out / "curves.png")
        print(f"the trained model is in {cfg.out} (vqaudio info {cfg.out})")


if __name__ == "__main__":
    sys.exit(run_recipe(main))
