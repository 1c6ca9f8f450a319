"""Trains a model of codes: accelerate launch recipes/train_prior.py [CONFIG.yaml] [--flags].

The model is an autoregressive prior over the codes of a trained tokenizer or image model or, with --kind vqvae or vae,
the top level of a hierarchical image model, which represents a whole map of codes by a few latents. Speech codes are
read from token files (--tokens), or computed once from the manifests in --data and cached beside `out`, in
codes/FINGERPRINT/, for all runs with the same tokenizer.
"""

from __future__ import annotations

import functools
import hashlib
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from accelerate.utils import set_seed
from torch import nn

from vqaudio.checkpoint import load_model, save_model
from vqaudio.config import fill_in, flatten, parse, save_yaml, to_dict
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
from vqaudio.training import FitConfig, fit, processes, run_recipe
from vqaudio.training.curves import plot_curves
from vqaudio.training.launch import cpu_threads
from vqaudio.training.loader import Loader

ROOT = Path(__file__).parent.parent
VALID_FRACTION = 0.05  # fraction of the utterances in --tokens that is held out if --valid-tokens is not given


@dataclass(frozen=True)
class TrainPriorConfig:
    """Configuration of a training run."""

    kind: Literal["prior", "vqvae", "vae"] = "prior"
    """an autoregressive prior, or, for images, the top level of a hierarchy with discrete or continuous latents"""
    out: Path = Path("exp/prior")
    """folder of the run"""
    model: str = "mini"
    """trained tokenizer or image model whose codes are modelled"""
    data: tuple[Path, ...] = (Path("egs/mini"),)
    """output of `vqaudio prepare`: folders with train.jsonl and valid.jsonl, or one folder of packed images"""
    tokens: tuple[Path, ...] = ()
    """speech only: token files of `vqaudio tokenize` to train on, instead of tokenizing `data`"""
    valid_tokens: tuple[Path, ...] = ()
    """speech only: token files to validate on; by default 5 % of each speaker's utterances in `tokens`"""
    conditional: bool = True
    """condition the prior on the speaker, or on the image's class"""
    crops: CodeCropConfig = field(default_factory=CodeCropConfig)
    """batches of speech codes"""
    batches: CodeMapBatchConfig = field(default_factory=CodeMapBatchConfig)
    """batches of code maps of images"""
    speech: CodePriorConfig = field(default_factory=CodePriorConfig)
    """prior over speech codes"""
    image: ImagePriorConfig = field(default_factory=ImagePriorConfig)
    """prior over code maps of images"""
    hierarchical: CodeMapConfig = field(default_factory=CodeMapConfig)
    """top level of a hierarchical image model (kind vqvae or vae)"""
    fit: FitConfig = field(default_factory=FitConfig)
    """training loop"""


class Task(NamedTuple):
    """A model with its training batches and its evaluation."""

    model: nn.Module
    loader: Loader
    evaluate: Callable[..., dict[str, float]]
    tokens: str  # fingerprint of the model that computes the codes
    codes: str  # hash of the codes that it is trained on


def speech(cfg: TrainPriorConfig, tokenizer: SpeechVQVAE) -> Task:
    """A WaveNet prior over the codes of utterances."""
    names, k, model = tokenizer.speakers if cfg.conditional else (), tokenizer.codebook_size, tokenizer.fingerprint
    known = {"speakers": names, "model": model, "frame_rate": tokenizer.frame_rate, "net.num_classes": k}
    prior_cfg = fill_in(cfg.speech, known, "speech")
    train, valid = (sequences(rows, names, k, model) for rows in token_rows(cfg, tokenizer))
    unigram, hashed = smoothed_unigram(train), hash_of_codes(train.codes, train.speaker_ids)
    prior, crops = CodePrior(prior_cfg), CodeCrops(train, cfg.crops)
    return Task(prior, crops, lambda m: code_prior_metrics(m, valid, unigram), model, hashed)


def token_rows(cfg: TrainPriorConfig, tokenizer: SpeechVQVAE) -> tuple[Iterable[TokenRow], Iterable[TokenRow]]:
    """Training and validation rows, from the token files or from the manifests, which are tokenized once."""
    if cfg.tokens:
        rows = read_token_files(cfg.tokens)
        return (rows, read_token_files(cfg.valid_tokens)) if cfg.valid_tokens else split_rows(rows, VALID_FRACTION)
    if cfg.valid_tokens:
        raise ValueError("valid_tokens needs tokens: give the token files to train on too")
    folders = [path if path.exists() else ROOT / path for path in cfg.data]
    cache = cfg.out.parent / "codes" / tokenizer.fingerprint
    train, valid = (
        tokens_of(tokenizer, [folder / f"{part}.jsonl" for folder in folders], cache / f"{part}.jsonl")
        for part in ("train", "valid")
    )
    return train, valid


