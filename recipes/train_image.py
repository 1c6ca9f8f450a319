"""Trains an image model: accelerate launch recipes/train_image.py [CONFIG.yaml] [--flags].

Trains a VQ-VAE, or with --kind one of its baselines with the same encoder and decoder, on images prepared with `vqaudio
prepare`, or on the frames of a recording. The model is written to `out`; if `out` contains checkpoints, the run resumes
from the newest one.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from accelerate.utils import set_seed

from vqaudio.checkpoint import save_model
from vqaudio.config import flatten, parse, save_yaml, to_dict
from vqaudio.images.baselines import ImageGumbel, ImageVAE, ImageVIMCO
from vqaudio.images.data import ImageCropConfig, ImageCrops, centre_batches, open_images
from vqaudio.images.metrics import ImageModel, image_metrics
from vqaudio.images.vqvae import ImageConfig, ImageVQVAE
from vqaudio.training import FitConfig, fit, processes, run_recipe
from vqaudio.training.curves import plot_curves
from vqaudio.video.recording import images_folder

ROOT = Path(__file__).parent.parent
KINDS = {"vqvae": ImageVQVAE, "vae": ImageVAE, "vimco": ImageVIMCO, "gumbel": ImageGumbel}


@dataclass(frozen=True)
class TrainImageConfig:
    """Configuration of a training run."""

    kind: Literal["vqvae", "vae", "vimco", "gumbel"] = "vqvae"
    """model: VQ-VAE, continuous VAE, VIMCO or Gumbel-softmax"""
    out: Path = Path("exp/cifar10/vqvae")
    """output folder"""
    data: Path = Path("data/cifar10")
    """folder with the splits train and valid, from `vqaudio prepare`"""
    valid_images: int | None = None
    """number of validation images (centre crops); default: all images of valid"""
    crops: ImageCropConfig = field(default_factory=ImageCropConfig)
    """random crops; their size is model.size"""
    model: ImageConfig = field(default_factory=ImageConfig)
    fit: FitConfig = field(default_factory=FitConfig)

    def __post_init__(self) -> None:
        if self.crops.size not in (ImageCropConfig().size, self.model.size):
            raise ValueError(
                f"crops.size must equal model.size ({self.model.size}), got {self.crops.size}; set only model.size"
            )
        object.__setattr__(self, "crops", replace(self.crops, size=self.model.size))


def main() -> None:
    cfg = parse(TrainImageConfig, ROOT / "egs/cifar10/conf/vqvae.yaml", description=__doc__ or "")
    folder = images_folder(cfg.data)
    train = open_images(folder / "train")
    crops = ImageCrops(train, cfg.crops)
    valid = open_images(folder / "valid")
    if cfg.valid_images in (0, 1):
        raise ValueError(f"valid_images must be at least 2, got {cfg.valid_images}; leave it out to use all")
    if len(valid) < 2:
        raise ValueError(f"at least 2 validation images are needed, got {len(valid)}; prepare with a larger --valid")
    held_out = list(centre_batches(valid, cfg.model.size, 32, cfg.valid_images))
    set_seed(cfg.fit.seed)  # weight initialisation
    model: ImageModel = KINDS[cfg.kind](cfg.model)

    def save(trained: ImageModel, folder: Path) -> None:
        save_model(trained, folder)
        save_yaml(cfg, folder / "config.yaml")

    facts = flatten({name: to_dict(cfg)[name] for name in ("kind", "crops", "model")})
    facts["images"] = train.content_hash()  # not the path: the same run continues wherever its data lie
    model = fit(model, crops, cfg.fit, cfg.out, evaluate=lambda m: image_metrics(m, held_out), save=save, facts=facts)
    if processes().is_main_process:
        save(model, cfg.out)
        plot_curves(cfg.out / "metrics.jsonl", cfg.out / "curves.png")
        print(f"the trained model is in {cfg.out} (vqaudio info {cfg.out})")


if __name__ == "__main__":
    sys.exit(run_recipe(main))
