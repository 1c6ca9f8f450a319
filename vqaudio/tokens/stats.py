"""Facts about tokens and about the model that makes them, in words."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator

from torch import nn

from vqaudio.images.hierarchical import CodeMapVAE, CodeMapVQVAE
from vqaudio.images.vqvae import ImageVQVAE
from vqaudio.speech.model import SpeechVQVAE
from vqaudio.speech.prior import CodePrior, ImagePrior
from vqaudio.tokens.rows import TokenRow


class TokenStats:
    """Counts of rows, seconds and codes, gathered row by row; its size does not grow with the corpus."""

    def __init__(self) -> None:
        self.rows = 0
        self.seconds = 0.0
        self.codes: Counter[int] = Counter()  # how often each occurs
        self.speakers: Counter[str | None] = Counter()  # rows of each
        self.models: Counter[str] = Counter()  # rows of each fingerprint

    def add(self, row: TokenRow) -> None:
        """Count one more row."""
        self.rows += 1
        self.seconds += row.tokens.seconds
        self.codes.update(row.tokens.codes.tolist())
        self.speakers[row.speaker] += 1
        self.models[row.tokens.model] += 1

    def watch(self, rows: Iterable[TokenRow]) -> Iterator[TokenRow]:
        """The same rows, each counted as it passes."""
        for row in rows:
            self.add(row)
            yield row

    @property
    def num_tokens(self) -> int:
        """Codes in all rows."""
        return self.codes.total()

    @property
    def perplexity(self) -> float:
        """Two to the entropy of the codes in bits: as many codes, used equally often, would tell as much."""
        total = self.num_tokens
        shares = [count / total for count in self.codes.values()]
        return 2 ** -sum(share * math.log2(share) for share in shares)

    def facts(self) -> dict[str, str]:
        """Name -> fact, for a reader; there must be a row."""
        names = sorted(name for name in self.speakers if name is not None)
        return {
            "utterances": f"{self.rows}, {self.seconds:.1f} s of audio",
            "tokens": f"{self.num_tokens}, {self.num_tokens / self.seconds:.4g} per second",
            "codes": f"{len(self.codes)} in use, the highest {max(self.codes)}",
            "perplexity": f"{self.perplexity:.1f}",
            "speakers": f"{len(names)}: {', '.join(names)}" if names else "not known",
            "model": ", ".join(self.models),
        }


def model_facts(model: SpeechVQVAE) -> dict[str, str]:
    """Name -> fact, for a reader."""
    encoder, decoder = model.cfg.encoder, model.cfg.decoder

    def samples(count: int) -> str:
        return f"{count} samples, {1000 * count / model.sample_rate:.1f} ms"

    return {
        "model": model.fingerprint,
        "encoder": f"{_millions(model.encoder)} parameters",
        **({"context": f"{_millions(model.context)} parameters"} if model.context else {}),
        "decoder": f"{_millions(model.decoder)} parameters",
        "codebook": f"{model.codebook_size} codes of width {encoder.width}",
        "sample rate": f"{model.sample_rate} Hz",
        "hop": f"{samples(model.hop)}, {model.frame_rate:g} tokens per second",
        "bits": bits_per_second(model),
        "look-ahead": samples(encoder.lookahead),
        "delay": f"{samples(encoder.lookahead + model.hop)} (look-ahead and hop)",
        "encoder sees": f"{samples(encoder.receptive_field)}, look-ahead included",
        "decoder sees": samples(decoder.receptive_field),
        "speakers": f"{len(model.speakers)}: {', '.join(model.speakers)}" if model.speakers else "none",
        **({"speaks": "not yet, it has learned codes alone (learn: codes)"} if model.cfg.learn == "codes" else {}),
    }


def other_facts(model: nn.Module) -> dict[str, str]:
    """Name -> fact of a model that is none of speech, for a reader: its kind, its size, what made it."""
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
        facts |= {"codes": f"{maps} x {height} x {width} of {model.cfg.net.codes}, by model {model.cfg.model}"}
    if isinstance(model, CodePrior):
        cfg, sees = model.cfg, model.cfg.net.receptive_field
        facts |= {
            "fingerprint": model.fingerprint,
            "codes": f"{cfg.net.classes}, {cfg.frame_rate:g} per second, by model {cfg.model}",
            "sees": f"{sees} codes, {sees / cfg.frame_rate:.2f} s",
            "speakers": f"{len(cfg.speakers)}: {', '.join(cfg.speakers)}" if cfg.speakers else "none",
        }
    if isinstance(model, ImagePrior):
        facts |= {"classes": ", ".join(model.cfg.classes) or "none"}
    return facts


def bits_per_second(model: SpeechVQVAE) -> str:
    """What its tokens cost, before any compression."""
    bits = math.log2(model.codebook_size)
    return f"{bits * model.frame_rate:.0f} per second (log2 {model.codebook_size} = {bits:.3g} per token)"


def _millions(module: nn.Module) -> str:
    return f"{sum(parameter.numel() for parameter in module.parameters()) / 1e6:.3f} million"
