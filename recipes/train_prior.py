"""Trains a model of codes: accelerate launch recipes/train_prior.py [CONFIG.yaml] [--flags].

An autoregressive prior over the codes of a trained tokenizer or image model; with --kind vqvae or vae a hierarchical
model over an image model's codes: a few latents for a whole map of codes. Speech codes come from token files
(--tokens), or from the manifests in --data, which are tokenized once: the tokens are kept beside `out`, in
codes/FINGERPRINT/, for all runs over the same tokenizer.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple

from accelerate.utils import set_seed
from torch import nn

from vqaudio.checkpoint import load_model, save_model
from vqaudio.config import flatten, parse, save_yaml, to_dict
from vqaudio.images.codes import CodeMapBatchConfig, CodeMapBatches, CodeMaps, code_batches
from vqaudio.images.data import open_images
from vqaudio.images.encoding import codes_of
from vqaudio.images.hierarchical import CodeMapConfig, CodeMapVAE, CodeMapVQVAE
from vqaudio.images.metrics import hierarchical_metrics, image_prior_metrics, unigram_probabilities
from vqaudio.images.prior import ImagePrior, ImagePriorConfig
from vqaudio.images.vqvae import ImageVQVAE
from vqaudio.metrics.bitrate import smoothed_unigram
from vqaudio.metrics.prior import code_prior_metrics
from vqaudio.speech.model import SpeechVQVAE
from vqaudio.speech.prior import CodePrior, CodePriorConfig
from vqaudio.tokens.bulk import tokens_of
from vqaudio.tokens.chunks import CodeCropConfig, CodeCrops, sequences, split_rows
from vqaudio.tokens.files import read_token_files
from vqaudio.tokens.rows import TokenRow
from vqaudio.training import FitConfig, TrainingError, fit, processes
from vqaudio.training.curves import plot_curves
from vqaudio.training.launch import cpu_threads
from vqaudio.training.loader import Loader

ROOT = Path(__file__).parent.parent
VALID_FRACTION = 0.05  # of the utterances of --tokens, where no --valid-tokens are named


@dataclass(frozen=True)
class TrainPriorConfig:
    """Everything that decides a run."""

    kind: Literal["prior", "vqvae", "vae"] = "prior"
    """a prior, or over the codes of images a second level with discrete or continuous latents"""
    out: Path = Path("exp/prior")
    """folder of the run"""
    model: str = "mini"
    """the trained tokenizer or image model whose codes are modelled"""
    data: tuple[Path, ...] = (Path("egs/mini"),)
    """what `vqaudio prepare` wrote: folders with the manifests train.jsonl and valid.jsonl, or one of packed images"""
    tokens: tuple[Path, ...] = ()
    """speech: token files of `vqaudio tokenize` to train on, instead of tokenizing `data`"""
    valid_tokens: tuple[Path, ...] = ()
    """speech: token files to validate on; without them, 5 % of each speaker's utterances in `tokens`"""
    conditional: bool = True
    """whether the prior is told who speaks, or the image's class"""
    crops: CodeCropConfig = field(default_factory=CodeCropConfig)
    """batches of speech codes"""
    batches: CodeMapBatchConfig = field(default_factory=CodeMapBatchConfig)
    """batches of maps of codes"""
    speech: CodePriorConfig = field(default_factory=CodePriorConfig)
    image: ImagePriorConfig = field(default_factory=ImagePriorConfig)
    hierarchical: CodeMapConfig = field(default_factory=CodeMapConfig)
    fit: FitConfig = field(default_factory=FitConfig)


class Task(NamedTuple):
    """What is trained, on what, and how it is judged."""

    model: nn.Module
    loader: Loader
    evaluate: Callable[..., dict[str, float]]
    tokens: str  # fingerprint of the model whose codes they are


def speech(cfg: TrainPriorConfig, tokenizer: SpeechVQVAE) -> Task:
    """A WaveNet over the codes of utterances."""
    names, k, model = tokenizer.speakers if cfg.conditional else (), tokenizer.codebook_size, tokenizer.fingerprint
    train, valid = (sequences(rows, names, k, model) for rows in token_rows(cfg, tokenizer))
    net = replace(cfg.speech.net, num_classes=k)
    over = replace(cfg.speech, speakers=names, model=model, frame_rate=tokenizer.frame_rate, net=net)
    unigram = smoothed_unigram(train)
    return Task(CodePrior(over), CodeCrops(train, cfg.crops), lambda m: code_prior_metrics(m, valid, unigram), model)


