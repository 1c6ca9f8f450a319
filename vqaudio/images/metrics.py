"""Held-out likelihood of images and of their codes, in bits per dimension and bits per code.

Shapes: B batch, M codes per position, h x w positions, K codes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from vqaudio.images.baselines import ImageGumbel, ImageVAE, ImageVIMCO
from vqaudio.images.codes import CodeMaps
from vqaudio.images.hierarchical import CodeMapVAE, CodeMapVQVAE
from vqaudio.images.likelihoods import LEVELS
from vqaudio.images.prior import ImagePrior
from vqaudio.images.vqvae import ImageVQVAE
from vqaudio.nn.modes import check_evaluating
from vqaudio.nn.quantizer import Quantizer, perplexity

ImageModel = ImageVQVAE | ImageVAE | ImageVIMCO | ImageGumbel
Z95 = 1.96  # half-width of a 95 % interval of the mean, in standard errors


def image_metrics(model: ImageModel, batches: Iterable[dict[str, Tensor]], seed: int = 0) -> dict[str, float]:
    """Batches {"image": (B, 3, H, W) uint8, ...} -> metrics averaged over images, in bits per dimension.

    bits_per_dim          negative bound on the log-likelihood that the model is trained with (VIMCO: multi-sample)
    bits_per_dim_error    half-width of its 95 % interval over images
    bits_of_latents       rate of the latents; for VIMCO the KL divergence of the posterior from the prior
    bits_of_pixels        NLL of the pixels given the latents
    conditioning_gap      increase of the NLL of the pixels with the latents of another image; 0: posterior collapse
    perplexity, usage, codebook_size    of a quantizer
    uniform_bits          bits of a uniform distribution over pixel values, plus the rate of the latents

    Samples depend on `seed` and on the batches. Raises ValueError for fewer than two images.
    """
    images = (batch["image"] for batch in batches)
    return _latent_metrics(model, images, model.decoder.nll, "dim", "pixels", math.log2(LEVELS), seed)


def hierarchical_metrics(
    model: CodeMapVQVAE | CodeMapVAE, batches: Iterable[dict[str, Tensor]], seed: int = 0
) -> dict[str, float]:
    """Batches {"codes": (B, M, h, w)} -> metrics as in `image_metrics`, in bits per bottom-level code."""
    maps = (batch["codes"] for batch in batches)
    return _latent_metrics(model, maps, model.nll, "code", "codes", math.log2(model.cfg.net.codebook_size), seed)


@torch.no_grad()
def _latent_metrics(
    model: ImageModel | CodeMapVQVAE | CodeMapVAE,
    batches: Iterable[Tensor],
    nll: Callable[[Tensor, Tensor], Tensor],
    per: str,
    of: str,
    uniform: float,
    seed: int,
) -> dict[str, float]:
    """Examples (B, ...), nll(latents, examples) -> (B,) nats; metrics in bits per dimension."""
    check_evaluating(model)
    device = next(model.parameters()).device
    bounds, costs, gaps = [], [], []
    previous: Tensor | None = None  # latents of the last example of the previous batch
    with seeded(seed, device), _codes_counted(model) as counts:
        for batch in batches:
            x = batch.to(device)
            z, cost = model.latents(x)
            conditional = nll(z, x)
            # VIMCO has a multi-sample bound; for the other models NLL + KL is the negative ELBO
            bounds.append(model.neg_elbo(x) if isinstance(model, ImageVIMCO) else conditional + cost)
            gaps.append(nll(torch.cat([z[-1:] if previous is None else previous, z[:-1]]), x) - conditional)
            costs.append(cost)
            previous = z[-1:]
    if sum(map(len, bounds)) < 2:
        raise ValueError("at least 2 examples are needed, because latents are exchanged between them")
    bits_per_nat = 1 / (model.cfg.num_dims * math.log(2))
    bits, latents, gap = (torch.cat(parts).double() * bits_per_nat for parts in (bounds, costs, gaps))
    return {
        f"bits_per_{per}": bits.mean().item(),
        f"bits_per_{per}_error": _confidence_half_width(bits),
        f"bits_of_{of}": (bits - latents).mean().item(),
        "bits_of_latents": latents.mean().item(),
        "conditioning_gap": gap.mean().item(),
        "uniform_bits": uniform + latents.mean().item(),
        **_usage(counts),
    }


@torch.no_grad()
def image_prior_metrics(prior: ImagePrior, maps: CodeMaps, unigram: Tensor, batch_size: int = 64) -> dict[str, float]:
    """Held-out codes, and unigram probabilities (M, K) of the training codes -> metrics in bits per code.

    bits_per_code         NLL under the prior
    bits_per_code_error   half-width of its 95 % interval over images
    unigram_bits          NLL under the unigram probabilities
    uniform_bits          log2 K
    label_gap             increase of the NLL with a wrong class label, if there are several classes

    Raises ValueError for fewer than two maps, and for classes that are not in the prior.
    """
    check_evaluating(prior, "prior")
    if len(maps) < 2:
        raise ValueError(f"at least 2 maps are needed, got {len(maps)}")
    known = len(prior.cfg.classes)
    own = torch.tensor([prior.label_id(name) for name in maps.classes]) if known else torch.zeros(0)
    device = next(prior.parameters()).device
    nats, gaps = [], []
    for rows in torch.arange(len(maps)).split(batch_size):
        codes = maps.codes[rows].to(device).long()
        label = own[maps.labels[rows]].to(device) if known else None
        nats.append(prior.nll(codes, label))
        if label is not None and known > 1:
            gaps.append(prior.nll(codes, (label + 1) % known) - nats[-1])
    per_code = 1 / (math.prod(maps.map_shape) * math.log(2))
    found = torch.cat(nats) * per_code
    of_map = torch.arange(maps.codes.shape[1])[None, :, None, None]
    metrics = {
        "bits_per_code": found.mean().item(),
        "bits_per_code_error": _confidence_half_width(found),
        "unigram_bits": -unigram.log2()[of_map, maps.codes.long()].mean().item(),
        "uniform_bits": math.log2(maps.codebook_size),
    }
    return metrics | ({"label_gap": (torch.cat(gaps) * per_code).mean().item()} if gaps else {})


def unigram_probabilities(maps: CodeMaps) -> Tensor:
    """(M, K): relative frequency of each code in each map, with add-one smoothing."""
    counts = torch.stack([torch.bincount(m.flatten(), minlength=maps.codebook_size) for m in maps.codes.unbind(1)]) + 1
    return counts / counts.sum(1, keepdim=True)


def _confidence_half_width(values: Tensor) -> float:
    return Z95 * values.std().item() / math.sqrt(len(values))


def _usage(counts: Tensor | None) -> dict[str, float]:
    if counts is None:
        return {}
    return {
        "perplexity": perplexity(counts).item(),
        "usage": (counts > 0).float().mean().item(),
        "codebook_size": float(len(counts)),
    }


@contextmanager
def _codes_counted(model: nn.Module) -> Iterator[Tensor | None]:
    """Context manager: counts (K,) of the codes chosen by the model's quantizer, or None without a quantizer."""
    quantizer = getattr(model, "quantizer", None)
    if quantizer is None:
        yield None
        return
    assert isinstance(quantizer, Quantizer) and isinstance(quantizer, nn.Module)
    counts = torch.zeros(quantizer.codebook_size)

    def count(_: nn.Module, __: Any, q: Any) -> None:
        counts.add_(torch.bincount(q.codes.flatten(), minlength=len(counts)).cpu())

    hook = quantizer.register_forward_hook(count)
    try:
        yield counts
    finally:
        hook.remove()


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Context manager: seed the random number generators, and restore their state afterwards."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
