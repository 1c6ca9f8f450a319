"""Facts about tokens and about the model that makes them, in words."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator

from vqaudio.tokens.rows import TokenRow


class TokenStats:
    """Counts of rows, seconds and codes, gathered row by row; its size does not grow with the corpus."""

    def __init__(self) -> None:
        self.rows = 0
        self.seconds = 0.0
        self.codes: Counter[int] = Counter()  # how often each occurs
        self.speakers: Counter[str | None] = Counter()  # rows of each
        self.models: Counter[str] = Counter()  # rows of each fingerprint

    def add(self, row: TokenRow) -> None:
        """Count one more row."""
        self.rows += 1
        self.seconds += row.tokens.seconds
        self.codes.update(row.tokens.codes.tolist())
        self.speakers[row.speaker] += 1
        self.models[row.tokens.model] += 1

    def watch(self, rows: Iterable[TokenRow]) -> Iterator[TokenRow]:
        """The same rows, each counted as it passes."""
        for row in rows:
            self.add(row)
            yield row

    @property
    def num_tokens(self) -> int:
        """Codes in all rows."""
        return self.codes.total()

    @property
    def perplexity(self) -> float:
        """Two to the entropy of the codes in bits: as many codes, used equally often, would tell as much."""
        total = self.num_tokens
        shares = [count / total for count in self.codes.values()]
        return 2 ** -sum(share * math.log2(share) for share in shares)

    def facts(self) -> dict[str, str]:
        """Name -> fact, for a reader; there must be a row."""
        names = sorted(name for name in self.speakers if name is not None)
        return {
            "utterances": f"{self.rows}, {self.seconds:.1f} s of audio",
            "tokens": f"{self.num_tokens}, {self.num_tokens / self.seconds:.4g} per second",
            "codes": f"{len(self.codes)} in use, the highest {max(self.codes)}",
            "perplexity": f"{self.perplexity:.1f}",
            "speakers": f"{len(names)}: {', '.join(names)}" if names else "not known",
            "model": ", ".join(self.models),
        }
