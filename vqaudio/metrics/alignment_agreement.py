"""Agreement of phone alignments with reference alignments, such as of forced alignment with hand labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from vqaudio.data.alignments import Alignment
from vqaudio.metrics.boundaries import boundaries, boundary_metrics
from vqaudio.metrics.confidence import Estimate, bootstrap, ratio
from vqaudio.metrics.phone_classes import fold
from vqaudio.metrics.phones import frame_phones

GRID = 1000  # Hz: the frame rate at which alignments are compared


def agreement(
    alignments: Sequence[Alignment], reference: Sequence[Alignment], speakers: Sequence[str]
) -> dict[str, Estimate]:
    """Alignments and reference alignments of the same utterances, and their speakers -> agreement in the 41 classes.

    Intervals are over speakers. same_class: fraction of the time in which both have the same class; boundary_recall,
    boundary_precision: fraction of the reference boundaries with an aligned one within 20 ms, and the reverse;
    deviation: median distance in seconds from a reference boundary to the nearest aligned one; offset: the same with
    its sign, positive for late boundaries.
    """
    ours, theirs = fold(alignments), fold(reference)
    pairs = list(zip(ours.alignments, theirs.alignments, speakers, strict=True))
    same, labelled, deviations = [], [], {name: [np.zeros(0)] for name in dict.fromkeys(speakers)}
    for found, true, speaker in pairs:
        length = int(true[-1].end * GRID) if true else 0
        a, b = (frame_phones(phones, length, GRID, theirs.classes) for phones in (found, true))
        known = (a >= 0) & (b >= 0)
        same.append((a == b)[known].sum())
        labelled.append(known.sum())
        times, wanted = boundaries(found), boundaries(true)
        if len(times):
            differences = times - wanted[:, None]  # (R, F)
            deviations[speaker].append(differences[np.arange(len(wanted)), np.abs(differences).argmin(1)])
    of_speakers = [np.concatenate(parts) for parts in deviations.values()]

    def median(weights: npt.NDArray[np.float64], of: Sequence[npt.NDArray[np.float64]]) -> float:
        drawn = np.concatenate([np.tile(part, int(times)) for part, times in zip(of, weights, strict=True)])
        return float(np.median(drawn)) if len(drawn) else float("nan")

    scores = boundary_metrics(
        [boundaries(true) for _, true, _ in pairs], [boundaries(a) for a, _, _ in pairs], speakers
    )
    return {
        "same_class": ratio(same, labelled, speakers),
        "boundary_recall": scores["recall"],
        "boundary_precision": scores["precision"],
        "deviation": bootstrap(
            lambda weights: median(weights, [np.abs(part) for part in of_speakers]), len(of_speakers)
        ),
        "offset": bootstrap(lambda weights: median(weights, of_speakers), len(of_speakers)),
    }
