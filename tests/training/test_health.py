"""Verdicts: each metric that decides one, and their order of severity."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from vqaudio.training.health import HealthConfig, assess, gradient_norms

WELL = {
    "bits_per_sample": 3.7,
    "uniform_bits": 8.0,
    "perplexity": 380.0,
    "codebook_size": 512,
    "conditioning_gap": 1.0,
    "speaker_gap": 0.1,
}


@pytest.mark.parametrize(
    ("changed", "step", "name", "reason"),
    [
        ({}, 1000, "healthy", "the decoder uses codes and speaker"),
        ({"conditioning_gap": 0.0, "perplexity": 2.0}, 99, "too early", "the check starts at step 100"),
        (
            {"conditioning_gap": 0.04},
            100,
            "posterior collapse",
            "conditioning gap 0.04 bits per sample, expected at least 0.05",
        ),
        ({"conditioning_gap": -0.1}, 100, "posterior collapse", "-0.1 bits"),
        ({"perplexity": 10.2}, 100, "codebook collapse", "perplexity 10.2 of 512 codes, expected at least 10.2"),
        ({"perplexity": 10.3}, 100, "healthy", ""),
        ({"perplexity": 1.9, "codebook_size": 16}, 100, "codebook collapse", "expected at least 2"),
        (
            {"perplexity": 1.4, "codebook_size": 2},
            100,
            "codebook collapse",
            "perplexity 1.4 of 2 codes, expected at least 1.5",
        ),
        ({"perplexity": 1.99, "codebook_size": 2}, 100, "healthy", ""),
        ({"speaker_gap": 0.001}, 100, "speaker ignored", "speaker gap 0.001 bits per sample"),
        ({"bits_per_sample": 8.6}, 1, "diverged", "8.6 bits per sample"),
        ({"bits_per_sample": 8.4}, 1, "too early", ""),
        ({"perplexity": math.nan}, 1, "diverged", "perplexity is nan"),
        ({"conditioning_gap": math.inf}, 1000, "diverged", "conditioning_gap is inf"),
        # the most severe one is reported
        ({"speaker_gap": 0.0, "conditioning_gap": 0.0}, 100, "posterior collapse", ""),
        ({"conditioning_gap": 0.0, "perplexity": 1.0}, 100, "codebook collapse", ""),
        ({"perplexity": 1.0, "bits_per_sample": 9.0}, 100, "diverged", ""),
    ],
)
def test_the_deciding_metric_is_named(changed, step, name, reason) -> None:
    verdict = assess({**WELL, **changed}, step)
    assert verdict.name == name
    assert reason in verdict.reason
    assert str(verdict).startswith(f"{name}: {verdict.reason}")


def test_missing_metrics_decide_nothing() -> None:
    assert assess({}, 1000).name == "healthy"
    assert assess({"bits_per_sample": 3.0, "conditioning_gap": 0.5}, 1000).name == "healthy"


def test_every_threshold_can_be_moved() -> None:
    strict = HealthConfig(
        min_steps=2000, min_conditioning_gap=2.0, min_speaker_gap=0.5, min_perplexity=0.9, max_bits_above_uniform=0.0
    )
    assert assess(WELL, 1000, strict).name == "too early"
    assert assess(WELL, 2000, strict).name == "codebook collapse"
    assert assess({**WELL, "perplexity": 500.0}, 2000, strict).name == "posterior collapse"
    assert assess({**WELL, "perplexity": 500.0, "conditioning_gap": 3.0}, 2000, strict).name == "speaker ignored"
    assert assess({**WELL, "bits_per_sample": 8.1}, 0, strict).name == "diverged"
    wrongs: list[dict[str, Any]] = [{"min_steps": -1}, {"min_perplexity": 1.5}, {"max_bits_above_uniform": -1.0}]
    for wrong in wrongs:
        with pytest.raises(ValueError, match="must"):
            HealthConfig(**wrong)


def test_gradient_norms_are_those_of_the_children() -> None:
    model = nn.ModuleDict({"encoder": nn.Linear(2, 3), "decoder": nn.Linear(3, 1), "fixed": nn.Linear(1, 1)})
    model["fixed"].requires_grad_(False)
    model["decoder"](model["encoder"](torch.ones(4, 2))).square().sum().backward()
    norms = gradient_norms(model)
    assert set(norms) == {"gradient_norm/encoder", "gradient_norm/decoder"}
    for part in ("encoder", "decoder"):
        flat = torch.cat([p.grad.flatten() for p in model[part].parameters() if p.grad is not None])
        torch.testing.assert_close(norms[f"gradient_norm/{part}"], flat.norm())