def token_rows(cfg: TrainPriorConfig, tokenizer: SpeechVQVAE) -> tuple[Iterable[TokenRow], Iterable[TokenRow]]:
    """Rows to train and to validate on: of the token files, or of the manifests, tokenized once."""
    if cfg.tokens:
        rows = read_token_files(cfg.tokens)
        return (rows, read_token_files(cfg.valid_tokens)) if cfg.valid_tokens else split_rows(rows, VALID_FRACTION)
    if cfg.valid_tokens:
        raise ValueError("valid_tokens needs tokens: name the token files to train on too")
    folders = [path if path.exists() else ROOT / path for path in cfg.data]
    cache = cfg.out.parent / "codes" / tokenizer.fingerprint
    train, valid = (
        tokens_of(tokenizer, [folder / f"{part}.jsonl" for folder in folders], cache / f"{part}.jsonl")
        for part in ("train", "valid")
    )
    return train, valid


def images(cfg: TrainPriorConfig, first: ImageVQVAE) -> Task:
    """A PixelCNN over maps of codes, or a second level of latents beneath one."""
    if cfg.tokens or cfg.valid_tokens:
        raise ValueError("tokens and valid_tokens are for speech; the codes of images are computed from data")
    if len(cfg.data) != 1:
        raise ValueError(f"the codes of images are of one prepared folder, got {len(cfg.data)} in data")
    data, codes = cfg.data[0], cfg.out.parent / "codes" / first.fingerprint
    train = codes_of(first, open_images(data / "train"), codes / "train.safetensors", mirrored=True)
    valid = codes_of(first, open_images(data / "valid"), codes / "valid.safetensors")
    model = build(cfg, train)
    labelled = isinstance(model, ImagePrior) and bool(model.cfg.classes)
    loader = CodeMapBatches(train, cfg.batches, labelled=labelled)
    if isinstance(model, ImagePrior):
        unigram = unigram_probabilities(train)
        return Task(model, loader, lambda m: image_prior_metrics(m, valid, unigram), train.model)
    return Task(model, loader, lambda m: hierarchical_metrics(m, code_batches(valid, 64, labelled=False)), train.model)


def build(cfg: TrainPriorConfig, maps: CodeMaps) -> ImagePrior | CodeMapVQVAE | CodeMapVAE:
    """The model, for maps of this shape and codebook."""
    if cfg.kind == "prior":
        several = cfg.conditional and len(maps.classes) > 1  # of a single one there is nothing to say
        classes, net = maps.classes if several else (), replace(cfg.image.net, codebook_size=maps.codebook_size)
        return ImagePrior(replace(cfg.image, map_shape=maps.map_shape, classes=classes, model=maps.model, net=net))
    net = replace(cfg.hierarchical.net, codebook_size=maps.codebook_size)
    kind = CodeMapVQVAE if cfg.kind == "vqvae" else CodeMapVAE
    return kind(replace(cfg.hierarchical, map_shape=maps.map_shape, model=maps.model, net=net))


def main() -> None:
    cfg = parse(TrainPriorConfig, ROOT / "egs/mini/conf/prior.yaml", description=__doc__ or "")
    over = load_model(cfg.model, processes().device, kind=nn.Module)
    set_seed(cfg.fit.seed)  # the first weights
    with cpu_threads(cfg.fit.threads):
        if isinstance(over, SpeechVQVAE) and cfg.kind == "prior":
            task = speech(cfg, over)
        elif isinstance(over, ImageVQVAE):
            task = images(cfg, over)
        else:
            kinds = "a SpeechVQVAE or an ImageVQVAE" if cfg.kind == "prior" else "an ImageVQVAE"
            raise ValueError(f"{cfg.model} is a {type(over).__name__}; kind {cfg.kind!r} is over codes of {kinds}")

    def save(trained: nn.Module, folder: Path) -> None:
        save_model(trained, folder)
        save_yaml(cfg, folder / "config.yaml")

    used = {
        name: to_dict(cfg)[name]
        for name in ("kind", "conditional", "crops", "batches", "speech", "image", "hierarchical")
    }
    facts = flatten({**used, "tokens": task.tokens})
    model = fit(task.model, task.loader, cfg.fit, cfg.out, evaluate=task.evaluate, save=save, facts=facts)
    if processes().is_main_process:
        save(model, cfg.out)
        plot_curves(cfg.out / "metrics.jsonl", cfg.out / "curves.png")


if __name__ == "__main__":
    try:
        main()
    except (TrainingError, ValueError, OSError) as error:  # ModelError and ConfigError are ValueErrors
        sys.exit(f"error: {error}")
