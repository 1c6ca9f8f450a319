"""What images, and the codes of images, cost: bits per dimension and bits per code, on what was not trained on.

Letters: B batch, M codes at each place, h rows, w columns, K codes.
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
from vqaudio.nn.quantizer import VectorQuantizer, perplexity

ImageModel = ImageVQVAE | ImageVAE | ImageVIMCO | ImageGumbel
Z95 = 1.96  # standard errors on either side of a mean that make its 95 % interval


def image_metrics(model: ImageModel, batches: Iterable[dict[str, Tensor]], seed: int = 0) -> dict[str, float]:
    """Batches {"image": (B, 3, H, W) uint8, ...} -> figures, in bits per dimension, averaged over images; float32.

    bits_per_dim: of the bound by which each kind of model is trained, latents included; bits_per_dim_error: half of its
    95 % interval over images. bits_of_latents: the latents' part, bits_of_pixels: the rest. conditioning_gap: by how much the
    pixels cost more with the latents of the image before; 0: the latents are ignored. perplexity, usage and
    codebook_size of a quantizer. uniform_bits: of guessing. VIMCO's bound is of many draws, its latents' part the
    divergence of q from the prior. What is drawn depends on `seed` and on how the images are batched. Raises ValueError
    for fewer than two images.
    """
    images = (batch["image"] for batch in batches)
    return _latent_metrics(model, images, model.decoder.nll, "dim", "pixels", math.log2(LEVELS), seed)


def hierarchical_metrics(
    model: CodeMapVQVAE | CodeMapVAE, batches: Iterable[dict[str, Tensor]], seed: int = 0
) -> dict[str, float]:
    """Batches {"codes": (B, M, h, w)} -> figures as of `image_figures`, in bits per code of the first level."""
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
    """Examples (B, ...), nll(latents, examples) -> (B,) nats; figures in bits per one of the model's dims."""
    check_evaluating(model)
    device = next(model.parameters()).device
    bounds, costs, gaps = [], [], []
    before: Tensor | None = None  # the latents of the last example of the batch before
    with seeded(seed, device), _codes_counted(model) as counts:
        for batch in batches:
            x = batch.to(device)
            z, cost = model.latents(x)
            given = nll(z, x)
            # VIMCO's bound is of many draws; for the others these two are it
            bounds.append(model.neg_elbo(x) if isinstance(model, ImageVIMCO) else given + cost)
            gaps.append(nll(torch.cat([z[-1:] if before is None else before, z[:-1]]), x) - given)
            costs.append(cost)
            before = z[-1:]
    if sum(map(len, bounds)) < 2:
        raise ValueError("give 2 examples or more: latents are exchanged between them, and their spread is told")
    per_one = 1 / (model.cfg.num_dims * math.log(2))
    bits, latents, gap = (torch.cat(parts).double() * per_one for parts in (bounds, costs, gaps))
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
    """Codes that it was not trained on, and the shares (M, K) of the codes it was -> figures, in bits per code.

    bits_per_code: under the prior, with bits_per_code_error, half of its 95 % interval over images. unigram_bits: what
    the codes cost by their shares alone, whatever stands beside them: a prior that is no better has learned nothing.
    label_gap: by how much the codes cost more under another class, where there are several. Raises ValueError for
    fewer than two maps, and for classes that the prior does not know.
    """
    check_evaluating(prior)
    if len(maps) < 2:
        raise ValueError(f"give 2 maps or more, whose spread can be told, got {len(maps)}")
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
    figures = {
        "bits_per_code": found.mean().item(),
        "bits_per_code_error": _confidence_half_width(found),
        "unigram_bits": -unigram.log2()[of_map, maps.codes.long()].mean().item(),
        "uniform_bits": math.log2(maps.codebook_size),
    }
    return figures | ({"label_gap": (torch.cat(gaps) * per_code).mean().item()} if gaps else {})


def unigram_probabilities(maps: CodeMaps) -> Tensor:
    """(M, K): how often each code stands in each map, one added to every count so that no code is impossible."""
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
    """Within, how often each code of the model's quantizer is chosen: (K,), or None for a model without one."""
    quantizer = getattr(model, "quantizer", None)
    if not isinstance(quantizer, VectorQuantizer):
        yield None
        return
    counts = torch.zeros(quantizer.cfg.codebook_size)

    def count(_: nn.Module, __: Any, q: Any) -> None:
        counts.add_(torch.bincount(q.codes.flatten(), minlength=len(counts)).cpu())

    hook = quantizer.register_forward_hook(count)
    try:
        yield counts
    finally:
        hook.remove()


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Within, draws begin with the seed; afterwards they go on as if nothing had been."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
