"""Metrics of a prior over speech codes."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from vqaudio.metrics.bitrate import smoothed_unigram
from vqaudio.metrics.prior import code_prior_metrics
from vqaudio.nn.wavenet import WaveNetConfig
from vqaudio.speech.prior import CodePrior, CodePriorConfig
from vqaudio.tokens.chunks import CodeSequences

FOUND = CodeSequences(
    (np.array([0, 1, 1, 2]), np.array([1, 1]), np.array([3, 0, 0])), np.array([0, 1, 2]), codebook_size=4, model="m"
)


NET = WaveNetConfig(
    num_classes=4, layers=2, layers_per_stack=2, residual_channels=4, skip_channels=6, cond_hidden_channels=4
)


def test_they_are_means_over_all_codes(randomise: Callable[..., nn.Module]) -> None:
    prior = CodePrior(CodePriorConfig(speakers=("anna", "bert"), model="m", net=NET))
    randomise(prior)
    prior.eval()
    metrics = code_prior_metrics(prior, FOUND, smoothed_unigram(FOUND))
    total = sum(
        prior.nll(torch.tensor(codes)[None], torch.tensor([speaker]), torch.tensor([len(codes)])).item()
        for codes, speaker in zip(FOUND.codes, FOUND.speaker_ids, strict=True)
    )
    assert metrics["bits_per_code"] == pytest.approx(total / 9 / math.log(2), rel=1e-5)
    counts = {0: 4, 1: 5, 2: 2, 3: 2}  # with one added
    expected = sum(-math.log2(counts[c] / 13) for codes in FOUND.codes for c in codes.tolist()) / 9
    assert metrics["unigram_bits"] == pytest.approx(expected, rel=1e-5)
    assert metrics["uniform_bits"] == 2
    assert metrics["label_gap"] != 0
    assert metrics["bits_null_speaker"] != metrics["bits_per_code"]
    with pytest.raises(RuntimeError, match="training mode"):
        code_prior_metrics(prior.train(), FOUND, smoothed_unigram(FOUND))


@pytest.mark.parametrize(("speakers", "more"), [((), set()), (("anna",), {"bits_null_speaker"})])
def test_without_another_speaker_there_is_no_gap(speakers: tuple[str, ...], more: set[str]) -> None:
    prior = CodePrior(CodePriorConfig(speakers=speakers, model="m", net=NET)).eval()
    found = CodeSequences(FOUND.codes, np.array([0, len(speakers), 0]), codebook_size=4, model="m")
    assert (
        set(code_prior_metrics(prior, found, smoothed_unigram(found)))
        == {"bits_per_code", "unigram_bits", "uniform_bits"} | more
    )
