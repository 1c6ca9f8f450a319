"""ABX phone discrimination: how often a phone is nearer to another phone than to another token of itself.

X and A are two tokens of one phone, B is one of another phone. An error is d(A, X) > d(B, X); a tie counts as half an
error; chance is 0.5. No probe is trained. This is the machine ABX of Schatz et al. (Interspeech 2013) and
of the ZeroSpeech challenges (Dunbar et al., 2017 to 2021), with the frames and the averages of fastabx (Poli et al.):

d      dynamic time warping over frames (`abx_distances`)
cell   one context, an ordered pair of phones (that of A and X, and that of B), the speaker of A and B, and that of X:
       the same one within speakers, another one across speakers
error  of a cell: over all its triples; then the plain mean of these over contexts (across speakers over contexts and
       speakers of X in one); then over the speakers of A and B; then over the pairs of phones

Features without phonetic information need not give exactly 0.5, because durations differ: random codes on 80 sentences
of TIMIT give 0.51 to 0.53. A constant code gives exactly 0.5.

Letters: I items of X, J of A and B, P phones, S speakers, M pairs of speakers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import combinations
from typing import Literal, NamedTuple, get_args

import numpy as np

from vqaudio.metrics.abx_distances import Distance, FrameSequences, Integers, frame_sequences
from vqaudio.metrics.abx_items import Context, Features, Item, check_features, choose_context, frames_of
from vqaudio.metrics.confidence import Estimate, Floats, bootstrap


def abx_metrics(
    features: Mapping[str, Features],
    items: Sequence[Item],
    *,
    frame_rate: float,
    distance: Distance = "angular",
    context: Context | Literal["auto"] = "auto",
    max_items_per_cell: int = 20,
    max_speaker_pairs: int = 100,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Features of utterances, (N, D) or codes (N,), and their items (`items_of`) -> ABX error rates, lower is better.

    `context`: "triphone" compares items with equal neighbours, "any" all items of one or two speakers; "auto" leaves
    the choice to `choose_context`. `max_items_per_cell`: maximum number of tokens of a phone by a speaker in a context;
    `max_speaker_pairs`: maximum number of pairs of speakers; both are random subsets.

    abx_within, abx_across: NaN without any cell, such as across a single speaker; intervals are over speakers. Besides
    them: numbers of cells abx_cells_within and abx_cells_across; abx_items, how many of `count` items were used;
    abx_triphone_context, 1 for "triphone" and 0 for "any".

    Raises ValueError for features that are missing, too short or of the wrong kind for the distance, and where there is
    no cell at all.
    """
    if not items:
        raise ValueError("there are no items to compare; items_of makes them from alignments")
    if context not in ("auto", *get_args(Context)):
        raise ValueError(f"context must be 'triphone', 'any' or 'auto', got {context!r}")
    if min(max_items_per_cell, max_speaker_pairs) < 1:
        raise ValueError(
            "max_items_per_cell and max_speaker_pairs must be at least 1, "
            f"got {max_items_per_cell} and {max_speaker_pairs}"
        )
    chosen = choose_context(items) if context == "auto" else context
    rng = np.random.default_rng(seed)
    used = _draw(items, chosen, max_items_per_cell, rng)
    tokens = frame_sequences(_cut(features, used, frame_rate), distance)
    speakers = sorted({item.speaker for item in used})
    pairs = list(combinations(range(len(speakers)), 2))
    if len(pairs) > max_speaker_pairs:
        pairs = [pairs[i] for i in np.sort(rng.choice(len(pairs), max_speaker_pairs, replace=False))]
    within, across = _scores(tokens, used, chosen, speakers, pairs)
    cells = int(within.counts.sum()), int(across.counts.sum())
    if not any(cells):
        raise ValueError(
            f"no phone of the {len(items)} items can be compared with another ({chosen} context): ABX needs two tokens "
            "of one phone and one of another in the same context, of one speaker or of two"
        )
    numbers = {"abx_cells_within": cells[0], "abx_cells_across": cells[1], "abx_items": len(used)}
    numbers["abx_triphone_context"] = int(chosen == "triphone")
    return {
        "abx_within": _estimate(within, len(speakers)),
        "abx_across": _estimate(across, len(speakers)),
        **{name: Estimate(value, value, value, len(items)) for name, value in numbers.items()},
    }


class _Cells(NamedTuple):
    """Sums and numbers of the error rates of cells, by pair of speakers."""

    of_ab: Integers  # (M,) the speaker of A and B
    of_x: Integers  # (M,)
    sums: Floats  # (M, P * P)
    counts: Floats  # (M, P * P)


def _draw(items: Sequence[Item], context: Context, most: int, rng: np.random.Generator) -> list[Item]:
    """At most `most` items of each context, speaker and phone, sorted by these."""
    groups: defaultdict[tuple[str, ...], list[Item]] = defaultdict(list)
    for item in items:
        groups[(*_context_of(item, context), item.speaker, item.phone)].append(item)
    drawn = []
    for key in sorted(groups):
        own = groups[key]
        drawn += own if len(own) <= most else [own[i] for i in np.sort(rng.choice(len(own), most, replace=False))]
    return drawn


