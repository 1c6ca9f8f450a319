"""Trains a video prior: accelerate launch recipes/train_video.py [CONFIG.yaml] [--flags].

The prior predicts the codes of a frame from those of the frames before and the actions. The frames, recorded with
`vqaudio prepare vizdoom`, are encoded once by a trained image model (recipes/train_image.py); their codes are cached
beside `out`, in codes/FINGERPRINT/. If `out` contains checkpoints, the run resumes from the newest one.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate.utils import set_seed

from vqaudio.checkpoint import load_model, save_model
from vqaudio.config import fill_in, flatten, parse, save_yaml, to_dict
from vqaudio.images.data import open_images
from vqaudio.images.encoding import codes_of
from vqaudio.images.vqvae import ImageVQVAE
from vqaudio.training import FitConfig, fit, processes, run_recipe
from vqaudio.training.curves import plot_curves
from vqaudio.training.launch import cpu_threads
from vqaudio.video.crops import CodeSequences, VideoCropConfig, VideoCrops, code_sequences
from vqaudio.video.metrics import fit_baselines, video_prior_metrics
from vqaudio.video.prior import VideoPrior, VideoPriorConfig
from vqaudio.video.recording import Recording, images_folder, open_recording
from vqaudio.video.report import check_recording

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class TrainVideoConfig:
    """Configuration of a training run."""

    out: Path = Path("exp/vizdoom/prior")
    """folder of the run"""
    model: str = "exp/vizdoom/frames"
    """trained image model whose codes are modelled, with one code per position"""
    data: Path = Path("data/vizdoom")
    """recording of `vqaudio prepare vizdoom`"""
    valid_frames: int = 256
    """number of validation frames, evenly spaced"""
    crops: VideoCropConfig = field(default_factory=VideoCropConfig)
    """windows of the recorded episodes"""
    prior: VideoPriorConfig = field(default_factory=VideoPriorConfig)
    fit: FitConfig = field(default_factory=FitConfig)

    def __post_init__(self) -> None:
        if self.valid_frames < 2:
            raise ValueError(f"valid_frames must be at least 2, got {self.valid_frames}")


def sequences_of(cfg: TrainVideoConfig, recording: Recording, model: ImageVQVAE, split: str) -> CodeSequences:
    """The codes of all frames of a split, encoded once."""
    images = open_images(images_folder(cfg.data) / split)
    maps = codes_of(model, images, cfg.out.parent / "codes" / model.fingerprint / f"{split}.safetensors")
    return code_sequences(recording, split, maps)


def completed(cfg: VideoPriorConfig, recording: Recording, model: ImageVQVAE) -> VideoPriorConfig:
    """With the actions of the recording and the codes of the model. Raises ConfigError if `cfg` states others."""
    known = {
        "actions": recording.actions,
        "map_shape": model.cfg.map_shape[1:],
        "model": model.fingerprint,
        "past.code_dim": model.cfg.coder.dim,
        "net.codebook_size": model.codebook_size,
    }
    return fill_in(cfg, known, "prior")


def build(cfg: VideoPriorConfig, model: ImageVQVAE) -> VideoPrior:
    """A new prior, whose embeddings of codes start from the codebook of the model."""
    prior = VideoPrior(cfg)
    every_code = torch.arange(model.codebook_size, device=model.device)[None]
    prior.initialise_embeddings(model.quantizer.decode(every_code)[0].T.cpu())
    return prior


def main() -> None:
    cfg = parse(TrainVideoConfig, ROOT / "egs/vizdoom/conf/prior.yaml", description=__doc__ or "")
    model, recording = load_model(cfg.model, processes().device, kind=ImageVQVAE), open_recording(cfg.data)
    check_recording(recording, model)
    prior_cfg = completed(cfg.prior, recording, model)
    with cpu_threads(cfg.fit.threads):
        train, valid = (sequences_of(cfg, recording, model, split) for split in ("train", "valid"))
    set_seed(cfg.fit.seed)  # weight initialisation
    prior = build(prior_cfg, model)
    crops, baselines = VideoCrops(train, cfg.crops, prior.cfg.context), fit_baselines(train)

    def save(trained: VideoPrior, folder: Path) -> None:
        save_model(trained, folder)
        save_yaml(cfg, folder / "config.yaml")

    def evaluate(trained: VideoPrior) -> dict[str, float]:
        return video_prior_metrics(trained, valid, baselines, cfg.valid_frames)

    facts = flatten({name: to_dict(cfg)[name] for name in ("crops", "prior")})
    facts |= {"tokens": model.fingerprint, "codes": train.content_hash()}
    prior = fit(prior, crops, cfg.fit, cfg.out, evaluate=evaluate, save=save, facts=facts)
    if processes().is_main_process:
        save(prior, cfg.out)
        plot_curves(cfg.out / "metrics.jsonl", cfg.out / "curves.png")
        print(f"the trained prior is in {cfg.out} (vqaudio info {cfg.out})")


if __name__ == "__main__":
    sys.exit(run_recipe(main))
