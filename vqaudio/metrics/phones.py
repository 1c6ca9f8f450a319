"""What do the codes say about phones? The paper's experiment: each code is taken for its likeliest phone.

Which phone that is, is learned from one half of the speakers and asked of the other, both ways round: so every speaker
is scored once, by codes whose meaning others gave them. Beside it stand what needs no code at all, and what two codes
in a row say; how much the codes tell of the phones in bits; and whether codes change where phones do.

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

Codes = npt.NDArray[np.int64]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class PhoneCounts(NamedTuple):
    counts: Ints  # (K, P) frames of each code in each phone
    classes: tuple[str, ...]  # names of the P


class _Frames(NamedTuple):
    """All frames of all utterances (M,), and what is known of each."""

    code: Ints
    phone: Ints  # class, or -1 where nothing is known
    utterance: Ints
    index: Ints  # in its utterance


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
    """Codes (N,) of utterances, what is spoken in them, and who speaks -> figures, with intervals over speakers.

    accuracy: share of frames whose phone the code names; bigram_accuracy: the code and the one before it. majority: of
    naming the commonest phone always; shuffled: of codes that changed places within their utterance (`seed`).
    pnmi: I(phone; code) / H(phone), 0 to 1, counted on the very frames that it is told of, which flatters many codes
    on little speech: pnmi_shuffled says by how much. phone_purity: share of frames that have their code's commonest
    phone; cluster_purity: that have their phone's commonest code. boundary_precision, _recall, _f1 and _r_value: do
    codes change where phones do, within 20 ms; mapped_boundary_*: do the phones change that codes were taken for.

    Phones are the classes of `fold`. A frame has the phone that is spoken at its middle; frames of which the alignment
    says nothing are left out. Raises ValueError for fewer than 2 speakers with aligned speech, for codes out of range,
    for labels without a class and for lists of different lengths.
    """
    if len(speakers) != len(codes):
        raise ValueError(f"{len(codes)} utterances have {len(speakers)} speakers; give as many of both")
    folded = fold(alignments, classes, table)
    frames = _frames(codes, folded.alignments, folded.classes, frame_rate, codebook_size)
    known, speaker = frames.phone >= 0, _indices(speakers)[frames.utterance]
    heard = np.unique(speaker[known])
    if len(heard) < 2:
        raise ValueError(
            "which phone a code is, is learned from half of the speakers and asked of the others: that needs 2 or more "
            f"speakers with aligned speech, got {len(heard)}"
        )
    half = _halves(np.bincount(speaker[known], minlength=len(set(speakers))))[speaker]  # (M,)
    nothing, shuffled = np.zeros_like(half), _shuffled(frames, seed)
    before = np.where(frames.index > 0, np.roll(frames.code, 1), codebook_size)  # K: there is none
    most = _learned(nothing, frames.phone, half, nothing)
    named = _learned(frames.code, frames.phone, half, most)
    guesses = {
        "accuracy": named,
        "majority_accuracy": most,
        "shuffled_accuracy": _learned(shuffled, frames.phone, half, most),
        "bigram_accuracy": _learned(before * codebook_size + frames.code, frames.phone, half, named),
    }
    of, phone = np.searchsorted(heard, speaker[known]), frames.phone[known]
    figures = {name: ratio(np.bincount(of, guess[known] == phone), np.bincount(of)) for name, guess in guesses.items()}
    counted = _counted(of, frames.code[known], phone)
    counted["pnmi_shuffled"] = _counted(of, shuffled[known], phone)["pnmi"]
    figures |= {name: _centred(statistic, len(heard)) for name, statistic in counted.items()}
    reference = [boundaries(alignment) for alignment in folded.alignments]
    for name, units, shown in (("boundary", frames.code, SCORES), ("mapped_boundary", named, ("f1", "r_value"))):
        found = _changes(frames, units, len(codes), frame_rate)
        scores = boundary_metrics(reference, found, speakers, shown)
        figures |= {f"{name}_{score}": estimate for score, estimate in scores.items()}
    return figures


def phone_counts(
    codes: Sequence[Codes],
    alignments: Sequence[Alignment],
    *,
    frame_rate: float,
    codebook_size: int,
    classes: Classes = "paper",
    table: Mapping[str, str] | None = None,
) -> PhoneCounts:
    """How many frames of each code lie in each phone; the arguments are those of `phone_figures`."""
    folded = fold(alignments, classes, table)
    frames = _frames(codes, folded.alignments, folded.classes, frame_rate, codebook_size)
    known, width = frames.phone >= 0, len(folded.classes)
    cells = np.bincount(frames.code[known] * width + frames.phone[known], minlength=codebook_size * width)
    return PhoneCounts(cells.reshape(codebook_size, width), folded.classes)


def frame_phones(alignment: Alignment, num_frames: int, frame_rate: float, classes: Sequence[str]) -> Ints:
    """The class at the middle of each frame (N,), as an index into `classes`; -1 in gaps and after the end."""
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
    if len(joined) and not 0 <= joined.min() <= joined.max() < k:
        raise ValueError(f"codes must lie in 0..{k - 1}, got {joined.min()} to {joined.max()}")
    lengths = [len(sequence) for sequence in codes]
    labels = [frame_phones(a, n, frame_rate, classes) for a, n in zip(alignments, lengths, strict=True)]
    index = np.concatenate([np.arange(n) for n in lengths])
    return _Frames(joined, np.concatenate(labels), np.repeat(np.arange(len(codes)), lengths), index)


def _indices(names: Sequence[str]) -> Ints:
    """Names -> their places in the sorted list of different ones."""
    return np.unique(np.array(names, dtype=object).astype(str), return_inverse=True)[1].astype(np.int64)


def _halves(frames: Ints) -> Ints:
    """Frames of each speaker (S,) -> half 0 or 1 of each: the longest is dealt first, in turns there and back."""
    order = np.argsort(-frames, kind="stable")
    half = np.empty(len(frames), dtype=np.int64)
    half[order] = np.isin(np.arange(len(frames)) % 4, (1, 2))
    return half


def _shuffled(frames: _Frames, seed: int) -> Codes:
    """The codes (M,), of which those with a known phone have changed places within their utterance."""
    gap, chance = frames.phone < 0, np.random.default_rng(seed).random(len(frames.code))
    shuffled = frames.code.copy()
    shuffled[np.lexsort((gap, frames.utterance))] = frames.code[np.lexsort((chance, gap, frames.utterance))]
    return shuffled


def _learned(units: Ints, phones: Ints, half: Ints, otherwise: Ints) -> Ints:
    """Units (M,), their phones, and halves -> for each the likeliest phone of its unit in the other half (M,).

    Of equally likely phones the first; `otherwise` (M,) for units that the other half does not have.
    """
    named, width = otherwise.copy(), int(phones.max()) + 1
    for asked in (half == 0, half == 1):
        taught = ~asked & (phones >= 0)
        pairs, counts = np.unique(units[taught] * width + phones[taught], return_counts=True)
        unit, phone = np.divmod(pairs, width)
        order = np.lexsort((phone, -counts, unit))  # of each unit the likeliest first
        seen, first = np.unique(unit[order], return_index=True)
        at = np.searchsorted(seen, units[asked]).clip(max=len(seen) - 1)
        named[asked] = np.where(seen[at] == units[asked], phone[order][first][at], otherwise[asked])
    return named


def _counted(speaker: Ints, code: Ints, phone: Ints) -> dict[str, Callable[[Floats], float]]:
    """Of frames whose phones are known (M,): what their table of counts tells, by weights of the speakers (S,)."""
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
    return float((counts * np.log(np.maximum(counts, 1))).sum())  # whole numbers; 0 log 0 is 0


def _centred(statistic: Callable[[Floats], float], count: int) -> Estimate:
    """As `bootstrap`, for figures that grow when there are fewer different speakers, as there are in every draw.

    Without that bias, which would leave the value outside of its own interval: the middle of the draws is put on it.
    """
    drawn: list[float] = []

    def kept(weights: Floats) -> float:
        drawn.append(statistic(weights))
        return drawn[-1]

    estimate = bootstrap(kept, count)
    if np.isnan(estimate.value):
        return estimate
    shift = estimate.value - float(np.nanmedian(drawn[1:]))  # there are 2 speakers or more
    return estimate._replace(low=estimate.low + shift, high=estimate.high + shift)


def _changes(frames: _Frames, units: Ints, count: int, frame_rate: float) -> list[Floats]:
    """Where units (M,) change, in seconds, in each utterance: within what is aligned, not where both sides are gaps."""
    known, of, index = frames.phone >= 0, frames.utterance, frames.index
    first, last = np.full(count, len(of)), np.full(count, -1)
    np.minimum.at(first, of[known], index[known])
    np.maximum.at(last, of[known], index[known])
    inside = (index > first[of]) & (index <= last[of]) & (known | np.roll(known, 1))
    changes = np.flatnonzero((units != np.roll(units, 1)) & inside)
    return np.split(index[changes] / frame_rate, np.searchsorted(of[changes], np.arange(1, count)))
