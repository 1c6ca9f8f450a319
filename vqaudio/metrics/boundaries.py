"""Segment boundaries: precision, recall, F1 and R-value of one set of boundaries against a reference.

Letters: R reference boundaries, F found boundaries.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from vqaudio.data.alignments import ROUNDING, Alignment
from vqaudio.metrics.confidence import Estimate, bootstrap

Times = npt.NDArray[np.float64]
TOLERANCE = 0.02  # seconds: the usual tolerance of the field
SLACK = 1e-9  # seconds, for rounding errors


def boundaries(alignment: Alignment) -> Times:
    """Starts and ends of segments (R,), sorted, without the first start and the last end."""
    times = [segment.start for segment in alignment[1:]]
    times += [first.end for first, second in pairwise(alignment) if second.start - first.end > ROUNDING]
    return np.sort(np.array(times, dtype=np.float64))


def hits(reference: Times, found: Times, tolerance: float = TOLERANCE) -> int:
    """The size of the largest one-to-one matching of two sorted (R,), (F,) within the tolerance.

    Greedy: the earliest reference boundary takes the earliest found one within the tolerance, which is optimal for a
    constant tolerance.
    """
    count, first, reach = 0, 0, tolerance + SLACK
    late = np.searchsorted(found, reference - reach)  # (R,): index of the first found boundary that is not too early
    for time, start in zip(reference.tolist(), late.tolist(), strict=True):
        first = max(first, start)
        if first < len(found) and found[first] <= time + reach:
            count, first = count + 1, first + 1
    return count


def precision(hit: float, reference: float, found: float) -> float:
    return hit / found if found else math.nan


def recall(hit: float, reference: float, found: float) -> float:
    return hit / reference if reference else math.nan


def f1(hit: float, reference: float, found: float) -> float:
    """Numbers of boundaries -> the harmonic mean of precision and recall; NaN without any boundaries."""
    return 2 * hit / (reference + found) if reference + found else math.nan


def r_value(hit: float, reference: float, found: float) -> float:
    """Numbers of boundaries -> the R-value of Räsänen, Laine and Altosaar (2009), at most 1; NaN without a reference.

    Unlike F1 it penalises over-segmentation: it is one minus the mean of two distances in the plane of hit rate and
    over-segmentation, to the ideal point and to the line on which every additional boundary is a hit.
    """
    if not reference:
        return math.nan
    missed, excess = 1 - hit / reference, found / reference - 1
    return 1 - (math.hypot(missed, excess) + abs(missed + excess) / math.sqrt(2)) / 2


SCORES = {"precision": precision, "recall": recall, "f1": f1, "r_value": r_value}


def boundary_metrics(
    reference: Sequence[Times],
    found: Sequence[Times],
    groups: Sequence[Hashable],
    scores: Iterable[str] = tuple(SCORES),
) -> dict[str, Estimate]:
    """Boundaries of utterances in seconds, and groups that are resampled together, such as speakers -> SCORES.

    Counts are summed over utterances. A group without boundaries is not resampled.
    """
    table = {name: np.zeros(3) for name in dict.fromkeys(groups)}
    for theirs, ours, name in zip(reference, found, groups, strict=True):
        table[name] += hits(theirs, ours), len(theirs), len(ours)
    counts = np.array([row for row in table.values() if row.any()]).reshape(-1, 3)
    if not len(counts):
        return dict.fromkeys(scores, Estimate(math.nan, math.nan, math.nan, 0))
    return {
        name: bootstrap(lambda weights, name=name: SCORES[name](*(weights @ counts)), len(counts)) for name in scores
    }
