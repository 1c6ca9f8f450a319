"""What the codes look like, before anybody asks what they mean: which are used, how long they stay, what follows what.

Letters: U utterances, N codes of one, K codes in all, L lengths of runs (frames in which one code stays).

All figures describe the utterances at hand. Entropies from counts come out too low, and the less there is to count the
more so, that of pairs by much (K squared of them can occur); numbers of different things grow with every utterance.
Compare them between tokenizers on the same utterances only.

Utterances drawn again and again would add to these errors: a draw lacks a third of the utterances, and with them what
is found nowhere else, so that its entropy, and how much it uses, would lie below the figure nearly always. Hence the
counts are kept, and what is drawn is each utterance's part in the figure (its influence, in the words of the
statisticians): the bits that its codes cost under the shares of all, the codes that it alone uses.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from vqaudio.metrics.bitrate import unigram_bits
from vqaudio.metrics.confidence import Estimate, Floats, bootstrap, ratio

Codes = npt.NDArray[np.int64]
Counts = npt.NDArray[np.int64]


def codebook_usage_metrics(codes: Sequence[Codes], *, codebook_size: int, frame_rate: float) -> dict[str, Estimate]:
    """Utterances (N,) of codes in 0..K-1, `frame_rate` of them per second -> figures by name.

    usage: share of the K codes that occur (0 to 1). entropy: of their shares, in bits (0 to log2 K); perplexity: 2 to
    that power, how many codes used equally often would be as varied (1 to K). repeated: share of the codes that equal
    the one before (0 to 1). run_length_mean in frames, run_length_ms, run_length_median in frames: how long a code stays.
    bigram_entropy: bits of a code for somebody who knows the one before. bigrams, trigrams: how many different ones
    occur; bigram_type_token_ratio, trigram_type_token_ratio: divided by how many there are in all (0 to 1); 1 where none ever comes
    back. NaN where utterances of a single code leave nothing to count. Raises ValueError as `check_codes` does.
    """
    check_codes(codes, codebook_size)
    if not frame_rate > 0:
        raise ValueError(f"frame_rate must be above 0 codes per second, got {frame_rate}")
    lengths, runs = np.array([len(own) for own in codes]), _runs(codes).astype(np.float64)
    entropy = _at_most(math.log2(codebook_size), ratio(unigram_bits(codes), lengths))
    run_length_mean = ratio(lengths, runs.sum(1))
    bits_of_pairs = unigram_bits(_ngrams(codes, 2)) - unigram_bits([own[:-1] for own in codes])
    figures = {
        "usage": _at_most(1, _different(codes, codebook_size)),
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
        figures[f"distinct_{name}s"] = _different(grams, 1)
        figures[f"{name}_type_token_ratio"] = _different(grams, np.array([len(own) for own in grams]))
    return figures


def code_counts(codes: Sequence[Codes], codebook_size: int) -> Counts:
    """(K,): how often each code occurs."""
    return np.bincount(np.concatenate(codes), minlength=codebook_size)


def run_counts(codes: Sequence[Codes]) -> Counts:
    """(L,): how many runs are 1, 2, ... L frames long; a run ends with its utterance."""
    return _runs(codes).sum(0)[1:]


def top_ngrams(codes: Sequence[Codes], n: int, count: int = 20) -> list[tuple[tuple[int, ...], int]]:
    """The most frequent n codes in a row, at most `count`, and how often they occur; the smallest of equals first."""
    rows = np.concatenate([_windows(own, n) for own in codes])
    different, times = np.unique(rows, axis=0, return_counts=True)
    order = np.argsort(-times, kind="stable")[:count]
    return [(tuple(different[i].tolist()), int(times[i])) for i in order]


def check_codes(codes: Sequence[Codes], codebook_size: int) -> None:
    """Raises ValueError for no utterances, what is not (N,) integers with N > 0, and codes outside 0..K-1."""
    if not len(codes):
        raise ValueError("there are no utterances of codes")
    for u, own in enumerate(codes):
        if own.ndim != 1 or not np.issubdtype(own.dtype, np.integer) or not len(own):
            raise ValueError(f"codes must be (N,) integers with N > 0, got {own.shape} {own.dtype} for utterance {u}")
        if own.min() < 0 or own.max() >= codebook_size:
            raise ValueError(
                f"codes must lie in 0..{codebook_size - 1}, got {own.min()} to {own.max()} in utterance {u}; "
                "is codebook_size that of the model that made them?"
            )


def _windows(own: Codes, n: int) -> Codes:
    """(N,) -> (N - n + 1, n), or (0, n) of fewer codes than n."""
    if len(own) < n:
        return own[:0].reshape(0, n)
    return np.lib.stride_tricks.sliding_window_view(own, n)


def _ngrams(codes: Sequence[Codes], n: int) -> list[Codes]:
    """Sequences (N,) -> (N - n + 1,) numbers of what n codes they have in a row: 0, 1, ... with none left out."""
    rows = [_windows(own, n) for own in codes]
    _, numbers = np.unique(np.concatenate(rows), axis=0, return_inverse=True)
    return np.split(numbers.ravel(), np.cumsum([len(own) for own in rows])[:-1])


def _different(symbols: Sequence[Codes], below: int | Counts) -> Estimate:
    """How many different symbols all utterances have, over a number, or over the sum of (U,).

    What is drawn is the number of those that an utterance alone has: so many less there would be without it.
    """
    own = [np.unique(sequence) for sequence in symbols]
    of = np.repeat(np.arange(len(own)), [len(sequence) for sequence in own])
    kinds, first, found_in = np.unique(np.concatenate(own), return_index=True, return_counts=True)
    alone = np.bincount(of[first[found_in == 1]], minlength=len(own))  # (U,)

    def statistic(weights: Floats) -> float:
        total = below if isinstance(below, int) else weights @ below
        return float((len(kinds) + (weights - 1) @ alone) / total) if total else float("nan")

    return bootstrap(statistic, len(own))


def _transformed(figure: Estimate, grows: Callable[[float], float]) -> Estimate:
    return Estimate(grows(figure.value), grows(figure.low), grows(figure.high), figure.count)


def _at_most(limit: float, figure: Estimate) -> Estimate:
    """A figure whose interval ends where it must: parts that are drawn do not know it."""
    return figure._replace(high=min(figure.high, limit))


def _runs(codes: Sequence[Codes]) -> Counts:
    """(U, L + 1): how many runs of 0, 1, ... L frames each utterance has."""
    found = []
    for own in codes:
        ends = np.flatnonzero(np.append(own[1:] != own[:-1], True))
        found.append(np.bincount(np.diff(ends, prepend=-1)))
    counts = np.zeros((len(codes), max(map(len, found))), dtype=np.int64)
    for u, row in enumerate(found):
        counts[u, : len(row)] = row
    return counts


def _median(times: Floats) -> float:
    """Of lengths 0, 1, ..., that occur so many times (L + 1,)."""
    up_to = np.cumsum(times)
    half = up_to[-1] / 2
    return float(np.searchsorted(up_to, half) + np.searchsorted(up_to, half, side="right")) / 2
