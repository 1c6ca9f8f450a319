"""Trains a model of codes: accelerate launch recipes/train_prior.py [CONFIG.yaml] [--flags].

A prior over the codes of a trained image model, or with --kind a second level over them: a VQ-VAE of a few latents for
a whole map, or the continuous VAE beside it. The codes are written once, beside `out`, and used by all runs.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from accelerate import PartialState
from accelerate.utils import set_seed

from vqaudio.config import flatten, parse, save_yaml, to_dict
from vqaudio.data.code_maps import CodeBatchConfig, CodeMapBatches, CodeMaps, code_batches
from vqaudio.data.images import open_images
from vqaudio.evaluation.images import code_shares, prior_figures, second_level_figures
from vqaudio.models.image import ImageVQVAE
from vqaudio.models.prior import ImagePrior, ImagePriorConfig
from vqaudio.models.second import CodeMapConfig, CodeMapVAE, CodeMapVQVAE
from vqaudio.models.storage import load_model, save_model
from vqaudio.tokens.images import codes_of
from vqaudio.training import FitConfig, TrainingError, fit
from vqaudio.training.curves import plot_curves

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class TrainPriorConfig:
    """Everything that decides a run."""

    kind: Literal["prior", "vqvae", "vae"] = "prior"
    """what is trained: a PixelCNN prior, or a second level with discrete or continuous latents"""
    out: Path = Path("exp/cifar10/prior")
    """folder of the run; the codes lie beside it, in codes/"""
    model: str = "exp/cifar10/vqvae"
    """the trained image model whose codes are modelled"""
    data: Path = Path("data/cifar10")
    """what `vqaudio prepare` wrote: a folder with train and valid"""
    classes: bool = True
    """whether the prior is conditioned on the images' classes"""
    batches: CodeBatchConfig = field(default_factory=CodeBatchConfig)
    prior: ImagePriorConfig = field(default_factory=ImagePriorConfig)
    second: CodeMapConfig = field(default_factory=CodeMapConfig)
    fit: FitConfig = field(default_factory=FitConfig)


def build(cfg: TrainPriorConfig, maps: CodeMaps) -> ImagePrior | CodeMapVQVAE | CodeMapVAE:
    """The model, for maps of this shape and codebook."""
    if cfg.kind == "prior":
        classes = maps.classes if cfg.classes else ()
        net = replace(cfg.prior.net, codes=maps.codebook_size)
        return ImagePrior(replace(cfg.prior, map_shape=maps.map_shape, classes=classes, model=maps.model, net=net))
    net = replace(cfg.second.net, codes=maps.codebook_size)
    kind = CodeMapVQVAE if cfg.kind == "vqvae" else CodeMapVAE
    return kind(replace(cfg.second, map_shape=maps.map_shape, model=maps.model, net=net))


def main() -> None:
    cfg = parse(TrainPriorConfig, ROOT / "egs/cifar10/conf/prior.yaml", description=__doc__ or "")
    first, codes = load_model(cfg.model, kind=ImageVQVAE), cfg.out.parent / "codes"
    train = codes_of(first, open_images(cfg.data / "train"), codes / "train.safetensors", mirrored=True)
    valid = codes_of(first, open_images(cfg.data / "valid"), codes / "valid.safetensors")
    set_seed(cfg.fit.seed)  # the first weights
    model, shares = build(cfg, train), code_shares(train)

    def evaluate(trained: ImagePrior | CodeMapVQVAE | CodeMapVAE) -> dict[str, float]:
        if isinstance(trained, ImagePrior):
            return prior_figures(trained, valid, shares)
        return second_level_figures(trained, code_batches(valid, 64, labelled=False))

    def save(trained: ImagePrior | CodeMapVQVAE | CodeMapVAE, folder: Path) -> None:
        save_model(trained, folder)
        save_yaml(cfg, folder / "config.yaml")

    facts = flatten(
        {"kind": cfg.kind, "tokens": train.model, "batches": to_dict(cfg.batches), "net": to_dict(model.cfg)}
    )
    batches = CodeMapBatches(train, cfg.batches, labelled=cfg.kind == "prior" and cfg.classes)
    model = fit(model, batches, cfg.fit, cfg.out, evaluate=evaluate, save=save, facts=facts)
    if PartialState().is_main_process:
        save(model, cfg.out)
        plot_curves(cfg.out / "metrics.jsonl", cfg.out / "curves.png")


if __name__ == "__main__":
    try:
        main()
    except (TrainingError, ValueError, OSError) as error:  # ModelError and ConfigError are ValueErrors
        sys.exit(f"error: {error}")
