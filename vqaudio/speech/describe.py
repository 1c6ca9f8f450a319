"""Properties of a speech model, or of a prior over its codes, as a table of text."""

from __future__ import annotations

import math

from torch import nn

from vqaudio.nn.fsq import FSQConfig
from vqaudio.nn.quantizer import QuantizerConfig
from vqaudio.speech.model import SpeechVQVAE
from vqaudio.speech.prior import CodePrior
from vqaudio.speech.tokenizer import check_pitch_quantizer


def model_facts(model: SpeechVQVAE) -> dict[str, str]:
    """Name -> value of the model's properties, for `vqaudio info`."""
    encoder, decoder = model.cfg.encoder, model.cfg.decoder
    frontend = encoder.frontend

    def samples(count: int) -> str:
        return f"{count} samples, {1000 * count / model.sample_rate:.1f} ms"

    return {
        "model": model.fingerprint,
        **({"front-end": f"{frontend.kind}, {frontend.n_mels} bands"} if frontend.n_mels else {}),
        "encoder": f"{millions(model.encoder)} parameters",
        **({"context": f"{millions(model.context)} parameters"} if model.context else {}),
        **({"decoder": f"{millions(model.decoder)} parameters"} if "wavenet" in model.vocoders else {}),
        **({"istft": f"{millions(model.istft)} parameters"} if model.istft else {}),
        "vocoder": _vocoders(model),
        "quantizer": f"{_quantizer_kind(model.cfg.quantizer)}, {model.codebook_size} codes of dimension {encoder.dim}",
        "sample rate": f"{model.sample_rate} Hz",
        "hop": f"{samples(model.hop)}, {model.frame_rate:g} codes per second",
        "bitrate": bits_per_second(model),
        **({"pitch": pitch_facts(model)} if model.pitch_quantizer else {}),
        "look-ahead": samples(encoder.lookahead),
        "latency": f"{samples(encoder.lookahead + model.hop)} (look-ahead plus hop)",
        "encoder receptive field": f"{samples(encoder.receptive_field)} (including look-ahead)",
        **({"decoder receptive field": samples(decoder.receptive_field)} if "wavenet" in model.vocoders else {}),
        "speakers": f"{len(model.speakers)}: {', '.join(model.speakers)}" if model.speakers else "none",
    }


def _vocoders(model: SpeechVQVAE) -> str:
    """Those that the model has, the default one first."""
    names = sorted(model.vocoders, key=lambda name: name != model.cfg.vocoder)
    return ", ".join(f"{name} (default)" if name == model.cfg.vocoder else name for name in names) or "none"


def _quantizer_kind(cfg: QuantizerConfig) -> str:
    """Its kind, with the levels of an FSQ or the codebook update of a vector quantizer."""
    if isinstance(cfg, FSQConfig):
        return f"{cfg.kind} (levels {', '.join(map(str, cfg.levels))})"
    return f"{cfg.kind} ({cfg.codebook_update})"


def prior_facts(model: CodePrior) -> dict[str, str]:
    """Name -> value of the prior's properties, for `vqaudio info`."""
    cfg, field = model.cfg, model.cfg.net.receptive_field
    return {
        "model": type(model).__name__,
        "parameters": millions(model),
        "fingerprint": model.fingerprint,
        "codes": f"{cfg.net.num_classes}, {cfg.frame_rate:g} per second, of model {cfg.model}",
        "receptive field": f"{field} codes, {field / cfg.frame_rate:.2f} s",
        "speakers": f"{len(cfg.speakers)}: {', '.join(cfg.speakers)}" if cfg.speakers else "none",
    }


def bits_per_second(model: SpeechVQVAE) -> str:
    """Bitrate of the tokens without entropy coding: frame rate times log2 K, as text."""
    bits = math.log2(model.codebook_size)
    return f"{bits * model.frame_rate:.0f} bits per second (log2 {model.codebook_size} = {bits:.3g} bits per code)"


def pitch_facts(model: SpeechVQVAE) -> str:
    """Rate and bitrate of the pitch tokens, and the fingerprint of their quantizer."""
    quantizer = check_pitch_quantizer(model.pitch_quantizer)
    rate, size = model.sample_rate / quantizer.hop, quantizer.cfg.codebook_size
    bits = f"{math.log2(size) * rate:.0f} bits per second (log2 {size} = {math.log2(size):.3g} bits per token)"
    return f"{rate:g} tokens per second, {bits}, {quantizer.fingerprint}"


def millions(module: nn.Module) -> str:
    """Number of parameters, in millions, as text."""
    return f"{sum(parameter.numel() for parameter in module.parameters()) / 1e6:.3f} million"
