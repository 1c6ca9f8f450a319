"""An n-gram model of texts, in the ARPA format.

The smoothing is that of Witten and Bell (1991; Chen and Goodman, 1999, section 2.5), as in `bitrate.bigram_bits`: it
has no parameter to tune and works well with little text.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

BEGIN, END = "<s>", "</s>"
NEVER = -99.0  # how ARPA files write the logarithm of 0
Gram = tuple[str, ...]


def arpa(sentences: Iterable[Sequence[str]], order: int) -> str:
    """Sentences as lists of words -> an n-gram model of that order, as the text of an ARPA file.

    The probability of a word after a history is interpolated with that after the history that is one word shorter,
    whose weight grows with the number of different words that follow. Raises ValueError for no words and an order below
    1.
    """
    if order < 1:
        raise ValueError(f"order must be at least 1, got {order}")
    counts: list[Counter[Gram]] = [Counter() for _ in range(order)]
    for words in sentences:
        line = (BEGIN, *words, END) if words else ()
        for n, found in enumerate(counts, start=1):
            found.update(line[i : i + n] for i in range(len(line) - n + 1))
    counts[0].pop((BEGIN,), None)  # a history, but never predicted
    if not counts[0]:
        raise ValueError("a language model needs words, but the texts have none")
    total = counts[0].total()
    chances = [{gram: count / total for gram, count in counts[0].items()}]
    shorter: list[dict[Gram, float]] = []  # by history: the back-off weight
    for found in counts[1:]:
        before: Counter[Gram] = Counter()
        for gram, count in found.items():
            before[gram[:-1]] += count
        kinds = Counter(gram[:-1] for gram in found)
        shorter.append({own: kinds[own] / (before[own] + kinds[own]) for own in before})
        chances.append(
            {
                gram: count / (before[gram[:-1]] + kinds[gram[:-1]]) + shorter[-1][gram[:-1]] * chances[-1][gram[1:]]
                for gram, count in found.items()
            }
        )
    return _file([{(BEGIN,): 0.0, **chances[0]}, *chances[1:]], [*shorter, {}])


def _file(chances: list[dict[Gram, float]], shorter: list[dict[Gram, float]]) -> str:
    """Probabilities and back-off weights of each order -> the text; n-grams in alphabetical order."""
    lines = ["\\data\\", *(f"ngram {n}={len(own)}" for n, own in enumerate(chances, start=1))]
    for n, (own, weights) in enumerate(zip(chances, shorter, strict=True), start=1):
        lines += ["", f"\\{n}-grams:"]
        for gram in sorted(own):
            line = f"{_log(own[gram]):.6f}\t{' '.join(gram)}"
            lines.append(f"{line}\t{_log(weights[gram]):.6f}" if gram in weights else line)
    return "\n".join([*lines, "", "\\end\\", ""])


def _log(chance: float) -> float:
    return math.log10(chance) if chance > 0 else NEVER
