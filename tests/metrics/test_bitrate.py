"""Rates of token sequences against what is computed by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import numpy as np
import pytest
import torch
from torch import nn

from vqaudio.metrics.bitrate import bigram_bits, bitrates, merged_bits, prior_bits, unigram_bits
from vqaudio.nn.wavenet import WaveNetConfig
from vqaudio.speech.prior import CodePrior, CodePriorConfig
from vqaudio.speech.tokens import Tokens
from vqaudio.tokens.chunks import CodeSequences, sequences
from vqaudio.tokens.rows import TokenRow

HOP, RATE, K, MODEL = 80, 8000, 4, "0123456789ab"  # 100 codes per second


def _row(id: str, speaker: str | None, codes: list[int], model: str = MODEL) -> TokenRow:
    return TokenRow(id, speaker, Tokens(torch.tensor(codes), len(codes) * HOP, RATE, HOP, model))


def _training(*codes: list[int], size: int = K) -> CodeSequences:
    own = tuple(np.array(c, dtype=np.int64) for c in codes)
    return CodeSequences(own, np.zeros(len(own), dtype=np.int64), size, MODEL)


def _arrays(*codes: list[int]) -> list[np.ndarray]:
    return [np.array(c, dtype=np.int64) for c in codes]


@pytest.fixture
def prior(randomise: Callable[..., nn.Module]) -> CodePrior:
    net = WaveNetConfig(
        num_classes=K, layers=4, layers_per_stack=2, residual_channels=6, skip_channels=8, cond_hidden_channels=4
    )
    return cast(
        CodePrior, randomise(CodePrior(CodePriorConfig(speakers=("anna", "bert"), model=MODEL, net=net)))
    ).eval()


def test_every_rate_of_two_utterances_by_hand() -> None:
    # 0 0 0 1 | 0 1 1 2: frequencies 1/2, 3/8, 1/8; after 0: 0 0 1 1; after 1: 1 2
    rows = [_row("a", "anna", [0, 0, 0, 1]), _row("b", "bert", [0, 1, 1, 2])]
    found = bitrates(rows, K)
    seconds, own = 0.08, found.overall
    assert own["nominal"].bits_per_second == pytest.approx(2 * 8 / seconds)
    assert own["nominal"].low == own["nominal"].high == pytest.approx(200)
    unigram = 4 * 1 + 3 * math.log2(8 / 3) + 1 * 3
    assert own["unigram"].bits_per_second == pytest.approx(unigram / seconds)
    assert own["unigram"].bits_per_code == pytest.approx(unigram / 8)
    # the first codes cost 1 bit each, each of the four pairs after 0 and of the two after 1 another
    assert own["bigram"].bits_per_second == pytest.approx((2 + 4 + 2) / seconds)
    # merged: 0 1 | 0 1 2
    merged = 2 * math.log2(5 / 2) + 2 * math.log2(5 / 2) + math.log2(5)
    assert own["merged"].bits_per_second == pytest.approx(merged / seconds)
    assert own["merged"].bits_per_code == pytest.approx(merged / 8)
    assert set(own) == {"nominal", "unigram", "bigram", "merged"}
    anna = found.by_speaker["anna"]["unigram"]  # by the counts of all
    assert anna.bits_per_second == pytest.approx((3 + math.log2(8 / 3)) / 0.04)
    assert anna.low == anna.high == anna.bits_per_second


def test_rates_under_training_counts_by_hand() -> None:
    training = _training([0, 0, 1, 0], [2])
    shares = np.array([4, 2, 2, 1]) / 9  # one added to each
    evaluated = _arrays([3, 0, 1], [1, 2])
    assert unigram_bits(evaluated, training) == pytest.approx([-np.log2(shares[a]).sum() for a in evaluated])
    # pairs 00 01 10: n(0) = 2, t(0) = 2, n(1) = t(1) = 1; nothing followed 3
    after_0 = (np.array([1, 1, 0, 0]) + 2 * shares) / 4
    after_1 = (np.array([1, 0, 0, 0]) + shares) / 2
    expected = [shares[3] * shares[0] * after_0[1], shares[1] * after_1[2]]
    assert bigram_bits(evaluated, training) == pytest.approx(-np.log2(expected))
    for given in (after_0, after_1):
        assert given.sum() == pytest.approx(1)


def test_smoothed_bigrams_sum_to_one_over_every_sequence() -> None:
    rng = np.random.default_rng(0)
    training = _training(*(rng.choice(K, p=[0.7, 0.2, 0.1, 0], size=n).tolist() for n in (30, 1, 7)))
    every = [np.array(list(np.ndindex(K, K, K))[i]) for i in range(K**3)]
    assert (2.0 ** -bigram_bits(every, training)).sum() == pytest.approx(1)


def test_codes_that_follow_each_other_cost_less_by_pairs() -> None:
    rng = np.random.default_rng(0)

    def walk() -> list[int]:
        return (np.cumsum(rng.random(400) < 0.1) % K).tolist()

    rows, training = [_row(f"u{i}", "anna", walk()) for i in range(5)], _training(*(walk() for _ in range(5)))
    own = bitrates(rows, K, training=training).overall
    assert own["bigram_trained"].bits_per_code == pytest.approx(own["bigram"].bits_per_code, rel=0.1)
    assert own["bigram_trained"].bits_per_code > own["bigram"].bits_per_code
    assert own["bigram_trained"].high < own["unigram_trained"].low
    assert own["merged"].bits_per_second < own["unigram"].bits_per_second / 5


def test_runs_are_one_symbol_within_an_utterance_only() -> None:
    assert merged_bits(_arrays([1, 1, 1], [1, 0, 0])) == pytest.approx(
        [math.log2(3 / 2), math.log2(3 / 2) + math.log2(3)]
    )
    assert merged_bits(_arrays([2, 2, 2, 2])) == pytest.approx([0])


def test_the_priors_rate_is_its_likelihood(prior: CodePrior, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    names = ["anna", None, "bert", "zoe", "anna"]
    rows = [
        _row(f"u{i}", s, rng.integers(K, size=n).tolist())
        for i, (s, n) in enumerate(zip(names, (9, 1, 30, 5, 12), strict=True))
    ]
    nats = []
    for row, voice in zip(rows, (0, 2, 1, 2, 0), strict=True):  # 2 is the null speaker
        codes = row.tokens.codes[None]
        nats.append(prior.nll(codes, torch.tensor([voice]), torch.tensor([codes.shape[1]])).item())
    found = bitrates(rows, K, prior=prior)
    assert found.overall["prior"].bits_per_second == pytest.approx(sum(nats) / math.log(2) / 0.57, rel=1e-5)
    assert list(found.by_speaker) == ["anna", "bert", "zoe", None]
    assert found.by_speaker["anna"]["prior"].bits_per_code == pytest.approx(
        (nats[0] + nats[4]) / math.log(2) / 21, rel=1e-5
    )
    given = sequences(rows, prior.cfg.speakers, K, MODEL)
    whole = prior_bits(given, prior)
    assert whole == pytest.approx(np.array(nats) / math.log(2), rel=1e-5)
    monkeypatch.setattr("vqaudio.metrics.bitrate.CODES_AT_ONCE", 20)
    assert prior_bits(given, prior) == pytest.approx(whole, rel=1e-5)


def test_the_intervals_hold_the_rate_and_narrow_with_more_utterances() -> None:
    rng = np.random.default_rng(0)

    def width(count: int) -> float:
        lengths = rng.integers(20, 60, count)
        rows = [
            _row(f"u{i}", "anna", rng.choice(K, p=[0.6, 0.2, 0.1, 0.1], size=n).tolist()) for i, n in enumerate(lengths)
        ]
        rate = bitrates(rows, K).overall["unigram"]
        assert rate.low < rate.bits_per_second < rate.high
        assert rate == bitrates(rows, K).overall["unigram"]  # a fixed seed
        return rate.high - rate.low

    assert width(300) < width(10) / 2


def test_what_does_not_belong_together_is_refused(prior: CodePrior) -> None:
    rows = [_row("a", "anna", [0, 1])]
    with pytest.raises(ValueError, match="there are no token rows"):
        bitrates([], K)
    with pytest.raises(ValueError, match=r"codes of 'a' must lie in 0\.\.0"):
        bitrates(rows, 1)
    with pytest.raises(ValueError, match="'b' has tokens of model other"):
        bitrates([*rows, _row("b", "anna", [0], model="other")], K)
    with pytest.raises(ValueError, match="training utterances have 5 codes of model 0123456789ab, the rows 4"):
        bitrates(rows, K, training=_training([0, 1], size=5))
    with pytest.raises(ValueError, match="the prior has 4 codes of model 0123456789ab, the rows 4 of model other"):
        bitrates([_row("a", "anna", [0], model="other")], K, prior=prior)
    with pytest.raises(RuntimeError, match="training mode"):
        bitrates(rows, K, prior=prior.train())