def images(cfg: TrainPriorConfig, first: ImageVQVAE) -> Task:
    """A PixelCNN prior over code maps, or the top level of a hierarchical model of them."""
    if cfg.tokens or cfg.valid_tokens:
        raise ValueError("tokens and valid_tokens are for speech; the codes of images are computed from data")
    if len(cfg.data) != 1:
        raise ValueError(f"images must come from one folder, got {len(cfg.data)} in data")
    data, codes = cfg.data[0], cfg.out.parent / "codes" / first.fingerprint
    train = codes_of(first, open_images(data / "train"), codes / "train.safetensors", mirrored=True)
    valid = codes_of(first, open_images(data / "valid"), codes / "valid.safetensors")
    model = build(cfg, train)
    hashed = hash_of_codes([train.codes.numpy()], train.labels.numpy())
    labelled = isinstance(model, ImagePrior) and bool(model.cfg.classes)
    loader = CodeMapBatches(train, cfg.batches, labelled=labelled)
    if isinstance(model, ImagePrior):
        unigram = unigram_probabilities(train)
        return Task(model, loader, lambda m: image_prior_metrics(m, valid, unigram), train.model, hashed)
    batches = functools.partial(code_batches, valid, 64, labelled=False)
    return Task(model, loader, lambda m: hierarchical_metrics(m, batches()), train.model, hashed)


def hash_of_codes(codes: Iterable[np.ndarray], labels: np.ndarray) -> str:
    """SHA-256 of codes and of the speaker or class of each utterance or image: a run continues on the same ones."""
    digest = hashlib.sha256(np.ascontiguousarray(labels).tobytes())
    for each in codes:
        digest.update(np.array(each.shape).tobytes() + np.ascontiguousarray(each).tobytes())
    return digest.hexdigest()


def build(cfg: TrainPriorConfig, maps: CodeMaps) -> ImagePrior | CodeMapVQVAE | CodeMapVAE:
    """The model for these code maps. Raises ConfigError if the configuration states another shape or codebook size."""
    known = {"map_shape": maps.map_shape, "model": maps.model, "net.codebook_size": maps.codebook_size}
    if cfg.kind == "prior":
        several = cfg.conditional and len(maps.classes) > 1  # a single class carries no information
        return ImagePrior(fill_in(cfg.image, {**known, "classes": maps.classes if several else ()}, "image"))
    kind = CodeMapVQVAE if cfg.kind == "vqvae" else CodeMapVAE
    return kind(fill_in(cfg.hierarchical, known, "hierarchical"))


def main() -> None:
    cfg = parse(TrainPriorConfig, ROOT / "egs/mini/conf/prior.yaml", description=__doc__ or "")
    tokenizer = load_model(cfg.model, processes().device, kind=nn.Module)
    set_seed(cfg.fit.seed)  # the first weights
    with cpu_threads(cfg.fit.threads):
        if isinstance(tokenizer, SpeechVQVAE) and cfg.kind == "prior":
            task = speech(cfg, tokenizer)
        elif isinstance(tokenizer, ImageVQVAE):
            task = images(cfg, tokenizer)
        else:
            kinds = "a SpeechVQVAE or an ImageVQVAE" if cfg.kind == "prior" else "an ImageVQVAE"
            raise ValueError(
                f"{cfg.model} is a {type(tokenizer).__name__}, but kind {cfg.kind!r} needs the codes of {kinds}"
            )

    def save(trained: nn.Module, folder: Path) -> None:
        save_model(trained, folder)
        save_yaml(cfg, folder / "config.yaml")

    used = {
        name: to_dict(cfg)[name]
        for name in ("kind", "conditional", "crops", "batches", "speech", "image", "hierarchical")
    }
    facts = flatten({**used, "tokens": task.tokens, "codes": task.codes})
    model = fit(task.model, task.loader, cfg.fit, cfg.out, evaluate=task.evaluate, save=save, facts=facts)
    if processes().is_main_process:
        save(model, cfg.out)
        plot_curves(cfg.out / "metrics.jsonl", cfg.out / "curves.png")
        print(f"the trained model is in {cfg.out} (vqaudio info {cfg.out})")


if __name__ == "__main__":
    sys.exit(run_recipe(main))
