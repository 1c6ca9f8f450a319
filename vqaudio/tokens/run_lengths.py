"""Run-length coding of codes: runs of equal codes as one unit each, with their lengths in frames.

Letters: N frames, M runs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Codes = npt.NDArray[np.int64]


class RunLengths(NamedTuple):
    """Deduplicated codes."""

    units: Codes
    """(M,) codes, of which no two neighbours are equal"""
    duration: Codes
    """(M,) frames of each, at least 1; their sum is N"""


def run_lengths(codes: Codes) -> RunLengths:
    """Codes (N,), N >= 1 -> its runs; `expanded` is the inverse."""
    starts = np.flatnonzero(np.diff(codes, prepend=codes[0] - 1))
    return RunLengths(codes[starts], np.diff(starts, append=len(codes)))


def expanded(units: Codes, duration: Codes, num_frames: int) -> Codes:
    """Units (M,) and their lengths (M,) -> codes (N,).

    Raises ValueError for lengths of another number, below 1, or with another sum than `num_frames`.
    """
    if len(units) != len(duration) or (len(duration) and duration.min() < 1) or duration.sum() != num_frames:
        raise ValueError(
            f"duration must have a number of frames, at least 1, for each of the {len(units)} units, {num_frames} in "
            f"all, got {len(duration)} numbers from {min(duration, default=0)}, {duration.sum()} in all"
        )
    return np.repeat(units, duration)
