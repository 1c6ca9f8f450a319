"""The available quantizers. To add one, write a file and add it to the union and to `build_quantizer`."""

from __future__ import annotations

from vqaudio.nn.fsq import FSQ, FSQConfig
from vqaudio.nn.quantizer_protocol import Quantized, Quantizer, perplexity
from vqaudio.nn.vector_quantizer import VectorQuantizer, VectorQuantizerConfig

__all__ = ["Quantized", "Quantizer", "QuantizerConfig", "build_quantizer", "perplexity"]

QuantizerConfig = VectorQuantizerConfig | FSQConfig  # distinguished by `kind`; the first is the default


def build_quantizer(cfg: QuantizerConfig) -> Quantizer:
    """A configuration -> its quantizer, a module."""
    match cfg:
        case VectorQuantizerConfig():
            return VectorQuantizer(cfg)
        case FSQConfig():
            return FSQ(cfg)
