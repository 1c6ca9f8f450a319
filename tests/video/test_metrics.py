"""The baselines are proper probabilities, and metrics agree with what is known."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from vqaudio.video import metrics as metrics_module
from vqaudio.video.crops import CodeSequences
from vqaudio.video.metrics import Baselines, fit_baselines, video_prior_metrics
from vqaudio.video.prior import VideoPrior

K = 6


def test_copying_is_a_probability(sequences: CodeSequences) -> None:
    baselines = fit_baselines(sequences)
    before = torch.tensor([2])
    every = torch.stack([torch.stack([before[0], torch.tensor(code)]) for code in range(K)])[:, :, None, None]
    assert (2.0 ** -baselines.copy_bits(every)).sum().item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("stay", [0.0, 0.3, 0.9])
def test_epsilon_has_the_largest_likelihood(sequences: CodeSequences, stay: float) -> None:
    generator = torch.Generator().manual_seed(2)
    codes = torch.randint(K, (2000, 1, 1), generator=generator)
    kept = torch.rand(2000, generator=generator) < stay
    for i in range(1, 2000):
        if kept[i]:
            codes[i] = codes[i - 1]
    made = CodeSequences(codes, (torch.zeros(1999, dtype=torch.long),), K)
    best = fit_baselines(made)
    assert best.epsilon == pytest.approx(1 - stay, abs=0.06)

    def bits(epsilon: float) -> float:
        return best._replace(epsilon=epsilon).copy_bits(codes[None]).mean().item()

    assert all(bits(best.epsilon) <= bits(other) + 1e-5 for other in (0.05, 0.2, 0.5, 0.8, 0.99))
    if stay == 0.9:
        assert bits(best.epsilon) < 1.1 < math.log2(K)


def test_metrics_of_a_prior_that_knows_nothing(prior: VideoPrior, sequences: CodeSequences) -> None:
    uniform = VideoPrior(prior.cfg).double().eval()
    torch.nn.init.zeros_(uniform.net.logits.weight)
    assert uniform.net.logits.bias is not None
    torch.nn.init.zeros_(uniform.net.logits.bias)
    baselines = Baselines(torch.full((K,), 1 / K), 1.0)
    metrics = video_prior_metrics(uniform, sequences, baselines)
    for name in ("bits_per_code", "copy_bits", "unigram_bits", "uniform_bits"):
        assert metrics[name] == pytest.approx(math.log2(K), abs=1e-6)
    assert metrics["conditioning_gap"] == pytest.approx(0, abs=1e-9)
    assert metrics["action_gap"] == pytest.approx(0, abs=1e-9)


def test_metrics_are_means_over_frames(prior: VideoPrior, sequences: CodeSequences) -> None:
    metrics = video_prior_metrics(prior, sequences, fit_baselines(sequences))
    nats = [prior.nll(codes[None], actions[None])[0] for codes, actions in sequences.episodes()]
    assert metrics["bits_per_code"] == pytest.approx(torch.cat(nats).mean().item() / 16 / math.log(2))
    assert metrics["conditioning_gap"] != 0 and metrics["action_gap"] != 0


def test_every_window_is_evaluated_with_the_context_and_the_action_of_another(
    prior: VideoPrior, sequences: CodeSequences, monkeypatch: pytest.MonkeyPatch
) -> None:
    """13 windows in batches of 4, the last of which has a single one."""
    monkeypatch.setattr(metrics_module, "BATCH_SIZE", 4)
    windows = [  # (context, actions, frame), in order
        (codes[i : i + 2], actions[i : i + 2], codes[i + 2])
        for codes, actions in sequences.episodes()
        for i in range(len(codes) - 2)
    ]
    assert len(windows) == 13

    def bits(context: torch.Tensor, actions: torch.Tensor, frame: torch.Tensor) -> float:
        return prior.nll(torch.cat([context, frame[None]])[None], actions[None]).item() / 16 / math.log(2)

    own = sum(bits(*window) for window in windows) / 13
    others = windows[-6:] + windows[:-6]
    pairs = list(zip(windows, others, strict=True))
    context = sum(bits(other[0], mine[1], mine[2]) for mine, other in pairs) / 13
    action = sum(bits(mine[0], torch.stack([mine[1][0], other[1][1]]), mine[2]) for mine, other in pairs) / 13
    metrics = video_prior_metrics(prior, sequences, fit_baselines(sequences))
    assert metrics["conditioning_gap"] == pytest.approx(context - own, abs=1e-9)
    assert metrics["action_gap"] == pytest.approx(action - own, abs=1e-9)
    monkeypatch.setattr(metrics_module, "BATCH_SIZE", 99)
    whole = video_prior_metrics(prior, sequences, fit_baselines(sequences))
    assert metrics == pytest.approx(whole)


def test_codes_that_never_change_in_training_have_finite_bits_when_they_do(sequences: CodeSequences) -> None:
    static = replace(sequences, codes=torch.arange(3).repeat_interleave(torch.tensor(sequences.lengths))[:, None, None])
    bits = fit_baselines(static).copy_bits(torch.tensor([0, 0, 1])[None, :, None, None]).flatten()
    assert bits[0].item() == pytest.approx(0, abs=1e-4) and 20 < bits[1].item() < 40


def test_too_little_is_explained(prior: VideoPrior, sequences: CodeSequences) -> None:
    short = replace(sequences, codes=sequences.codes[:3], actions=(sequences.actions[0][:2],))
    with pytest.raises(ValueError, match="at least 2 frames after 2 others are needed"):
        video_prior_metrics(prior, short, fit_baselines(sequences))
    alone = replace(sequences, codes=sequences.codes[:1], actions=(sequences.actions[0][:0],))
    with pytest.raises(ValueError, match="no two frames in a row"):
        fit_baselines(alone)
    with pytest.raises(RuntimeError, match="the prior is in training mode"):
        video_prior_metrics(VideoPrior(prior.cfg).train(), sequences, fit_baselines(sequences))
