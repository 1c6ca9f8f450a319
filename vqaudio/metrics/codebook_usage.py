"""Codebook usage: which codes occur, how long they last, and how predictable the next one is.

Letters: U utterances, N codes of one, K codebook size, L lengths of runs (frames for which a code stays the same).

All metrics describe the given utterances. Entropies from counts are biased low, the more so the less speech there is,
and most for pairs (K squared of them can occur); numbers of distinct items grow with every utterance. Compare
tokenizers on the same utterances only.

A plain bootstrap would add to this bias: a resample lacks a third of the utterances and everything that occurs only in
them, so nearly all resampled entropies and usages would lie below the value. Hence the counts are kept fixed, and each
utterance's contribution (its influence) is resampled: the bits of its codes under the frequencies of all utterances,
and the codes that occur in no other utterance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from vqaudio.metrics.bitrate import unigram_bits
from vqaudio.metrics.confidence import Estimate, Floats, bootstrap, ratio
from vqaudio.nn.quantizer_protocol import check_codes

Codes = npt.NDArray[np.int64]
Counts = npt.NDArray[np.int64]


def codebook_usage_metrics(codes: Sequence[Codes], *, codebook_size: int, frame_rate: float) -> dict[str, Estimate]:
    """Codes (N,) of utterances, in 0..K-1 and at `frame_rate` Hz -> metrics by name.

    usage: fraction of the K codes that occur. entropy: of the code distribution, in bits (0 to log2 K); perplexity: 2
    to the power of the entropy (1 to K). repeat_rate: fraction of the codes that equal the one before.
    run_length_mean in frames, run_length_ms, run_length_median in frames: how long a code stays the same.
    bigram_entropy: conditional entropy of a code given the one before, in bits. distinct_bigrams, distinct_trigrams:
    numbers of different ones; bigram_type_token_ratio, trigram_type_token_ratio: those over all (0 to 1). NaN where
    utterances of a single code leave nothing to count. Raises ValueError for no utterances,
    for what is not (N,) integers with N > 0, and for codes outside 0..K-1.
    """
    _check_utterances(codes, codebook_size)
    if not frame_rate > 0:
        raise ValueError(f"frame_rate must be above 0 codes per second, got {frame_rate}")
    lengths, runs = np.array([len(own) for own in codes]), _runs(codes).astype(np.float64)
    entropy = _at_most(math.log2(codebook_size), ratio(unigram_bits(codes), lengths))
    run_length_mean = ratio(lengths, runs.sum(1))
    bits_of_pairs = unigram_bits(_ngrams(codes, 2)) - unigram_bits([own[:-1] for own in codes])
    metrics = {
        "usage": _at_most(1, _distinct(codes, codebook_size)),
        "perplexity": _transformed(entropy, lambda bits: 2**bits),
        "entropy": entropy,
        "repeat_rate": ratio(lengths - runs.sum(1), lengths - 1),
        "run_length_mean": run_length_mean,
        "run_length_ms": _transformed(run_length_mean, lambda frames: 1000 / frame_rate * frames),
        "run_length_median": bootstrap(lambda weights: _median(weights @ runs), len(codes)),
        "bigram_entropy": _at_most(math.log2(codebook_size), ratio(bits_of_pairs, lengths - 1)),
    }
    for name, n in {"bigram": 2, "trigram": 3}.items():
        grams = _ngrams(codes, n)
        metrics[f"distinct_{name}s"] = _distinct(grams, 1)
        metrics[f"{name}_type_token_ratio"] = _distinct(grams, np.array([len(own) for own in grams]))
    return metrics


def _check_utterances(codes: Sequence[Codes], codebook_size: int) -> None:
    """Raises ValueError for no utterances, what is not (N,) integers with N > 0, and codes outside 0..K-1."""
    if not len(codes):
        raise ValueError("there are no utterances of codes")
    for u, own in enumerate(codes):
        if own.ndim != 1 or not np.issubdtype(own.dtype, np.integer) or not len(own):
            raise ValueError(f"codes must be (N,) integers with N > 0, got {own.shape} {own.dtype} for utterance {u}")
        check_codes(own, codebook_size, f"codes of utterance {u}")


def _windows(own: Codes, n: int) -> Codes:
    """(N,) -> (N - n + 1, n), or (0, n) of fewer codes than n."""
    if len(own) < n:
        return own[:0].reshape(0, n)
    return np.lib.stride_tricks.sliding_window_view(own, n)


def _ngrams(codes: Sequence[Codes], n: int) -> list[Codes]:
    """Sequences (N,) -> (N - n + 1,) consecutive numbers of their n-grams: equal n-grams have equal numbers."""
    rows = [_windows(own, n) for own in codes]
    _, numbers = np.unique(np.concatenate(rows), axis=0, return_inverse=True)
    return np.split(numbers.ravel(), np.cumsum([len(own) for own in rows])[:-1])


def _distinct(symbols: Sequence[Codes], below: int | Counts) -> Estimate:
    """Number of distinct symbols of all utterances, over `below` or over the sum of `below` (U,).

    Resampled is the number of symbols that occur in one utterance only: the number that it adds.
    """
    own = [np.unique(sequence) for sequence in symbols]
    of = np.repeat(np.arange(len(own)), [len(sequence) for sequence in own])
    kinds, first, found_in = np.unique(np.concatenate(own), return_index=True, return_counts=True)
    alone = np.bincount(of[first[found_in == 1]], minlength=len(own))  # (U,)

    def statistic(weights: Floats) -> float:
        total = below if isinstance(below, int) else weights @ below
        return float((len(kinds) + (weights - 1) @ alone) / total) if total else float("nan")

    return bootstrap(statistic, len(own))


def _transformed(estimate: Estimate, function: Callable[[float], float]) -> Estimate:
    value, low, high = map(function, estimate[:3])
    return Estimate(value, low, high, estimate.count)


def _at_most(limit: float, estimate: Estimate) -> Estimate:
    """Clips the interval to the maximum of the metric, which resampled contributions can exceed."""
    return estimate._replace(high=min(estimate.high, limit))


def _runs(codes: Sequence[Codes]) -> Counts:
    """(U, L + 1): number of runs of 0, 1, ... L frames in each utterance."""
    found = []
    for own in codes:
        ends = np.flatnonzero(np.append(own[1:] != own[:-1], True))
        found.append(np.bincount(np.diff(ends, prepend=-1)))
    counts = np.zeros((len(codes), max(map(len, found))), dtype=np.int64)
    for u, row in enumerate(found):
        counts[u, : len(row)] = row
    return counts


def _median(times: Floats) -> float:
    """The median of lengths 0, 1, ... L with counts (L + 1,)."""
    up_to = np.cumsum(times)
    half = up_to[-1] / 2
    return float(np.searchsorted(up_to, half) + np.searchsorted(up_to, half, side="right")) / 2
