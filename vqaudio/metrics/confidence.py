"""Estimates: a value, its 95 % confidence interval (percentile bootstrap), and the number of items it is based on.

Letters: M items (utterances, speakers or crops) that are resampled with replacement.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
DRAWS = 1000
LEVEL = 0.95


class Estimate(NamedTuple):
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float
    count: int  # resampled items; for a single item the interval has no width and no meaning


def ratio(above: npt.ArrayLike, below: npt.ArrayLike, groups: Sequence[Hashable] | None = None) -> Estimate:
    """Sum of (M,) over sum of (M,): correct frames over all frames, errors over words, bits over seconds.

    `groups`: items of one group, such as the utterances of a speaker, are resampled together; without it every item
    alone. NaN where the denominators sum to 0. Raises ValueError for no items and for different lengths.
    """
    numerators, denominators = np.asarray(above, np.float64), np.asarray(below, np.float64)
    if numerators.shape != denominators.shape or numerators.ndim != 1:
        raise ValueError(f"a ratio takes two arrays (M,), got {numerators.shape} and {denominators.shape}")
    if groups is not None:
        if len(groups) != len(numerators):
            raise ValueError(f"{len(numerators)} items have {len(groups)} groups; give as many of both")
        index = {name: i for i, name in enumerate(dict.fromkeys(groups))}
        of = np.array([index[name] for name in groups], dtype=np.intp)
        numerators = np.bincount(of, numerators, minlength=len(index))
        denominators = np.bincount(of, denominators, minlength=len(index))

    def statistic(weights: Floats) -> float:
        total = float(weights @ denominators)
        return float(weights @ numerators) / total if total else float("nan")

    return bootstrap(statistic, len(numerators))


def mean(values: npt.ArrayLike, groups: Sequence[Hashable] | None = None) -> Estimate:
    """The mean of (M,); `groups` as in `ratio`."""
    array = np.asarray(values, np.float64)
    return ratio(array, np.ones_like(array), groups)


def bootstrap(statistic: Callable[[Floats], float], count: int, draws: int = DRAWS, seed: int = 0) -> Estimate:
    """The estimate of `statistic`, a function of weights (M,): how often each item counts.

    The value is that of weights of 1. Resamples for which the statistic is NaN (division by 0) are left out of the
    interval. The same items give the same interval. Raises ValueError where there are no items.
    """
    if count < 1:
        raise ValueError("there is nothing to estimate from: no items")
    value, generator = float(statistic(np.ones(count))), np.random.default_rng(seed)
    if count == 1 or np.isnan(value):
        return Estimate(value, value, value, count)
    drawn = np.array(
        [
            statistic(np.bincount(generator.integers(count, size=count), minlength=count).astype(np.float64))
            for _ in range(draws)
        ]
    )
    tail = (1 - LEVEL) / 2
    low, high = np.nanquantile(drawn, [tail, 1 - tail])
    return Estimate(value, float(low), float(high), count)
