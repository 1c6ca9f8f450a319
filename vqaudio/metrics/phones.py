"""Codes against phones, the experiment of the paper (arXiv 1711.00937, section 4.2): each code predicts a phone.

The mapping from codes to their most frequent phones is estimated on one half of the speakers and scored on the other,
both ways round, so every speaker is scored once with the mapping of other speakers. Baselines without codes, a bigram
mapping, mutual information, purities, and segment boundaries complete it.

Letters: M frames of all utterances one after another, S speakers, K codes, P phone classes, C pairs of code and phone
that occur.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vqaudio.data.alignments import Alignment
from vqaudio.metrics.boundaries import SCORES, boundaries, boundary_metrics
from vqaudio.metrics.confidence import Estimate, bootstrap, ratio
from vqaudio.metrics.phone_classes import Classes, fold
from vqaudio.nn.quantizer_protocol import check_codes

Codes = npt.NDArray[np.int64]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class _Frames(NamedTuple):
    """All frames of all utterances (M,)."""

    code: Ints
    phone: Ints  # class, or -1 where there is no label
    utterance: Ints
    index: Ints  # within its utterance


def phone_metrics(
    codes: Sequence[Codes],
    alignments: Sequence[Alignment],
    speakers: Sequence[str],
    *,
    frame_rate: float,
    codebook_size: int,
    seed: int = 0,
    classes: Classes = "paper",
    table: Mapping[str, str] | None = None,
) -> dict[str, Estimate]:
    """Codes (N,) of utterances, phone alignments, and speakers -> metrics, with intervals over speakers.

    accuracy: fraction of frames whose phone the code predicts; bigram_accuracy: the code and the one before it.
    majority_accuracy: always the most frequent phone; shuffled_accuracy: codes shuffled within utterances (`seed`).
    pnmi: I(phone; code) / H(phone), 0 to 1, counted on the evaluated frames and therefore too high for many codes on
    little speech; pnmi_shuffled shows by how much. phone_purity: fraction of frames with the most frequent phone of
    their code; cluster_purity: with the most frequent code of their phone. boundary_precision, _recall, _f1 and
    _r_value: code changes against phone boundaries within 20 ms; mapped_boundary_*: changes of the predicted phone.

    Phones are the classes of `fold`. The phone of a frame is the one at its middle; frames without a label are left
    out. Raises ValueError for fewer than 2 speakers with aligned speech, codes out of range, labels without a class,
    and lists of different lengths.
    """
    if len(speakers) != len(codes):
        raise ValueError(f"{len(codes)} utterances have {len(speakers)} speakers; give as many of both")
    folded = fold(alignments, classes, table)
    frames = _frames(codes, folded.alignments, folded.classes, frame_rate, codebook_size)
    known, speaker = frames.phone >= 0, _indices(speakers)[frames.utterance]
    aligned = np.unique(speaker[known])
    if len(aligned) < 2:
        raise ValueError(
            "the mapping from codes to phones is estimated on half of the speakers and scored on the others, which "
            f"needs 2 or more speakers with aligned speech, got {len(aligned)}"
        )
    half = _halves(np.bincount(speaker[known], minlength=len(set(speakers))))[speaker]  # (M,)
    nothing, shuffled = np.zeros_like(half), _shuffled(frames, seed)
    before = np.where(frames.index > 0, np.roll(frames.code, 1), codebook_size)  # K: there is none
    majority = _predicted(nothing, frames.phone, half, nothing)
    predicted = _predicted(frames.code, frames.phone, half, majority)
    predictions = {
        "accuracy": predicted,
        "majority_accuracy": majority,
        "shuffled_accuracy": _predicted(shuffled, frames.phone, half, majority),
        "bigram_accuracy": _predicted(before * codebook_size + frames.code, frames.phone, half, predicted),
    }
    of, phone = np.searchsorted(aligned, speaker[known]), frames.phone[known]
    metrics = {name: ratio(np.bincount(of, own[known] == phone), np.bincount(of)) for name, own in predictions.items()}
    of_table = _table_metrics(of, frames.code[known], phone)
    of_table["pnmi_shuffled"] = _table_metrics(of, shuffled[known], phone)["pnmi"]
    metrics |= {name: _centred(statistic, len(aligned)) for name, statistic in of_table.items()}
    reference = [boundaries(alignment) for alignment in folded.alignments]
    for name, units, shown in (("boundary", frames.code, SCORES), ("mapped_boundary", predicted, ("f1", "r_value"))):
        found = _changes(frames, units, len(codes), frame_rate)
        scores = boundary_metrics(reference, found, speakers, shown)
        metrics |= {f"{name}_{score}": estimate for score, estimate in scores.items()}
    return metrics


def frame_phones(alignment: Alignment, num_frames: int, frame_rate: float, classes: Sequence[str]) -> Ints:
    """The class at the middle of each frame (N,), as an index into `classes`; -1 where there is no segment."""
    middles = (np.arange(num_frames) + 0.5) / frame_rate
    if not alignment:
        return np.full(num_frames, -1)
    starts, ends, labels = zip(*alignment, strict=True)
    index = {name: i for i, name in enumerate(classes)}
    at = np.searchsorted(starts, middles, side="right") - 1  # the last segment that has begun; -1 before the first
    inside = (at >= 0) & (middles < np.array(ends)[at])
    return np.where(inside, np.array([index[label] for label in labels])[at], -1)


def _frames(
    codes: Sequence[Codes], alignments: Sequence[Alignment], classes: Sequence[str], frame_rate: float, k: int
) -> _Frames:
    if len(codes) != len(alignments) or not len(codes):
        raise ValueError(f"{len(codes)} utterances have {len(alignments)} alignments; give 1 or more, as many of both")
    if not frame_rate > 0:
        raise ValueError(f"frame_rate must be above 0 Hz, got {frame_rate}")
    joined = np.concatenate([np.asarray(sequence, np.int64) for sequence in codes])
    check_codes(joined, k)
    lengths = [len(sequence) for sequence in codes]
    labels = [frame_phones(a, n, frame_rate, classes) for a, n in zip(alignments, lengths, strict=True)]
    index = np.concatenate([np.arange(n) for n in lengths])
    return _Frames(joined, np.concatenate(labels), np.repeat(np.arange(len(codes)), lengths), index)


def _indices(names: Sequence[str]) -> Ints:
    """Names -> indices into the sorted list of distinct names."""
    return np.unique(np.array(names, dtype=object).astype(str), return_inverse=True)[1].astype(np.int64)


def _halves(frames: Ints) -> Ints:
    """Frames of each speaker (S,) -> half 0 or 1 of each: dealt by length, 0 1 1 0 0 1 1 0 ..."""
    order = np.argsort(-frames, kind="stable")
    half = np.empty(len(frames), dtype=np.int64)
    half[order] = np.isin(np.arange(len(frames)) % 4, (1, 2))
    return half


def _shuffled(frames: _Frames, seed: int) -> Codes:
    """The codes (M,); those of labelled frames are permuted within their utterance."""
    unlabelled, random = frames.phone < 0, np.random.default_rng(seed).random(len(frames.code))
    shuffled = frames.code.copy()
    shuffled[np.lexsort((unlabelled, frames.utterance))] = frames.code[
        np.lexsort((random, unlabelled, frames.utterance))
    ]
    return shuffled


def _predicted(units: Ints, phones: Ints, half: Ints, otherwise: Ints) -> Ints:
    """Units (M,), phones (M,) and halves (M,) -> the most frequent phone of each unit in the other half (M,).

    Ties go to the first phone; `otherwise` (M,) is for units that the other half does not have.
    """
    predicted, width = otherwise.copy(), int(phones.max()) + 1
    for test in (half == 0, half == 1):
        train = ~test & (phones >= 0)
        pairs, counts = np.unique(units[train] * width + phones[train], return_counts=True)
        unit, phone = np.divmod(pairs, width)
        order = np.lexsort((phone, -counts, unit))  # the most frequent phone of each unit first
        seen, first = np.unique(unit[order], return_index=True)
        at = np.searchsorted(seen, units[test]).clip(max=len(seen) - 1)
        predicted[test] = np.where(seen[at] == units[test], phone[order][first][at], otherwise[test])
    return predicted


def _table_metrics(speaker: Ints, code: Ints, phone: Ints) -> dict[str, Callable[[Floats], float]]:
    """Labelled frames (M,) -> metrics of the table of counts, as functions of the weights of the speakers (S,)."""
    num_speakers, width = int(speaker.max()) + 1, int(phone.max()) + 1
    pairs, cell = np.unique(code * width + phone, return_inverse=True)
    code_of, phone_of = np.divmod(pairs, width)  # (C,), sorted by code
    counts = np.bincount(speaker * len(pairs) + cell, minlength=num_speakers * len(pairs))
    counts = counts.reshape(num_speakers, -1).astype(np.float64)  # (S, C)
    by_phone = np.argsort(phone_of, kind="stable")
    codes_begin = np.unique(code_of, return_index=True)[1]
    phones_begin = np.unique(phone_of[by_phone], return_index=True)[1]

    def pnmi(weights: Floats) -> float:
        cells = weights @ counts
        total = cells.sum()
        phones = _spread(np.add.reduceat(cells[by_phone], phones_begin)) / total
        codes = _spread(np.add.reduceat(cells, codes_begin)) / total
        entropy = math.log(total) - phones
        return (_spread(cells) / total - codes + entropy) / entropy if entropy > 0 else math.nan

    def phone_purity(weights: Floats) -> float:
        cells = weights @ counts
        return float(np.maximum.reduceat(cells, codes_begin).sum() / cells.sum())

    def cluster_purity(weights: Floats) -> float:
        cells = weights @ counts
        return float(np.maximum.reduceat(cells[by_phone], phones_begin).sum() / cells.sum())

    return {f.__name__: f for f in (pnmi, phone_purity, cluster_purity)}


def _spread(counts: Floats) -> float:
    """The sum of n log n."""
    return float((counts * np.log(np.maximum(counts, 1))).sum())  # counts are integers; 0 log 0 is 0


def _centred(statistic: Callable[[Floats], float], count: int) -> Estimate:
    """As `bootstrap`, for statistics that are biased high with fewer distinct speakers, as in every resample.

    The interval is shifted so that the median of the resamples is the value; else the value could lie outside.
    """
    drawn: list[float] = []

    def kept(weights: Floats) -> float:
        drawn.append(statistic(weights))
        return drawn[-1]

    estimate = bootstrap(kept, count)
    if np.isnan(estimate.value):
        return estimate
    shift = estimate.value - float(np.nanmedian(drawn[1:]))  # the first is the value itself
    return estimate._replace(low=estimate.low + shift, high=estimate.high + shift)


def _changes(frames: _Frames, units: Ints, count: int, frame_rate: float) -> list[Floats]:
    """Times in seconds where units (M,) change, by utterance: within the alignment, next to a labelled frame."""
    known, of, index = frames.phone >= 0, frames.utterance, frames.index
    first, last = np.full(count, len(of)), np.full(count, -1)
    np.minimum.at(first, of[known], index[known])
    np.maximum.at(last, of[known], index[known])
    inside = (index > first[of]) & (index <= last[of]) & (known | np.roll(known, 1))
    changes = np.flatnonzero((units != np.roll(units, 1)) & inside)
    return np.split(index[changes] / frame_rate, np.searchsorted(of[changes], np.arange(1, count)))
