"""Is a run alive? The figures of one evaluation -> a verdict in words.

Low bits alone prove nothing: a decoder that ignores the codes has them too. What a run is judged by are the gaps
(what the decoder loses when it hears somebody else's codes, or another speaker) and how many codes are in use.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor, nn
from torch.nn.utils import get_total_norm

VerdictName = Literal[
    "healthy", "young", "codes ignored", "codebook collapsed", "speaker ignored", "nothing learned", "diverged"
]
LOSS_METRICS = ("bits_per_sample", "bits_per_dim", "bits_per_code", "spectrum_error")  # lower is better
FATAL: tuple[VerdictName, ...] = ("diverged", "codebook collapsed", "codes ignored")  # waiting does not mend these


@dataclass(frozen=True)
class HealthConfig:
    """Thresholds of the verdicts. The defaults lie far from runs of both kinds: see docs/training.md."""

    min_steps: int = 100
    """steps before which nothing but divergence is held against a run"""
    min_conditioning_gap: float = 0.05
    """bits (per sample, dimension or code), or of a spectrum's squared error, whose scale is about 1; what loses less
    with exchanged codes ignores them"""
    min_speaker_gap: float = 0.002
    """bits per sample, or of a spectrum's squared error; what loses less with exchanged speakers ignores them"""
    min_perplexity: float = 0.02
    """of the codes, as a share of their number; a codebook below it has collapsed"""
    max_bits_above_uniform: float = 0.5
    """bits (per sample, dimension or code) above those of guessing; a run beyond has diverged"""

    def __post_init__(self) -> None:
        if self.min_steps < 0 or self.max_bits_above_uniform < 0:
            raise ValueError(f"min_steps and max_bits_above_uniform must be 0 or more, got {self}")
        if not 0 <= self.min_perplexity <= 1:
            raise ValueError(f"min_perplexity must lie in [0, 1], a share of the codes, got {self.min_perplexity}")


TRAINED = HealthConfig(min_steps=0)  # for a model that has been trained already


class Verdict(NamedTuple):
    """What an evaluation says about a run."""

    name: VerdictName
    reason: str  # the figure that decided, and what it is compared with
    advice: str = ""  # what to try

    def __str__(self) -> str:
        return ": ".join(part for part in self if part)


def assess(figures: Mapping[str, float], step: int, cfg: HealthConfig | None = None) -> Verdict:
    """Figures of an evaluation after `step` updates -> the verdict.

    Read are, where they are there: bits per sample, dimension or code, or the squared error of a spectrum, uniform_bits
    (of guessing), perplexity and codebook_size, conditioning_gap, speaker_gap, and of a prior unigram_bits. The worst that
    holds is said: diverged, codebook collapsed, codes ignored, speaker ignored, nothing learned.
    """
    cfg = cfg or HealthConfig()
    for name, value in figures.items():
        if not math.isfinite(value):
            return Verdict("diverged", f"{name} is {value}", "a smaller --fit.lr or --fit.max_grad_norm")
    per = next((name for name in LOSS_METRICS if name in figures), None)
    unit, guessing = (per or LOSS_METRICS[0]).replace("_", " "), figures.get("uniform_bits", math.inf)
    if per is not None and figures[per] > guessing + cfg.max_bits_above_uniform:
        return Verdict("diverged", f"{figures[per]:.3g} {unit}, guessing takes {guessing:g}", "a smaller --fit.lr")
    if step < cfg.min_steps:
        return Verdict("young", f"step {step} of {cfg.min_steps} before which nothing can be said")
    found, codes = figures.get("perplexity"), figures.get("codebook_size")
    if found is not None and codes is not None and found < (least := max(2.0, cfg.min_perplexity * codes)):
        reason = f"perplexity {found:.3g} of {codes:.0f} codes, at least {least:.3g} is alive"
        return Verdict(
            "codebook collapsed",
            reason,
            "a longer commitment warm-up of the quantizer, restarts, the normalizer frame",
        )
    gap = figures.get("conditioning_gap")
    if gap is not None and gap < cfg.min_conditioning_gap:
        reason = f"{gap:.3g} {unit} lost with exchanged codes, at least {cfg.min_conditioning_gap:g} is listening"
        advice = "" if per == "spectrum_error" else ", or a shorter receptive field of the decoder"
        return Verdict("codes ignored", reason, f"a longer commitment warm-up{advice}")
    gap = figures.get("speaker_gap")
    if gap is not None and gap < cfg.min_speaker_gap:
        reason = f"{gap:.3g} {unit} lost with exchanged speakers, at least {cfg.min_speaker_gap:g} is listening"
        return Verdict("speaker ignored", reason, "right speaker labels, fewer codes, or more steps")
    unigram = figures.get("unigram_bits")
    if per is not None and unigram is not None and figures[per] >= unigram:
        reason = f"{figures[per]:.3g} {unit}, the codes' own shares alone take {unigram:.3g}"
        return Verdict("nothing learned", reason, "more steps, a larger net, or a smaller --fit.lr")
    if per is not None and unigram is not None:
        return Verdict("healthy", f"{figures[per]:.3g} {unit}, the codes' own shares alone take {unigram:.3g}")
    if gap is not None:
        return Verdict("healthy", "codes and speaker are listened to")
    return Verdict("healthy", "codes are listened to")


def gradient_norms(model: nn.Module) -> dict[str, Tensor]:
    """{"gradient_norm/CHILD": ()} of each part of a model that has gradients: encoder, quantizer, decoder, ..."""
    norms = {}
    for name, child in model.named_children():
        gradients = [p.grad for p in child.parameters() if p.grad is not None]
        if gradients:
            norms[f"gradient_norm/{name}"] = get_total_norm(gradients)
    return norms
