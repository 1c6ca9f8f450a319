"""Properties of image models and priors, for `vqaudio info`."""

from __future__ import annotations

import math

from torch import nn

from vqaudio.images.hierarchical import CodeMapVAE, CodeMapVQVAE
from vqaudio.images.prior import ImagePrior
from vqaudio.images.vqvae import ImageVQVAE


def image_facts(model: nn.Module) -> dict[str, str]:
    """Name -> property of an image model or prior: class, parameters, image size, codes, fingerprint."""
    facts = {"model": type(model).__name__, "parameters": _millions(model)}
    if isinstance(model, ImageVQVAE):
        maps, height, width = model.cfg.map_shape
        bits = maps * height * width * math.log2(model.codebook_size)
        facts |= {
            "fingerprint": model.fingerprint,
            "images": f"{model.cfg.size} x {model.cfg.size} pixels",
            "codes": f"{maps} x {height} x {width} of {model.codebook_size}, {bits:.0f} bits",
        }
    if isinstance(model, ImagePrior | CodeMapVQVAE | CodeMapVAE):
        maps, height, width = model.cfg.map_shape
        facts |= {"codes": f"{maps} x {height} x {width} of {model.cfg.net.codebook_size}, by model {model.cfg.model}"}
    if isinstance(model, ImagePrior):
        facts |= {"classes": ", ".join(model.cfg.classes) or "none"}
    return facts


def _millions(module: nn.Module) -> str:
    return f"{sum(parameter.numel() for parameter in module.parameters()) / 1e6:.3f} million"
