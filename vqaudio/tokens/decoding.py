"""Tokens to speech in bulk: utterances of similar length are decoded together.

Letters: T samples.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from vqaudio.atomic import check_writable
from vqaudio.data.audio import WRITABLE
from vqaudio.sampling.config import SamplingConfig
from vqaudio.speech.model import SpeechVQVAE
from vqaudio.speech.tokens import Tokens
from vqaudio.tokens.bulk import Source
from vqaudio.tokens.files import read_tokens
from vqaudio.tokens.rows import TokenRow, file_name

WINDOW = 8  # batches that are sorted by length at once: enough to pad little, few enough to stay in memory


class DecodeJob(NamedTuple):
    """One utterance to speak, as an actor has lines."""

    path: Path  # of the audio file that it becomes
    tokens: Tokens
    speaker: str | None  # None for a model without speakers


class DecodedUtterance(NamedTuple):
    line: DecodeJob
    wav: Tensor  # (T,) float32 in [-1, 1]


def decode_jobs(
    model: SpeechVQVAE, lines: Iterable[DecodeJob], sampling: SamplingConfig = SamplingConfig(), *, batch: int = 16
) -> Iterator[DecodedUtterance]:
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
            wavs = model.decode_batch([line.tokens for line in together], names or None, sampling)
            for line, wav in zip(together, wavs, strict=True):
                yield DecodedUtterance(line, wav)


class SpeakerAssignment(NamedTuple):
    """Who speaks which row of a token file."""

    speakers: dict[str, str | None]  # by id, of the rows that somebody can speak; None for a model without speakers
    failures: list[ValueError]  # one for each other row


def assign_speakers(model: SpeechVQVAE, tokens: Path, speaker: str | None) -> SpeakerAssignment:
    """Look at all rows of a token file before any is decoded.

    `speaker` speaks all; None: each row's own speaker does. Raises what `read_tokens` does, ValueError for an
    unknown `speaker` and for tokens of another model.
    """
    if speaker is not None:
        model.speaker_id(speaker)
    cast = SpeakerAssignment({}, [])
    for row in read_tokens(tokens):
        _check_row(model, row)
        try:
            cast.speakers[row.id] = _voice(model, row, speaker)
        except ValueError as error:
            cast.failures.append(error)
    return cast


def name_outputs(
    sources: Sequence[Source], voices: Sequence[str], out: Path, *, overwrite: bool
) -> dict[tuple[str, str], Path]:
    """(id, voice) -> the audio file for it: `out` itself, or in it ID.wav, or ID-VOICE.wav for several voices.

    Raises ValueError where `out` names one file for more than one output, or two outputs would share a name;
    OSError where a file could not be written.
    """
    wanted = [(source.id, name) for source in sources for name in voices]
    if out.suffix.lower() in WRITABLE and not out.is_dir():
        if len(wanted) > 1:
            raise ValueError(
                f"{out} is one file, but {len(sources)} inputs in {len(voices)} voices make {len(wanted)}; "
                "give a folder"
            )
        check_writable(out, overwrite=overwrite)
        return dict.fromkeys(wanted, out)
    check_folder(out)
    if len(voices) == 1:
        outputs = {(id, name): out / f"{id}.wav" for id, name in wanted}
    else:
        outputs = {(id, name): out / f"{id}-{file_name(name)}.wav" for id, name in wanted}
    if len(set(outputs.values())) < len(wanted):
        raise ValueError("two of the outputs would have the same name; convert to one speaker at a time")
    for path in outputs.values() if out.exists() else ():
        check_writable(path, overwrite=overwrite)
    return outputs


def name_rows(ids: Iterable[str], out: Path, *, overwrite: bool) -> dict[str, Path]:
    """Ids of token rows -> out/ID.wav of each. Raises OSError or ValueError where a file could not be written."""
    check_folder(out)
    paths = {id: out / f"{id}.wav" for id in ids}
    for path in paths.values() if out.exists() else ():
        check_writable(path, overwrite=overwrite)
    return paths


def check_folder(out: Path) -> None:
    """Raise what making the folder `out`, where it is missing, and writing into it would end in."""
    if out.suffix and not out.is_dir():
        raise ValueError(
            f"cannot write {out}: give a folder (a name without a suffix); "
            f"only a single conversion is written to a file, {' or '.join(WRITABLE)}"
        )
    nearest = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not nearest.is_dir():
        raise NotADirectoryError(f"cannot write to {out}: {nearest} is a file, not a folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise PermissionError(f"cannot write to {nearest}; choose a folder that you may write to")


def _check_row(model: SpeechVQVAE, row: TokenRow) -> None:
    try:
        model.check_tokens(row.tokens)
    except ValueError as error:
        raise ValueError(f"{row.id}: {error}") from error


def _voice(model: SpeechVQVAE, row: TokenRow, speaker: str | None) -> str | None:
    """Who speaks a row; raises ValueError where nobody can."""
    if speaker is not None or not model.speakers:
        return speaker
    if row.speaker not in model.speakers:
        known = "names no speaker" if row.speaker is None else f"was spoken by {row.speaker!r}, unknown to this model"
        raise ValueError(f"{row.id} {known}; pass --speaker (vqaudio info MODEL lists them)")
    return row.speaker
