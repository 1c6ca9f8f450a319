"""Statistics of codes against what is counted by hand and by SciPy."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from scipy.stats import entropy

from vqaudio.metrics.codebook_usage import codebook_usage_metrics
from vqaudio.metrics.confidence import Estimate

K, RATE = 4, 250.0


def _arrays(*codes: list[int]) -> list[np.ndarray]:
    return [np.array(c, dtype=np.int64) for c in codes]


def _values(codes: list[np.ndarray], size: int = K) -> dict[str, float]:
    return {
        name: figure.value
        for name, figure in codebook_usage_metrics(codes, codebook_size=size, frame_rate=RATE).items()
    }


def _noise(count: int, shares: tuple[float, ...], seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.choice(len(shares), p=shares, size=rng.integers(40, 80)) for _ in range(count)]


def test_one_code() -> None:
    metrics = codebook_usage_metrics(_arrays([2] * 10, [2] * 10), codebook_size=K, frame_rate=RATE)
    expected = {
        "usage": 0.25,
        "perplexity": 1,
        "entropy": 0,
        "repeat_rate": 1,
        "run_length_mean": 10,
        "run_length_ms": 40,
    }
    expected |= {"run_length_median": 10, "bigram_entropy": 0, "distinct_bigrams": 1, "bigram_type_token_ratio": 1 / 18}
    expected |= {"distinct_trigrams": 1, "trigram_type_token_ratio": 1 / 16}
    assert metrics == {name: pytest.approx(Estimate(value, value, value, 2)) for name, value in expected.items()}


def test_each_code_equally_often() -> None:
    values = _values(_arrays([0, 1, 2, 3, 3, 2, 1, 0]))
    assert values["usage"] == 1 and values["entropy"] == 2 and values["perplexity"] == 4
    assert values["repeat_rate"] == pytest.approx(1 / 7) and values["run_length_mean"] == pytest.approx(8 / 7)
    # after 0: 1; after 1: 2 or 0; after 2: 3 or 1; after 3: 3 or 2
    assert values["bigram_entropy"] == pytest.approx(6 / 7)
    assert values["distinct_bigrams"] == 7 and values["bigram_type_token_ratio"] == 1
    assert values["distinct_trigrams"] == 6 and values["trigram_type_token_ratio"] == 1


def test_two_codes_in_turns() -> None:
    values = _values(_arrays([0, 1] * 50))
    assert values["entropy"] == 1 and values["bigram_entropy"] == 0 and values["repeat_rate"] == 0
    assert values["run_length_mean"] == values["run_length_median"] == 1 and values["run_length_ms"] == pytest.approx(4)
    assert values["distinct_bigrams"] == values["distinct_trigrams"] == 2


def test_several_utterances_by_hand() -> None:
    """Neither runs nor bigrams continue from one utterance to the next."""
    codes = _arrays([0, 0, 1, 1, 1], [1, 0], [3])
    values = _values(codes)
    assert values["usage"] == 0.75
    assert values["run_length_mean"] == pytest.approx(8 / 5) and values["run_length_median"] == 1
    assert values["repeat_rate"] == pytest.approx(3 / 5)
    assert values["distinct_bigrams"] == 4 and values["distinct_trigrams"] == 3  # 00 01 11 10, 001 011 111
    # after 0: 0 or 1; after 1: 1, 1 or 0
    assert values["bigram_entropy"] == pytest.approx((2 + 3 * (math.log2(3) - 2 / 3)) / 5)


def test_random_codes_against_scipy_and_a_counter() -> None:
    codes = _noise(20, (0.5, 0.3, 0.2, 0.0))
    values = _values(codes)
    counts = np.bincount(np.concatenate(codes))
    pairs = Counter(pair for own in codes for pair in itertools.pairwise(own.tolist()))
    before = Counter(c for own in codes for c in own[:-1].tolist())
    assert values["entropy"] == pytest.approx(entropy(counts, base=2))
    assert values["perplexity"] == pytest.approx(math.exp(float(entropy(counts))))
    of_pairs, of_first = (float(entropy(list(c.values()), base=2)) for c in (pairs, before))
    assert values["bigram_entropy"] == pytest.approx(of_pairs - of_first)
    assert values["distinct_bigrams"] == len(pairs) and values["bigram_type_token_ratio"] == len(pairs) / pairs.total()
    runs = [len(list(group)) for own in codes for _, group in itertools.groupby(own)]
    assert values["run_length_median"] == np.median(runs) and values["run_length_mean"] == pytest.approx(np.mean(runs))


@pytest.mark.parametrize("lengths", [[1, 2], [1, 2, 3], [1, 1, 2, 4, 4, 5]])
def test_the_median_is_numpys(lengths: list[int]) -> None:
    codes = np.repeat(np.arange(len(lengths)) % 2, lengths)
    assert _values([codes])["run_length_median"] == np.median(lengths)


def test_the_intervals_of_entropies_are_those_of_theory() -> None:
    """A mean of 24,000 independent costs; a plain bootstrap would be biased low (for pairs by 0.006 and more)."""
    shares = np.array([0.6, 0.2, 0.1, 0.1])
    codes = _noise(400, tuple(shares))
    costs = -np.log2(shares)
    half = 1.96 * math.sqrt(shares @ costs**2 - (shares @ costs) ** 2) / math.sqrt(sum(map(len, codes)))
    metrics = codebook_usage_metrics(codes, codebook_size=K, frame_rate=RATE)
    for name in ("entropy", "bigram_entropy"):
        figure = metrics[name]
        assert figure.value == pytest.approx(shares @ costs, abs=2 * half)
        assert figure.low == pytest.approx(figure.value - half, abs=0.2 * half)
        assert figure.high == pytest.approx(figure.value + half, abs=0.2 * half)


def test_the_interval_of_usage_is_of_what_one_utterance_alone_uses() -> None:
    common = _arrays([0, 1], [1, 0], [0, 1, 1])
    assert codebook_usage_metrics(common, codebook_size=K, frame_rate=RATE)["usage"] == Estimate(0.5, 0.5, 0.5, 3)
    alone = codebook_usage_metrics([*common, *_arrays([2])], codebook_size=K, frame_rate=RATE)["usage"]
    assert alone == Estimate(0.75, 0.5, 1, 4)  # resampled zero, one or two times, clipped at four codes


def test_every_interval_holds_its_figure_and_the_same_codes_give_the_same() -> None:
    codes = _noise(30, (0.4, 0.3, 0.2, 0.1))
    metrics = codebook_usage_metrics(codes, codebook_size=K, frame_rate=RATE)
    assert metrics == codebook_usage_metrics(codes, codebook_size=K, frame_rate=RATE)
    for name, figure in metrics.items():
        assert figure.low <= figure.value <= figure.high, name
        assert figure.count == 30
    assert metrics["entropy"].high <= 2


def test_a_single_code_has_nothing_before_it() -> None:
    values = _values(_arrays([1], [2]))
    assert math.isnan(values["repeat_rate"]) and math.isnan(values["bigram_entropy"])
    assert values["distinct_bigrams"] == 0 and math.isnan(values["bigram_type_token_ratio"])
    assert values["entropy"] == 1 and values["run_length_mean"] == 1


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        ([], "no utterances"),
        (_arrays([0, 1], [K]), r"codes of utterance 1 must lie in 0\.\.3, got 4\.\.4"),
        (_arrays([-1]), "got -1"),
        (_arrays([0], []), r"got \(0,\) int64 for utterance 1"),
        ([np.array([0.5])], "float64"),
    ],
)
def test_what_is_no_code_is_refused(codes: list[np.ndarray], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        codebook_usage_metrics(codes, codebook_size=K, frame_rate=RATE)
    with pytest.raises(ValueError, match="frame_rate must be above 0"):
        codebook_usage_metrics(_arrays([0]), codebook_size=K, frame_rate=0)
