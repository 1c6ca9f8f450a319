"""Trains a speech tokenizer: accelerate launch recipes/train.py [CONFIG.yaml] [--flags].

Without arguments it trains on the corpus that comes with the repository. The model lands in `out`; run again,
it continues from the newest checkpoint there.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

from accelerate.utils import set_seed

from vqaudio.config import parse, save_yaml
from vqaudio.data.audio import AudioError
from vqaudio.data.crops import CropConfig, SpeechCrops, validation_batches
from vqaudio.data.manifest import read_manifest
from vqaudio.data.packed import PackedSpeech, pack
from vqaudio.evaluation.conditioning import conditioning
from vqaudio.models.speech import SpeechVQVAE, SpeechVQVAEConfig
from vqaudio.models.storage import save_model
from vqaudio.training import FitConfig, TrainingError, fit
from vqaudio.training.curves import plot_curves

DEFAULT = Path(__file__).parent.parent / "egs/mini/conf/mini.yaml"


@dataclass(frozen=True)
class ValidationConfig:
    """The fixed crops on which a run is judged."""

    samples: int = 8192
    """length of a crop"""
    batch_size: int = 11
    """crops per batch; codes and speakers are exchanged inside a batch"""
    batches: int = 4
    """how many"""


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a run."""

    out: Path = Path("exp/mini")
    """folder of the run"""
    train: tuple[Path, ...] = (Path("egs/mini/train.jsonl"),)
    """manifests to train on"""
    valid: tuple[Path, ...] = (Path("egs/mini/valid.jsonl"),)
    """manifests of utterances that are never trained on"""
    crops: CropConfig = field(default_factory=CropConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    model: SpeechVQVAEConfig = field(default_factory=SpeechVQVAEConfig)
    fit: FitConfig = field(default_factory=FitConfig)


def packed(manifests: tuple[Path, ...], cfg: TrainConfig, name: str, speakers: tuple[str, ...] = ()) -> PackedSpeech:
    """The manifests' audio, decoded once into a memory map in the run's folder."""
    utterances = [utterance for path in manifests for utterance in read_manifest(path)]
    return pack(utterances, cfg.out / "packed" / name, cfg.model.sample_rate, speakers or None, progress=True)


def main() -> None:
    cfg = parse(TrainConfig, DEFAULT, description=__doc__ or "")
    speech = packed(cfg.train, cfg, "train", cfg.model.speakers)
    cfg = replace(cfg, model=replace(cfg.model, speakers=speech.speakers))
    held_out = packed(cfg.valid, cfg, "valid", speech.speakers)
    set_seed(cfg.fit.seed)  # the first weights
    model = SpeechVQVAE(cfg.model)
    classes, v = cfg.model.decoder.classes, cfg.validation
    batches = validation_batches(held_out, v.samples, v.batch_size, v.batches, num_classes=classes)
    save_yaml(cfg, cfg.out / "config.yaml")
    crops = SpeechCrops(speech, cfg.crops, classes)
    model = fit(model, crops, cfg.fit, cfg.out, evaluate=lambda m: conditioning(m, batches), save=save_model)
    save_model(model, cfg.out)
    plot_curves(cfg.out / "metrics.jsonl", cfg.out / "curves.png")


if __name__ == "__main__":
    try:
        main()
    except (AudioError, TrainingError, ValueError, OSError) as error:
        sys.exit(f"error: {error}")