def _context_of(item: Item, context: Context) -> tuple[str, ...]:
    return (item.previous, item.next) if context == "triphone" else ()


def _cut(features: Mapping[str, Features], items: Sequence[Item], frame_rate: float) -> list[Features]:
    """Features of each item."""
    if frame_rate <= 0:
        raise ValueError(f"the frame rate must be above 0 Hz, got {frame_rate}")
    for utterance in dict.fromkeys(item.utterance for item in items):
        check_features(utterance, features.get(utterance))
    utterances = [features[item.utterance] for item in items]
    return [own[frames_of(item, frame_rate, len(own))] for item, own in zip(items, utterances, strict=True)]


def _scores(
    tokens: FrameSequences, items: Sequence[Item], context: Context, speakers: list[str], pairs: list[tuple[int, int]]
) -> tuple[_Cells, _Cells]:
    """Items sorted by context, speaker and phone -> cells within speakers, cells across speakers."""
    names = {name: i for i, name in enumerate(sorted({item.phone for item in items}))}
    phones = np.array([names[item.phone] for item in items])
    contexts: defaultdict[tuple[str, ...], defaultdict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for number, item in enumerate(items):
        contexts[_context_of(item, context)][item.speaker].append(number)
    alone = np.arange(len(speakers))
    both = np.array([*pairs, *(pair[::-1] for pair in pairs)], dtype=np.int64).reshape(-1, 2)
    size = len(names) ** 2
    within, across = (
        _Cells(ab, x, np.zeros((len(ab), size)), np.zeros((len(ab), size)))
        for ab, x in ((alone, alone), (both[:, 0], both[:, 1]))
    )

    def add(to: _Cells, m: int, found: Floats, x: Integers, ab: Integers, same: bool) -> None:
        bounds = [np.searchsorted(phones[own], np.arange(len(names) + 1)) for own in (x, ab)]
        table = (len(names), len(names))
        _count_compiled()(found, *bounds, same, to.sums[m].reshape(table), to.counts[m].reshape(table))

    for by_speaker in contexts.values():
        here = {s: np.array(by_speaker[name]) for s, name in enumerate(speakers) if name in by_speaker}
        several = {s for s, own in here.items() if len(np.unique(phones[own])) > 1}
        for s in several:
            if len(np.unique(phones[here[s]])) < len(here[s]):
                add(within, s, tokens.distances(here[s], here[s]), here[s], here[s], True)
        for m, (s, t) in enumerate(pairs):
            if s in here and t in here and {s, t} & several:
                found = tokens.distances(here[s], here[t])
                add(across, m, np.ascontiguousarray(found.T), here[t], here[s], False)
                add(across, m + len(pairs), found, here[s], here[t], False)
    return within, across


def _estimate(cells: _Cells, num_speakers: int) -> Estimate:
    """The mean over cells, speakers and pairs of phones, with an interval over speakers."""
    used = cells.counts.sum(0) > 0
    sums, counts = cells.sums[:, used], cells.counts[:, used]
    own = np.arange(num_speakers)[:, None] == cells.of_ab  # (S, M)

    def statistic(weights: Floats) -> float:
        weighted = own * weights[cells.of_x]
        above, below = weighted @ sums, weighted @ counts  # (S, pairs of phones)
        total = weights @ (below > 0)
        means = np.divide(above, below, where=below > 0, out=np.zeros_like(above))
        return float(((weights @ means)[total > 0] / total[total > 0]).mean()) if total.any() else float("nan")

    return bootstrap(statistic, num_speakers)


@cache
def _count_compiled() -> Callable[..., None]:
    """Compiled at the first call, in half a second."""
    from numba import njit

    return njit(_count)


def _count(found, of_x, of_ab, same, sums, counts) -> None:
    """Distances (I, J) of items sorted by phone, and the bounds (P + 1,) of the phones -> adds to (P, P)."""
    phones = len(of_x) - 1
    for p in range(phones):
        triples_of_b = (of_x[p + 1] - of_x[p]) * (of_ab[p + 1] - of_ab[p] - same)
        if triples_of_b < 1:
            continue
        for q in range(phones):
            num_b = of_ab[q + 1] - of_ab[q]
            if p == q or num_b == 0:
                continue
            halves = 0
            for x in range(of_x[p], of_x[p + 1]):
                for a in range(of_ab[p], of_ab[p + 1]):
                    if same and a == x:
                        continue
                    for b in range(of_ab[q], of_ab[q + 1]):
                        halves += (found[x, a] > found[x, b]) + (found[x, a] >= found[x, b])
            sums[p, q] += halves / (2 * triples_of_b * num_b)
            counts[p, q] += 1
