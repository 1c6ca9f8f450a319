"""How near one alignment of phones is to another, such as a machine's to a person's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from vqaudio.data.alignments import Alignment
from vqaudio.metrics.boundaries import boundaries, boundary_metrics
from vqaudio.metrics.confidence import Estimate, bootstrap, ratio
from vqaudio.metrics.phone_classes import fold
from vqaudio.metrics.phones import frame_phones

GRID = 1000  # Hz, at which alignments are compared


def agreement(made: Sequence[Alignment], by_hand: Sequence[Alignment], speakers: Sequence[str]) -> dict[str, Estimate]:
    """How near alignments are to a person's of the same utterances, in the 41 classes -> figures, over speakers.

    same_class: share of the time in which both have the same class; boundary_recall, boundary_precision: share of the
    person's boundaries that have one of the others within 20 ms, and the other way round; deviation: seconds from one
    of the person's boundaries to the nearest one, the median; offset: the same with its sign, above 0 for late ones.
    """
    ours, theirs = fold(made), fold(by_hand)
    pairs = list(zip(ours.alignments, theirs.alignments, speakers, strict=True))
    same, asked, late = [], [], {name: [np.zeros(0)] for name in dict.fromkeys(speakers)}
    for found, true, speaker in pairs:
        length = int(true[-1].end * GRID) if true else 0
        a, b = (frame_phones(phones, length, GRID, theirs.classes) for phones in (found, true))
        known = (a >= 0) & (b >= 0)
        same.append((a == b)[known].sum())
        asked.append(known.sum())
        times, wanted = boundaries(found), boundaries(true)
        if len(times):
            gaps = times - wanted[:, None]  # (R, F)
            late[speaker].append(gaps[np.arange(len(wanted)), np.abs(gaps).argmin(1)])
    gaps_of = [np.concatenate(parts) for parts in late.values()]

    def median(weights: npt.NDArray[np.float64], of: Sequence[npt.NDArray[np.float64]]) -> float:
        drawn = np.concatenate([np.tile(gaps, int(times)) for gaps, times in zip(of, weights, strict=True)])
        return float(np.median(drawn)) if len(drawn) else float("nan")

    scores = boundary_metrics(
        [boundaries(true) for _, true, _ in pairs], [boundaries(a) for a, _, _ in pairs], speakers
    )
    return {
        "same_class": ratio(same, asked, speakers),
        "boundary_recall": scores["recall"],
        "boundary_precision": scores["precision"],
        "deviation": bootstrap(lambda weights: median(weights, [np.abs(gaps) for gaps in gaps_of]), len(gaps_of)),
        "offset": bootstrap(lambda weights: median(weights, gaps_of), len(gaps_of)),
    }
