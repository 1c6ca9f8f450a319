"""Evaluation of an image model on a corpus: metrics in report.json, and PNG files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn
from tqdm import tqdm

from vqaudio.atomic import check_output_folder, save_json
from vqaudio.images.codes import CodeMaps, write_codes
from vqaudio.images.corpora import NO_CLASSES
from vqaudio.images.data import centre_batches, open_images
from vqaudio.images.hierarchical import CodeMapVAE, CodeMapVQVAE
from vqaudio.images.metrics import (
    ImageModel,
    hierarchical_metrics,
    image_metrics,
    image_prior_metrics,
    seeded,
    unigram_probabilities,
)
from vqaudio.images.pictures import check_matplotlib, grid, plot_usage, save_png
from vqaudio.images.prior import ImagePrior
from vqaudio.images.vqvae import ImageVQVAE
from vqaudio.sampling.config import SamplingConfig, check_count
from vqaudio.training.health import TRAINED, HealthConfig, assess

REPORT = "report.json"
BATCH_SIZE = 64
NUM_RECONSTRUCTIONS = 16  # shown in reconstructions.png
COLUMNS, MAX_CLASS_ROWS = 8, 10  # size of the sample grids
TEMPERATURES = (0.7, 0.85, 1.0)
HIERARCHICAL_HEALTH = HealthConfig(
    min_steps=0, min_conditioning_gap=0.02
)  # a few top-level latents carry few bits compared to the bottom-level codes


def evaluate_images(
    model: nn.Module, data: Path, out: Path, prior: ImagePrior | None = None, *, seed: int = 0, overwrite: bool = False
) -> dict[str, float | str]:
    """The metrics of `image_metrics` on the images in `data`/test, with their verdict, and PNG files.

    reconstructions.png: originals above their reconstructions; usage.png: relative frequency of each code. With a prior
    over its codes: `image_prior_metrics`, samples at several temperatures (samples-T.png), and a row of samples of each
    class (classes.png). Raises ValueError for a model or prior that does not fit, FileNotFoundError without images.
    """
    if not isinstance(model, ImageModel):
        raise ValueError(
            f"a {type(model).__name__} cannot be evaluated alone; give the model of its codes with --model"
        )
    if prior is not None:
        _check_fingerprint(prior, model)
    names = [REPORT, "reconstructions.png"]
    names += ["usage.png"] if isinstance(model, ImageVQVAE) else []
    check_matplotlib()
    if prior is not None:
        names += [f"samples-{t:g}.png" for t in TEMPERATURES] + (["classes.png"] if prior.cfg.classes else [])
    check_output_folder(out, names, overwrite)
    images = open_images(data / "test")

    def batches() -> Any:
        return centre_batches(images, model.cfg.size, BATCH_SIZE)

    found = image_metrics(model, batches(), seed)
    metrics: dict[str, float | str] = {**found, "verdict": str(assess(found, 0, TRAINED))}
    _save_reconstructions(model, next(iter(batches()))["image"][:NUM_RECONSTRUCTIONS], out, overwrite)
    if isinstance(model, ImageVQVAE):
        device = model.device
        codes = torch.cat([model.encode(batch["image"].to(device)).cpu() for batch in batches()])
        counts = torch.bincount(codes.flatten(), minlength=model.codebook_size)
        plot_usage(out / "usage.png", counts, overwrite=overwrite)
        if prior is not None:
            labels = torch.from_numpy(images.labels)
            maps = CodeMaps(codes, labels, images.classes, model.codebook_size, model.fingerprint, source="test")
            metrics |= _evaluate_prior(prior, model, maps, data)
            _save_samples(prior, model, out, seed, overwrite)
    save_json(out / REPORT, {**metrics, "images": len(images)}, overwrite=overwrite)
    return metrics


def evaluate_hierarchical(
    model: CodeMapVQVAE | CodeMapVAE,
    bottom_model: ImageVQVAE,
    data: Path,
    out: Path,
    *,
    seed: int = 0,
    overwrite: bool = False,
) -> dict[str, float | str]:
    """The metrics of `hierarchical_metrics` on the images in `data`/test, their verdict, and a PNG file.

    samples.png: originals, their bottom-level reconstructions, and images sampled from their top-level latents. Raises
    ValueError for a mismatching bottom-level model, FileNotFoundError without images.
    """
    _check_fingerprint(model, bottom_model)
    check_output_folder(out, [REPORT, "samples.png"], overwrite)
    images = open_images(data / "test")
    device = bottom_model.device
    batches = [batch["image"] for batch in centre_batches(images, bottom_model.cfg.size, BATCH_SIZE)]
    codes = [bottom_model.encode(batch.to(device)) for batch in batches]
    found = hierarchical_metrics(model, ({"codes": batch} for batch in codes), seed)
    metrics: dict[str, float | str] = {**found, "verdict": str(assess(found, 0, HIERARCHICAL_HEALTH))}
    shown = codes[0][:NUM_RECONSTRUCTIONS]
    with seeded(seed, device), torch.no_grad():
        z, _ = model.latents(shown)
    drawn = model.sample(z, generator=[_generator(seed, -1, number) for number in range(len(shown))])
    rows = [batches[0][:NUM_RECONSTRUCTIONS], _decode(bottom_model, shown), _decode(bottom_model, drawn)]
    save_png(out / "samples.png", _stacked_rows(rows, bottom_model), overwrite=overwrite)
    save_json(out / REPORT, {**metrics, "images": len(images)}, overwrite=overwrite)
    return metrics


def sample_images(
    prior: ImagePrior,
    model: ImageVQVAE,
    out: Path,
    classes: Sequence[str],
    count: int,
    sampling: SamplingConfig = SamplingConfig(),
    *,
    overwrite: bool = False,
) -> list[Path]:
    """Sample `count` images of each class (default: all classes) as PNG files, with codes in codes.safetensors."""
    _check_fingerprint(prior, model)
    check_count(count)
    if classes and not prior.cfg.classes:
        raise ValueError(f"this prior is not class-conditional, got {', '.join(classes)}; leave --label out")
    chosen = tuple(dict.fromkeys(classes)) or prior.cfg.classes
    for name in chosen:
        prior.label_id(name)
    names = [f"{name}-{i}.png" for name in chosen for i in range(count)] or [f"{i}.png" for i in range(count)]
    check_output_folder(out, [*names, "codes.safetensors"], overwrite)
    labels = [prior.label_id(name) for name in chosen] or [None]
    wanted = [(label, number) for label in labels for number in range(count)]
    codes = _sample_codes(prior, wanted, sampling)
    for name, image in zip(names, _decode(model, codes), strict=True):
        save_png(out / name, image, overwrite=overwrite)
    ids = torch.tensor([label or 0 for label, _ in wanted])
    classes = prior.cfg.classes or NO_CLASSES
    maps = CodeMaps(codes, ids, classes, model.codebook_size, model.fingerprint, source="sampled")
    write_codes(out / "codes.safetensors", maps)
    return [out / name for name in names]


def _sample_codes(
    prior: ImagePrior,
    wanted: Sequence[tuple[int | None, int]],
    sampling: SamplingConfig,
) -> Tensor:
    """(class or None, number) of each image -> codes (B, M, h, w), a function of these and `sampling`."""
    device, codes = prior.net.embed.weight.device, []
    bar = tqdm(total=len(wanted), unit="img", disable=None)
    for start in range(0, len(wanted), BATCH_SIZE):
        part = wanted[start : start + BATCH_SIZE]
        known = [label for label, _ in part if label is not None]
        codes.append(
            prior.sample(
                len(part),
                torch.tensor(known, device=device) if known else None,
                sampling,
                generator=[_generator(sampling.seed, -1 if label is None else label, number) for label, number in part],
            ).cpu()
        )
        bar.update(len(part))
    bar.close()
    return torch.cat(codes)


def _generator(seed: int, label: int, number: int) -> torch.Generator:
    state = np.random.SeedSequence([seed, label + 1, number]).generate_state(1)
    return torch.Generator().manual_seed(int(state[0]))


def _decode(model: ImageVQVAE, codes: Tensor) -> Tensor:
    """Codes (B, M, h, w) -> (B, 3, H, W) uint8 on the CPU."""
    device = model.device
    return torch.cat([model.decode(part.to(device)).cpu() for part in codes.split(BATCH_SIZE)])


def _check_fingerprint(over: ImagePrior | CodeMapVQVAE | CodeMapVAE, model: nn.Module) -> None:
    if not isinstance(model, ImageVQVAE):
        raise ValueError(f"the {type(over).__name__} needs an ImageVQVAE, got a {type(model).__name__}")
    if over.cfg.model != model.fingerprint:
        raise ValueError(
            f"the {type(over).__name__} was trained on codes of model {over.cfg.model}, this is model "
            f"{model.fingerprint}; give the model that it was trained with"
        )


def _evaluate_prior(prior: ImagePrior, model: ImageVQVAE, maps: CodeMaps, data: Path) -> dict[str, float | str]:
    """Metrics of the prior on held-out codes, and the bits per dimension that it saves over a uniform prior.

    A class-conditional prior is given the true classes.
    """
    device = model.device
    train = centre_batches(open_images(data / "train"), model.cfg.size, BATCH_SIZE)
    codes = torch.cat([model.encode(batch["image"].to(device)).cpu() for batch in train])
    unigram = unigram_probabilities(replace(maps, codes=codes))
    metrics = image_prior_metrics(prior, maps, unigram)
    saved = metrics["uniform_bits"] - metrics["bits_per_code"]  # of each code
    return {
        **{f"prior_{name}": value for name, value in metrics.items()},
        "prior_verdict": str(assess(metrics, 0, TRAINED)),
        "bits_saved_by_prior": saved * maps.codes[0].numel() / model.cfg.num_dims,
    }


def _save_reconstructions(model: ImageModel, images: Tensor, out: Path, overwrite: bool) -> None:
    device = next(model.parameters()).device
    with seeded(0, device), torch.no_grad():
        z, _ = model.latents(images.to(device))
        made = model.decoder.expected(z).cpu()
    save_png(out / "reconstructions.png", _stacked_rows([images, made], model), overwrite=overwrite)


def _stacked_rows(rows: list[Tensor], model: ImageModel) -> Tensor:
    """Lists of images (N, 3, H, W) -> a grid with corresponding images below each other."""
    columns = min(COLUMNS, len(rows[0]))
    whole = len(rows[0]) // columns * columns
    shown = rearrange(torch.stack([row[:whole] for row in rows]), "n (r c) ... -> (r n c) ...", c=columns)
    return grid(shown, columns, _pixel_scale(model))


def _save_samples(prior: ImagePrior, model: ImageVQVAE, out: Path, seed: int, overwrite: bool) -> None:
    classes = len(prior.cfg.classes)
    wanted = [(i % classes if classes else None, i) for i in range(COLUMNS**2)]
    for temperature in TEMPERATURES:
        images = _decode(model, _sample_codes(prior, wanted, SamplingConfig(temperature=temperature, seed=seed)))
        save_png(out / f"samples-{temperature:g}.png", grid(images, COLUMNS, _pixel_scale(model)), overwrite=overwrite)
    if classes:
        rows = [(label, number) for label in range(min(classes, MAX_CLASS_ROWS)) for number in range(COLUMNS)]
        images = _decode(model, _sample_codes(prior, rows, SamplingConfig(seed=seed)))
        save_png(out / "classes.png", grid(images, COLUMNS, _pixel_scale(model)), overwrite=overwrite)


def _pixel_scale(model: ImageModel) -> int:
    return max(1, 64 // model.cfg.size)
