"""The quantizers that a model can have. Another one is a file of its own and two lines here."""

from __future__ import annotations

from torch import nn

from vqaudio.nn.fsq import FSQ, FSQConfig
from vqaudio.nn.quantizer_protocol import Quantized, Quantizer, perplexity
from vqaudio.nn.vector_quantizer import VectorQuantizer, VectorQuantizerConfig

__all__ = ["Quantized", "Quantizer", "QuantizerConfig", "build_quantizer", "perplexity"]

QuantizerConfig = VectorQuantizerConfig | FSQConfig  # told apart by `kind`; without it, the first
_MODULES: dict[type, type[nn.Module]] = {VectorQuantizerConfig: VectorQuantizer, FSQConfig: FSQ}


def build_quantizer(cfg: QuantizerConfig) -> Quantizer:
    """A configuration -> its quantizer, a module."""
    quantizer = _MODULES[type(cfg)](cfg)
    assert isinstance(quantizer, Quantizer)
    return quantizer
