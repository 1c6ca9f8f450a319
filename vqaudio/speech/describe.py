"""Facts about a speech model or a prior over its codes, in words."""

from __future__ import annotations

import math

from torch import nn

from vqaudio.speech.model import SpeechVQVAE
from vqaudio.speech.prior import CodePrior


def model_facts(model: SpeechVQVAE) -> dict[str, str]:
    """Name -> fact, for a reader."""
    encoder, decoder = model.cfg.encoder, model.cfg.decoder

    def samples(count: int) -> str:
        return f"{count} samples, {1000 * count / model.sample_rate:.1f} ms"

    return {
        "model": model.fingerprint,
        "encoder": f"{millions(model.encoder)} parameters",
        **({"context": f"{millions(model.context)} parameters"} if model.context else {}),
        "decoder": f"{millions(model.decoder)} parameters",
        "codebook": f"{model.codebook_size} codes of width {encoder.dim}",
        "sample rate": f"{model.sample_rate} Hz",
        "hop": f"{samples(model.hop)}, {model.frame_rate:g} tokens per second",
        "bits": bits_per_second(model),
        "look-ahead": samples(encoder.lookahead),
        "delay": f"{samples(encoder.lookahead + model.hop)} (look-ahead and hop)",
        "encoder sees": f"{samples(encoder.receptive_field)}, look-ahead included",
        "decoder sees": samples(decoder.receptive_field),
        "speakers": f"{len(model.speakers)}: {', '.join(model.speakers)}" if model.speakers else "none",
        **({"decoder trained": "no (stage: codes)"} if model.cfg.stage == "codes" else {}),
    }


def prior_facts(model: CodePrior) -> dict[str, str]:
    """Name -> fact, for a reader."""
    cfg, sees = model.cfg, model.cfg.net.receptive_field
    return {
        "model": type(model).__name__,
        "parameters": millions(model),
        "fingerprint": model.fingerprint,
        "codes": f"{cfg.net.num_classes}, {cfg.frame_rate:g} per second, by model {cfg.model}",
        "sees": f"{sees} codes, {sees / cfg.frame_rate:.2f} s",
        "speakers": f"{len(cfg.speakers)}: {', '.join(cfg.speakers)}" if cfg.speakers else "none",
    }


def bits_per_second(model: SpeechVQVAE) -> str:
    """What its tokens cost, before any compression."""
    bits = math.log2(model.codebook_size)
    return f"{bits * model.frame_rate:.0f} per second (log2 {model.codebook_size} = {bits:.3g} per token)"


def millions(module: nn.Module) -> str:
    return f"{sum(parameter.numel() for parameter in module.parameters()) / 1e6:.3f} million"
