"""Chunks of token sequences, to train a prior on.

Letters: U utterances, B chunks, N codes per chunk.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vqaudio.data.sharding import part_slice, uniform_draws
from vqaudio.data.splits import split_group
from vqaudio.tokens.rows import TokenRow


@dataclass(frozen=True, eq=False)
class CodeSequences:
    """The codes of many utterances of one model."""

    codes: tuple[npt.NDArray[np.int64], ...]
    """U sequences"""
    speaker_ids: npt.NDArray[np.int64]
    """(U,) indices into the speakers that were given"""
    codebook_size: int
    """K"""
    model: str
    """fingerprint of the model that made them"""

    @property
    def num_codes(self) -> int:
        """Of all utterances."""
        return sum(map(len, self.codes))


def sequences(rows: Iterable[TokenRow], speakers: Sequence[str], codebook_size: int, model: str) -> CodeSequences:
    """Token rows of `model` -> their codes. A speaker who is not among `speakers` is nobody, with the id behind theirs.

    Raises ValueError for rows of another model, codes out of range, and no rows at all.
    """
    ids = {name: i for i, name in enumerate(speakers)}
    codes, speaker_ids = [], []
    for row in rows:
        if row.tokens.model != model:
            raise ValueError(
                f"{row.id!r} has tokens of model {row.tokens.model}, the tokenizer is model {model}; tokenize again"
            )
        own = row.tokens.codes.numpy()
        if len(own) and not 0 <= own.min() <= own.max() < codebook_size:
            raise ValueError(f"{row.id!r} has codes outside 0..{codebook_size - 1}: {own.min()} to {own.max()}")
        codes.append(own)
        speaker_ids.append(ids.get(row.speaker or "", len(speakers)))
    if not codes:
        raise ValueError("there are no token rows")
    return CodeSequences(tuple(codes), np.array(speaker_ids, dtype=np.int64), codebook_size, model)


def split_rows(rows: Sequence[TokenRow], valid: float, seed: int = 0) -> tuple[list[TokenRow], list[TokenRow]]:
    """Token rows -> (train, valid): of each speaker the fraction `valid`, chosen by id, whatever the order of the rows.

    Raises ValueError where nothing would be left to validate on.
    """
    by_speaker: dict[str | None, list[TokenRow]] = {}
    for row in rows:
        by_speaker.setdefault(row.speaker, []).append(row)
    parts = [split_group(own, lambda row: row.id, valid=valid, test=0.0, seed=seed) for own in by_speaker.values()]
    held_out = {row.id for _, own, _ in parts for row in own}
    if not held_out:
        raise ValueError(
            f"{len(rows)} utterances of {len(by_speaker)} speakers are too few to hold some out for validation (3 or more "
            "of a speaker are needed); name token files to validate on (valid_tokens)"
        )
    return [row for row in rows if row.id not in held_out], [row for row in rows if row.id in held_out]


@dataclass(frozen=True)
class CodeCropConfig:
    """Of training chunks."""

    length: int = 512
    """N, length of a chunk"""
    batch_size: int = 16
    """chunks per optimizer step, over all processes and accumulation steps together"""
    seed: int = 0
    """with the number of the step, it decides every chunk"""

    def __post_init__(self) -> None:
        if self.length < 1 or self.batch_size < 1 or not 0 <= self.seed < 2**63:
            raise ValueError(f"length and batch_size must be at least 1 and seed lie in 0 to 2**63 - 1, got {self}")


class CodeCrops:
    """Random chunks, every place of every utterance equally often; a pure function of (seed, step, part)."""

    seconds_per_step = 0.0  # it is no audio

    def __init__(self, found: CodeSequences, cfg: CodeCropConfig):
        self.found, self.cfg = found, cfg
        self._ends = np.cumsum([max(1, len(codes) - cfg.length + 1) for codes in found.codes])

    def batch(self, step: int, part: int = 0, parts: int = 1) -> dict[str, Tensor]:
        """The `part`-th of `parts` slices of a batch: {"codes": (B, N), "speaker": (B,), "lengths": (B,)} int64."""
        draws = uniform_draws(self.cfg.seed, step, (self.cfg.batch_size,))
        places = (draws * self._ends[-1]).astype(np.int64)[part_slice(self.cfg.batch_size, part, parts)]
        chosen = np.searchsorted(self._ends, places, side="right")
        starts = places - np.append(0, self._ends)[chosen]
        cut = [self.found.codes[u][s : s + self.cfg.length] for u, s in zip(chosen, starts, strict=True)]
        return padded(cut, self.found.speaker_ids[chosen], self.cfg.length)


def whole_utterances(found: CodeSequences, codes_at_once: int) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
    """All utterances, the longest first, in batches of at most about so many codes, padding included: which, batch."""
    order = sorted(range(len(found.codes)), key=lambda u: -len(found.codes[u]))
    while order:
        longest = max(1, len(found.codes[order[0]]))
        own, order = order[: (count := max(1, codes_at_once // longest))], order[count:]
        yield own, padded([found.codes[u] for u in own], found.speaker_ids[own], longest)


def padded(
    codes: Sequence[npt.NDArray[np.int64]], speaker_ids: npt.NDArray[np.int64], length: int
) -> dict[str, Tensor]:
    """Sequences of at most `length` codes -> one batch, zeros behind their ends."""
    rows = torch.zeros(len(codes), length, dtype=torch.long)
    for row, own in zip(rows, codes, strict=True):
        row[: len(own)] = torch.from_numpy(np.ascontiguousarray(own))
    lengths = torch.tensor([len(own) for own in codes])
    return {"codes": rows, "speaker": torch.from_numpy(speaker_ids), "lengths": lengths}
