"""Tokens to speech in bulk: utterances of similar length are decoded together.

Letters: T samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from vqaudio.models.speech import SpeechVQVAE
from vqaudio.models.tokens import Tokens
from vqaudio.tokens.rows import TokenRow

WINDOW = 8  # batches that are sorted by length at once: enough to pad little, few enough to stay in memory


class Line(NamedTuple):
    """One utterance to speak, as an actor has lines."""

    path: Path  # of the audio file that it becomes
    tokens: Tokens
    speaker: str | None  # None for a model without speakers


class Spoken(NamedTuple):
    line: Line
    wav: Tensor  # (T,) float32 in [-1, 1]


def speak(
    model: SpeechVQVAE,
    lines: Iterable[Line],
    *,
    batch: int = 16,
    temperature: float = 1.0,
    top_k: int | None = None,
    seed: int = 0,
) -> Iterator[Spoken]:
    """Decode all lines, `batch` at once; within a window of batches the longest come first.

    Raises ValueError as `model.decode` does.
    """
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")
    lines = iter(lines)
    while window := sorted(islice(lines, WINDOW * batch), key=lambda line: -line.tokens.num_samples):
        for start in range(0, len(window), batch):
            together = window[start : start + batch]
            names = [line.speaker for line in together if line.speaker is not None]
            wavs = model.decode(
                [line.tokens for line in together], names or None, temperature=temperature, top_k=top_k, seed=seed
            )
            for line, wav in zip(together, wavs, strict=True):
                yield Spoken(line, wav)


def check_row(model: SpeechVQVAE, row: TokenRow) -> None:
    """Raises ValueError, with the row's id, for tokens that this model cannot speak."""
    try:
        model.check_tokens(row.tokens)
    except ValueError as error:
        raise ValueError(f"{row.id}: {error}") from error
    if (row.tokens.sample_rate, row.tokens.hop) != (model.sample_rate, model.hop):
        raise ValueError(
            f"{row.id}: sample_rate and hop must be those of the model, {model.sample_rate} and {model.hop}, "
            f"got {row.tokens.sample_rate} and {row.tokens.hop}"
        )


def voice(model: SpeechVQVAE, row: TokenRow, speaker: str | None) -> str | None:
    """Who speaks a row: `speaker`, or else the row's own. Raises ValueError where the model does not know them."""
    name = speaker if speaker is not None or not model.speakers else row.speaker
    if name is None:
        if model.speakers:
            raise ValueError(f"{row.id} names no speaker; pass --speaker (vqaudio info MODEL lists them)")
        return None
    if name not in model.speakers and speaker is None:
        raise ValueError(
            f"{row.id} was spoken by {name!r}, whom this model does not know; "
            "pass --speaker (vqaudio info MODEL lists them)"
        )
    model.speaker_id(name)
    return name
