"""Texts as a recogniser wants them: words, and an n-gram model of them in the ARPA format.

The smoothing is that of Witten and Bell (1991; Chen and Goodman, 1999, section 2.5), as in `bitrate.bigram_bits`: it
has no number to be tuned, and does well with little text.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

BEGIN, END = "<s>", "</s>"
NEVER = -99.0  # how ARPA files write the logarithm of 0
SMALL = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen")  # fmt: skip
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
LARGE = ((10**9, "billion"), (10**6, "million"), (1000, "thousand"), (100, "hundred"))
Gram = tuple[str, ...]


def words_of(text: str) -> list[str]:
    """Lower case, without punctuation but for apostrophes within words, whole numbers spelled out in English.

    1984 becomes "one thousand nine hundred eighty four", which is not how a year is read.
    """
    plain = unicodedata.normalize("NFKC", text).lower().replace("\u2019", "'")
    plain = re.sub(r"(?<=\d),(?=\d{3})", "", plain)
    plain = re.sub(r"\d+", lambda found: f" {spelled(int(found[0]))} ", plain)
    return re.findall(r"[^\W_]+(?:'[^\W_]+)*", plain)


def spelled(number: int) -> str:
    """0 and above -> its English words; from a trillion on digit by digit."""
    if number >= 10**12:
        return " ".join(SMALL[int(digit)] for digit in str(number))
    for unit, name in LARGE:
        if number >= unit:
            rest = f" {spelled(number % unit)}" if number % unit else ""
            return f"{spelled(number // unit)} {name}{rest}"
    if number < len(SMALL):
        return SMALL[number]
    return TENS[number // 10 - 2] + (f" {SMALL[number % 10]}" if number % 10 else "")


def arpa(sentences: Iterable[Sequence[str]], order: int) -> str:
    """Sentences as lists of words -> an n-gram model of that order, as the text of an ARPA file.

    What follows a history is expected by how often it followed, and, with the weight of how many different words
    did, by the history that is one word shorter. Raises ValueError for no words and for an order below 1.
    """
    if order < 1:
        raise ValueError(f"order must be at least 1, got {order}")
    counts: list[Counter[Gram]] = [Counter() for _ in range(order)]
    for words in sentences:
        line = (BEGIN, *words, END) if words else ()
        for n, found in enumerate(counts, start=1):
            found.update(line[i : i + n] for i in range(len(line) - n + 1))
    counts[0].pop((BEGIN,), None)  # it is a history, but nothing that is expected
    if not counts[0]:
        raise ValueError("a language model needs words; the texts hold none")
    total = counts[0].total()
    chances = [{gram: count / total for gram, count in counts[0].items()}]
    shorter: list[dict[Gram, float]] = []  # by history: the weight of the history that is one word shorter
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
    """Probabilities and back-off weights of each order -> the text; n-grams in the order of the alphabet."""
    lines = ["\\data\\", *(f"ngram {n}={len(own)}" for n, own in enumerate(chances, start=1))]
    for n, (own, weights) in enumerate(zip(chances, shorter, strict=True), start=1):
        lines += ["", f"\\{n}-grams:"]
        for gram in sorted(own):
            line = f"{_log(own[gram]):.6f}\t{' '.join(gram)}"
            lines.append(f"{line}\t{_log(weights[gram]):.6f}" if gram in weights else line)
    return "\n".join([*lines, "", "\\end\\", ""])


def _log(chance: float) -> float:
    return math.log10(chance) if chance > 0 else NEVER
