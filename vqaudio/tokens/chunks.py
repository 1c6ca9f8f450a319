"""Batches of code sequences for training and evaluating a prior: random crops, or whole utterances.

Letters: U utterances, B batch size, N codes per crop, K codebook size.
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
from vqaudio.nn.quantizer_protocol import check_codes
from vqaudio.tokens.rows import TokenRow


@dataclass(frozen=True, eq=False)
class CodeSequences:
    """The codes of many utterances, all computed by one tokenizer."""

    codes: tuple[npt.NDArray[np.int64], ...]
    """U sequences of codes"""
    speaker_ids: npt.NDArray[np.int64]
    """(U,) speaker indices; one past the last known speaker is the null speaker"""
    codebook_size: int
    """K"""
    model: str
    """fingerprint of the tokenizer"""

    @property
    def num_codes(self) -> int:
        """Total number of codes."""
        return sum(map(len, self.codes))


def sequences(rows: Iterable[TokenRow], speakers: Sequence[str], codebook_size: int, model: str) -> CodeSequences:
    """Token rows -> their codes. Speakers that are not in `speakers` become the null speaker, with id len(speakers).

    Raises ValueError for rows of another tokenizer than `model`, for codes outside 0..codebook_size - 1 and no rows.
    """
    ids = {name: i for i, name in enumerate(speakers)}
    codes, speaker_ids = [], []
    for row in rows:
        if row.tokens.model != model:
            raise ValueError(
                f"{row.id!r} has tokens of model {row.tokens.model}, but the tokenizer is model {model}; tokenize the "
                "audio again with this tokenizer"
            )
        sequence = row.tokens.codes.numpy()
        check_codes(sequence, codebook_size, f"codes of {row.id!r}")
        codes.append(sequence)
        speaker_ids.append(ids.get(row.speaker or "", len(speakers)))
    if not codes:
        raise ValueError("there are no token rows; give token files with at least one utterance")
    return CodeSequences(tuple(codes), np.array(speaker_ids, dtype=np.int64), codebook_size, model)


def split_rows(rows: Sequence[TokenRow], valid: float, seed: int = 0) -> tuple[list[TokenRow], list[TokenRow]]:
    """Token rows -> (train, valid), with the fraction `valid` of each speaker's utterances held out.

    The choice depends on the ids and the seed, not on the order of the rows. Raises ValueError if no utterance would be
    held out.
    """
    by_speaker: dict[str | None, list[TokenRow]] = {}
    for row in rows:
        by_speaker.setdefault(row.speaker, []).append(row)
    parts = [split_group(group, lambda row: row.id, valid=valid, test=0.0, seed=seed) for group in by_speaker.values()]
    held_out = {row.id for _, group, _ in parts for row in group}
    if not held_out:
        raise ValueError(
            f"{len(rows)} utterances of {len(by_speaker)} speakers are too few to hold out some for validation (at "
            "least 3 utterances of a speaker are needed); give token files for validation (valid_tokens)"
        )
    return [row for row in rows if row.id not in held_out], [row for row in rows if row.id in held_out]


@dataclass(frozen=True)
class CodeCropConfig:
    """Configuration of the training crops of code sequences."""

    length: int = 512
    """length of a crop, in codes"""
    batch_size: int = 16
    """crops per optimizer step, in total over all processes and gradient accumulation steps"""
    seed: int = 0
    """random seed; the crops of a step depend on it and the number of the step only"""

    def __post_init__(self) -> None:
        if self.length < 1 or self.batch_size < 1 or not 0 <= self.seed < 2**63:
            raise ValueError(f"length and batch_size must be at least 1 and seed must lie in 0..2**63 - 1, got {self}")


class CodeCrops:
    """Random crops, uniform over all positions of all utterances; a pure function of (seed, step, part)."""

    seconds_per_step = 0.0  # the batches contain no audio

    def __init__(self, sequences: CodeSequences, cfg: CodeCropConfig):
        self.sequences, self.cfg = sequences, cfg
        self._ends = np.cumsum([max(1, len(codes) - cfg.length + 1) for codes in sequences.codes])

    def batch(self, step: int, part: int = 0, parts: int = 1) -> dict[str, Tensor]:
        """The `part`-th of `parts` slices of a batch: {"codes": (B, N), "speaker": (B,), "lengths": (B,)} int64."""
        draws = uniform_draws(self.cfg.seed, step, (self.cfg.batch_size,))
        places = (draws * self._ends[-1]).astype(np.int64)[part_slice(self.cfg.batch_size, part, parts)]
        chosen = np.searchsorted(self._ends, places, side="right")
        starts = places - np.append(0, self._ends)[chosen]
        crops = [self.sequences.codes[u][s : s + self.cfg.length] for u, s in zip(chosen, starts, strict=True)]
        return padded(crops, self.sequences.speaker_ids[chosen], self.cfg.length)


def whole_utterances(sequences: CodeSequences, max_codes: int) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
    """All utterances, longest first -> (indices of the utterances, batch), each batch with at most `max_codes` codes.

    The count includes padding; an utterance longer than `max_codes` is a batch of its own.
    """
    order = sorted(range(len(sequences.codes)), key=lambda u: -len(sequences.codes[u]))
    while order:
        longest = max(1, len(sequences.codes[order[0]]))
        indices, order = order[: (count := max(1, max_codes // longest))], order[count:]
        yield indices, padded([sequences.codes[u] for u in indices], sequences.speaker_ids[indices], longest)


def padded(
    codes: Sequence[npt.NDArray[np.int64]], speaker_ids: npt.NDArray[np.int64], length: int
) -> dict[str, Tensor]:
    """Sequences of at most `length` codes -> one batch, padded with zeros at the end."""
    rows = torch.zeros(len(codes), length, dtype=torch.long)
    for row, sequence in zip(rows, codes, strict=True):
        row[: len(sequence)] = torch.from_numpy(np.ascontiguousarray(sequence))
    lengths = torch.tensor([len(sequence) for sequence in codes])
    return {"codes": rows, "speaker": torch.from_numpy(speaker_ids), "lengths": lengths}
