"""The quantizers that a model can have. Another one is a file of its own and two lines here."""

from __future__ import annotations

from vqaudio.nn.fsq import FSQ, FSQConfig
from vqaudio.nn.quantizer_protocol import Quantized, Quantizer, perplexity
from vqaudio.nn.vector_quantizer import VectorQuantizer, VectorQuantizerConfig

__all__ = ["Quantized", "Quantizer", "QuantizerConfig", "build_quantizer", "perplexity"]

QuantizerConfig = VectorQuantizerConfig | FSQConfig  # told apart by `kind`; without it, the first


def build_quantizer(cfg: QuantizerConfig) -> Quantizer:
    """A configuration -> its quantizer, a module."""
    match cfg:
        case VectorQuantizerConfig():
            return VectorQuantizer(cfg)
        case FSQConfig():
            return FSQ(cfg)
