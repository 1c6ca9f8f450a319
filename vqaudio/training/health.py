"""Health check of a training run: validation metrics -> verdict with reason and advice.

A low negative log-likelihood alone proves nothing: an autoregressive decoder that ignores its codes (posterior
collapse) can reach it too. The verdict therefore rests on the conditioning gap and the speaker gap (increase of the NLL
when the codes, or the speaker, of another utterance are given) and on codebook usage.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor, nn
from torch.nn.utils import get_total_norm

VerdictName = Literal[
    "healthy",
    "too early",
    "posterior collapse",
    "codebook collapse",
    "speaker ignored",
    "no gain over unigram",
    "diverged",
]
LOSS_METRICS = (  # lower is better
    *("bits_per_sample", "bits_per_dim", "bits_per_code"),
    *("unit_loss", "spectrum_error", "resynthesis_loss"),
)
FATAL: tuple[VerdictName, ...] = ("diverged", "codebook collapse", "posterior collapse")  # more steps do not help


@dataclass(frozen=True)
class HealthConfig:
    """Thresholds of the verdicts. The defaults separate good and failed runs by a wide margin: see docs/training.md."""

    min_steps: int = 100
    """steps before which only divergence is reported"""
    min_conditioning_gap: float = 0.05
    """smallest conditioning gap of a decoder that uses its codes, in bits (per sample, dimension or code), in log-mel
    squared error (features have about unit variance), or in nats per cluster (target: units)"""
    min_speaker_gap: float = 0.002
    """smallest speaker gap of a decoder that uses the speaker, in bits per sample or log-mel squared error"""
    min_perplexity: float = 0.02
    """smallest codebook perplexity as a fraction of the codebook size; below it the codebook has collapsed"""
    max_bits_above_uniform: float = 0.5
    """a run has diverged if its bits exceed those of a uniform distribution by more than this"""

    def __post_init__(self) -> None:
        for name in ("min_steps", "max_bits_above_uniform"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be a finite number, 0 or more, got {getattr(self, name)}")
        for name in ("min_conditioning_gap", "min_speaker_gap"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name} must be a finite number, got {getattr(self, name)}")
        if not 0 <= self.min_perplexity <= 1:
            raise ValueError(
                f"min_perplexity must lie in [0, 1], a fraction of the codebook size, got {self.min_perplexity}"
            )


TRAINED = HealthConfig(min_steps=0)  # for a finished model, whose number of steps does not matter


class Verdict(NamedTuple):
    """Outcome of the health check."""

    name: VerdictName
    reason: str  # the deciding metric and its threshold
    advice: str = ""  # what to try next

    def __str__(self) -> str:
        return ": ".join(part for part in self if part)


def assess(metrics: Mapping[str, float], step: int, cfg: HealthConfig | None = None) -> Verdict:
    """Metrics of an evaluation after `step` updates -> verdict.

    Uses the following metrics if present: the first of LOSS_METRICS; uniform_bits (bits of a uniform distribution);
    perplexity and codebook_size; conditioning_gap; speaker_gap (not beside unit_loss, whose targets are normalised by
    speaker); unigram_bits (of a prior). Returns the most severe verdict that applies, in the order diverged, codebook
    collapse, posterior collapse, speaker ignored, no gain over unigram.
    """
    cfg = cfg or HealthConfig()
    for name, value in metrics.items():
        if not math.isfinite(value):
            return Verdict("diverged", f"{name} is {value}", "a smaller --fit.lr or --fit.max_grad_norm")
    per = next((name for name in LOSS_METRICS if name in metrics), None)
    unit, uniform = (per or LOSS_METRICS[0]).replace("_", " "), metrics.get("uniform_bits", math.inf)
    if per is not None and metrics[per] > uniform + cfg.max_bits_above_uniform:
        reason = f"{metrics[per]:.3g} {unit}, a uniform distribution has {uniform:g}"
        return Verdict("diverged", reason, "a smaller --fit.lr")
    if step < cfg.min_steps:
        return Verdict("too early", f"step {step}, the check starts at step {cfg.min_steps}")
    perplexity, codes = metrics.get("perplexity"), metrics.get("codebook_size")
    least = 0.0 if codes is None else max(min(2.0, 0.75 * codes), cfg.min_perplexity * codes)
    if perplexity is not None and codes is not None and perplexity < least:
        reason = f"perplexity {perplexity:.3g} of {codes:.0f} codes, expected at least {least:.3g}"
        return Verdict(
            "codebook collapse",
            reason,
            "a longer commitment warm-up of the quantizer, code restarts, or the normalizer 'frame'",
        )
    gap = metrics.get("conditioning_gap")
    if gap is not None and gap < cfg.min_conditioning_gap:
        reason = f"conditioning gap {gap:.3g} {unit}, expected at least {cfg.min_conditioning_gap:g}"
        advice = "" if per in ("spectrum_error", "unit_loss") else ", or a smaller receptive field of the decoder"
        return Verdict("posterior collapse", reason, f"a longer commitment warm-up{advice}")
    if per == "unit_loss":
        return Verdict("healthy", "the codes predict the units")
    gap = metrics.get("speaker_gap")
    if gap is not None and gap < cfg.min_speaker_gap:
        reason = f"speaker gap {gap:.3g} {unit}, expected at least {cfg.min_speaker_gap:g}"
        return Verdict("speaker ignored", reason, "check the speaker labels; fewer codes, or more steps")
    unigram = metrics.get("unigram_bits")
    if per is not None and unigram is not None and metrics[per] >= unigram:
        reason = f"{metrics[per]:.3g} {unit}, a unigram model has {unigram:.3g}"
        return Verdict("no gain over unigram", reason, "more steps, a larger network, or a smaller --fit.lr")
    if per is not None and unigram is not None:
        return Verdict("healthy", f"{metrics[per]:.3g} {unit}, a unigram model has {unigram:.3g}")
    if gap is not None:
        return Verdict("healthy", "the decoder uses codes and speaker")
    if per == "resynthesis_loss":
        return Verdict("healthy", f"{metrics[per]:.3g} {unit}")
    return Verdict("healthy", "the decoder uses the codes")


def gradient_norms(model: nn.Module) -> dict[str, Tensor]:
    """{"gradient_norm/CHILD": ()} for each direct child of the model that has gradients (encoder, decoder, ...)."""
    norms = {}
    for name, child in model.named_children():
        gradients = [p.grad for p in child.parameters() if p.grad is not None]
        if gradients:
            norms[f"gradient_norm/{name}"] = get_total_norm(gradients)
    return norms
