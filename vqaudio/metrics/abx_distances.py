"""Distances between sequences of frames: dynamic time warping (DTW).

A path leads from the first frames of both to their last by steps of one frame in either or in both. The distance is the
cost of the cheapest path divided by its length. Of paths with equal cost the shortest counts, so that the distance is
symmetric (fastabx takes the one that backtracking meets first; ABX of codes differs by 0.0001 or less). Costs are
integers, in 2^30 steps from 0 to the greatest, so that sums do not depend on their order.

Letters: I and J sequences, F frames of all of them, D width, U distinct frames.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from typing import Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from vqaudio.metrics.abx_items import Features
from vqaudio.metrics.confidence import Floats

Distance = Literal["angular", "euclidean", "identity"]
Integers = npt.NDArray[np.int64]
Costs = npt.NDArray[np.int32]  # in UNITs
UNIT = 2**30  # beside 16 bits for a path's length, 2^16 such costs fill an int64
MAX_FRAMES = 2**15  # frames of a sequence, so that 16 bits can hold the length of a path
MAX_TABLE_FRAMES = 2048  # distinct frames up to which distances are kept in a table, as for codes and code vectors
FRAME_PAIRS_AT_ONCE = 2**22  # without a table: about 100 MB


class FrameSequences(NamedTuple):
    """Sequences of frames, prepared for distances."""

    starts: Integers  # (I + 1,) into the frames
    symbols: Integers  # (F,) index of each frame into the distinct frames
    different: Floats  # (U, D), scaled so that distances are at most 1; (U, 1) of codes, their numbers
    cost: Callable[[Floats, Floats], Costs]
    table: Costs | None  # (U, U); None where it would be large
    unit: float  # the distance of a cost of UNIT

    def distances(self, first: Integers, second: Integers) -> Floats:
        """Indices of I and of J sequences -> distances (I, J)."""
        found = np.empty((len(first), len(second)))
        columns, column_starts = self._frames(second)
        line = np.empty(np.diff(column_starts).max(), np.int64)
        ends = np.cumsum(np.diff(self.starts)[first])
        at_once = max(1, FRAME_PAIRS_AT_ONCE // len(columns)) if self.table is None else ends[-1] + 1
        cuts = [0, *(np.flatnonzero(np.diff(ends // at_once)) + 1), len(first)]
        for begin, end in pairwise(cuts):
            rows, row_starts = self._frames(first[begin:end])
            costs, own, others = self.table, rows, columns
            if costs is None:
                costs = self.cost(self.different[rows], self.different[columns])
                own, others = np.arange(len(rows)), np.arange(len(columns))
            _warp_compiled()(costs, own, row_starts, others, column_starts, line, found[begin:end])
        return found * (self.unit / UNIT)

    def _frames(self, numbers: Integers) -> tuple[Integers, Integers]:
        """Concatenated symbols, and the start of each sequence in them, followed by the end of the last."""
        lengths = np.diff(self.starts)[numbers]
        starts = np.append(0, np.cumsum(lengths))
        return self.symbols[np.arange(starts[-1]) + np.repeat(self.starts[numbers] - starts[:-1], lengths)], starts


def frame_sequences(frames: Sequence[Features], distance: Distance = "angular") -> FrameSequences:
    """Sequences of vectors (N, D) or of codes (N,) -> prepared for one of three distances.

    "angular": the angle between two vectors over pi; a vector of length 0 is orthogonal to all others.
    "euclidean": the length of their difference. "identity", for codes: 0 for equal codes, else 1. Raises
    ValueError for the wrong kind of frames, different widths, and sequences that are empty or longer than 32,768.
    """
    if distance not in get_args(Distance):
        raise ValueError(f"distance must be one of {', '.join(get_args(Distance))}, got {distance!r}")
    shapes = {own.shape[1:] for own in frames}
    if len(shapes) != 1:
        raise ValueError(f"all features must be codes, or vectors of one width, got {sorted(shapes) or 'none'}")
    codes = shapes == {()}
    if (distance == "identity") != codes:
        raise ValueError(
            f"distance {distance!r} got {'codes' if codes else 'vectors'}; codes (N,) are compared by identity, "
            "vectors (N, D) by the angular or the euclidean distance"
        )
    lengths = [len(own) for own in frames]
    if not 1 <= min(lengths) <= max(lengths) <= MAX_FRAMES:
        raise ValueError(f"an item must have 1 to {MAX_FRAMES} frames, got {min(lengths)} to {max(lengths)}")
    starts, joined = np.append(0, np.cumsum(lengths)), np.concatenate(frames)
    if codes:
        vectors, unit, cost = np.unique(joined, return_inverse=True)[1].reshape(-1, 1).astype(np.float64), 1.0, _others
    else:
        vectors, unit, cost = joined.astype(np.float64), 1.0, _angles
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        if distance == "angular":
            vectors /= np.where(norms > 0, norms, 1)
        else:
            unit, cost = 2 * float(norms.max()) or 1.0, _lengths
            vectors /= unit
    different, symbols = np.unique(vectors, axis=0, return_inverse=True)
    table = cost(different, different) if len(different) <= MAX_TABLE_FRAMES else None
    return FrameSequences(starts, symbols.reshape(-1), different, cost, table, unit)


def _others(first: Floats, second: Floats) -> Costs:
    """(I, 1) and (J, 1), codes -> (I, J)."""
    return (first != second.T) * np.int32(UNIT)


def _angles(first: Floats, second: Floats) -> Costs:
    """(I, D) and (J, D) of length 1 or 0 -> (I, J)."""
    cosines = first @ second.T
    cosines[cosines > 1 - 1e-14] = 1  # equal vectors, up to rounding
    cosines[np.ix_(~first.any(1), ~second.any(1))] = 1
    return np.rint(np.arccos(np.maximum(cosines, -1)) * (UNIT / np.pi)).astype(np.int32)


def _lengths(first: Floats, second: Floats) -> Costs:
    """(I, D) and (J, D) at most 1/2 long -> (I, J)."""
    squares = (first**2).sum(1)[:, None] + (second**2).sum(1) - 2 * first @ second.T
    squares[squares < 1e-14] = 0  # equal vectors, up to rounding
    return np.rint(np.sqrt(np.minimum(squares, 1)) * UNIT).astype(np.int32)


@cache
def _warp_compiled() -> Callable[..., None]:
    """Compiled at the first call, in half a second: a cache on disk would be written into the installed package."""
    from numba import njit

    return njit(_warp)


def _warp(costs, rows, row_starts, columns, column_starts, line, found) -> None:
    """Costs of frame pairs, symbols and starts of I and of J sequences -> fills found (I, J), in UNITs.

    `line`: a buffer for as many frames as the longest of the J has. The cost of a path and its length are one integer,
    the cost above 16 bits: the minimum is the shortest of the cheapest paths.
    """
    for i in range(len(row_starts) - 1):
        for j in range(len(column_starts) - 1):
            begin, end = column_starts[j], column_starts[j + 1]
            path = np.int64(0)
            for c in range(begin, end):
                path += (np.int64(costs[rows[row_starts[i]], columns[c]]) << 16) + 1
                line[c - begin] = path
            for r in range(row_starts[i] + 1, row_starts[i + 1]):
                row = rows[r]
                diagonal = line[0]
                path = diagonal + (np.int64(costs[row, columns[begin]]) << 16) + 1
                line[0] = path
                for c in range(begin + 1, end):
                    above = line[c - begin]
                    path = min(min(diagonal, above), path) + (np.int64(costs[row, columns[c]]) << 16) + 1
                    diagonal = above
                    line[c - begin] = path
            found[i, j] = (path >> 16) / (path & 0xFFFF)
