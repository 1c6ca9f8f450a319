"""Where one unit ends and the next begins: how well two sets of boundaries agree.

Letters: R boundaries of the reference, F found ones.
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
TOLERANCE = 0.02  # seconds: what the field allows
SLACK = 1e-9  # seconds, of arithmetic


def boundaries(alignment: Alignment) -> Times:
    """Where segments begin and end (R,), sorted, without the first beginning and the last end."""
    times = [segment.start for segment in alignment[1:]]
    times += [first.end for first, second in pairwise(alignment) if second.start - first.end > ROUNDING]
    return np.sort(np.array(times, dtype=np.float64))


def hits(reference: Times, found: Times, tolerance: float = TOLERANCE) -> int:
    """How many pairs of two sorted (R,), (F,) are within the tolerance, if none is in two pairs: as many as can be.

    The earliest found boundary that still fits is taken by the earliest of the reference: for a tolerance that is the
    same everywhere no other matching has more pairs.
    """
    count, first, reach = 0, 0, tolerance + SLACK
    late = np.searchsorted(found, reference - reach)  # (R,): what is found before is too early for it
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
    """Numbers of boundaries -> the harmonic mean of precision and recall; NaN where there are none at all."""
    return 2 * hit / (reference + found) if reference + found else math.nan


def r_value(hit: float, reference: float, found: float) -> float:
    """Numbers of boundaries -> the R-value of Räsänen, Laine and Altosaar (2009), at most 1; NaN without a reference.

    Unlike F1 it cannot be raised by finding boundaries everywhere: it is one minus the mean of two distances, to all
    hits without a boundary too many, and to the line on which every further boundary is a hit.
    """
    if not reference:
        return math.nan
    missed, too_many = 1 - hit / reference, found / reference - 1
    return 1 - (math.hypot(missed, too_many) + abs(missed + too_many) / math.sqrt(2)) / 2


SCORES = {"precision": precision, "recall": recall, "f1": f1, "r_value": r_value}


def boundary_metrics(
    reference: Sequence[Times],
    found: Sequence[Times],
    groups: Sequence[Hashable],
    scores: Iterable[str] = tuple(SCORES),
) -> dict[str, Estimate]:
    """Boundaries of utterances, in seconds, and what is drawn together, such as a speaker's -> SCORES.

    The boundaries of all utterances count together. A group that has none tells nothing and is not drawn.
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
