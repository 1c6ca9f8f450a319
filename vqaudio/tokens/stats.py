"""Statistics of token rows."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator

from vqaudio.tokens.rows import TokenRow


class TokenStats:
    """Counts of rows, seconds and codes, accumulated row by row; memory does not grow with the corpus."""

    def __init__(self) -> None:
        self.rows = 0
        self.pitch_tokens = 0
        self.seconds = 0.0
        self.codes: Counter[int] = Counter()  # code -> number of occurrences
        self.speakers: Counter[str | None] = Counter()  # speaker -> number of rows
        self.models: Counter[str] = Counter()  # fingerprint -> number of rows

    def add(self, row: TokenRow) -> None:
        """Counts one row."""
        self.add_units(row.tokens.codes.tolist())
        self.seconds += row.tokens.seconds
        self.pitch_tokens += 0 if row.tokens.pitch is None else len(row.tokens.pitch.codes)
        self.speakers[row.speaker] += 1
        self.models[row.tokens.model] += 1

    def add_units(self, codes: Iterable[int]) -> None:
        """Counts a row of unit text, of which nothing but the codes is known."""
        self.rows += 1
        self.codes.update(codes)

    def watch(self, rows: Iterable[TokenRow]) -> Iterator[TokenRow]:
        """Yields the same rows and counts each of them."""
        for row in rows:
            self.add(row)
            yield row

    @property
    def num_tokens(self) -> int:
        """Total number of codes."""
        return self.codes.total()

    @property
    def perplexity(self) -> float:
        """Codebook perplexity: 2 to the entropy, in bits, of the codes' relative frequencies."""
        total = self.num_tokens
        frequencies = [count / total for count in self.codes.values()]
        return 2 ** -sum(p * math.log2(p) for p in frequencies)

    def facts(self) -> dict[str, str]:
        """Name -> value of the statistics as text, for `vqaudio info`; at least one row must have been counted."""
        names = sorted(name for name in self.speakers if name is not None)
        known = bool(self.models)
        per_second = (
            f"{self.pitch_tokens}, {self.pitch_tokens / self.seconds:.4g} per second" if self.pitch_tokens else ""
        )
        return {
            "utterances": f"{self.rows}, {self.seconds:.1f} s of audio" if known else f"{self.rows}",
            "codes": f"{self.num_tokens}, {self.num_tokens / self.seconds:.4g} per second"
            if known
            else f"{self.num_tokens}",
            "usage": f"{len(self.codes)} different codes, highest {max(self.codes)}",
            "perplexity": f"{self.perplexity:.1f}",
            **({"pitch": per_second} if per_second else {}),
            "speakers": f"{len(names)}: {', '.join(names)}" if names else "unknown",
            "model": ", ".join(self.models) or "unknown: unit text has ids and codes alone",
        }
