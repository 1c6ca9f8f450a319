"""Decodes many token rows to speech; utterances of similar length are decoded in one batch.

Letters: T samples.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from torch import Tensor

from vqaudio.atomic import check_name, check_names_folder, check_writable
from vqaudio.data.audio import WRITABLE, AudioError, Failures, combined_error
from vqaudio.data.audio_folders import Source, file_name
from vqaudio.nn.pitch import Pitch
from vqaudio.sampling.config import SamplingConfig
from vqaudio.speech.model import SpeechVQVAE
from vqaudio.speech.tokens import Tokens
from vqaudio.speech.vocoders import Vocoder
from vqaudio.tokens.files import read_tokens
from vqaudio.tokens.rows import TokenRow

RECORD = "vqaudio decode "  # and a hash: the comment of audio files by the WaveNet
MAX_BATCH = 1_000_000  # more is a mistake
WINDOW = 8  # batches that are sorted by length together: enough for little padding, few enough to stay in memory


class DecodeJob(NamedTuple):
    """One utterance to decode."""

    path: Path  # audio file to write
    tokens: Tokens
    speaker: str | None  # target speaker; None for a model without speakers
    pitch: Pitch | None = None  # of the speech that the tokens were made from; None: that of the tokens
    source_speaker: str | None = None  # whose speech that is; the pitch of another is moved to the target speaker


class DecodedUtterance(NamedTuple):
    """A job and its waveform."""

    job: DecodeJob
    wav: Tensor  # (T,) float32 in [-1, 1]


def decode_jobs(
    model: SpeechVQVAE,
    jobs: Iterable[DecodeJob],
    sampling: SamplingConfig = SamplingConfig(),
    *,
    vocoder: Vocoder | None = None,
    batch_size: int = 16,
) -> Iterator[DecodedUtterance]:
    """Decodes all jobs in `jobs`, `batch_size` at a time; within a window of batches, the longest come first.

    `vocoder` as of `model.decode_batch`. Raises ValueError for `batch_size` below 1 and where `model.decode` does.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if batch_size > MAX_BATCH:
        raise ValueError(f"batch_size must be at most {MAX_BATCH}, got {batch_size}")
    jobs = iter(jobs)
    while window := sorted(islice(jobs, WINDOW * batch_size), key=lambda job: -job.tokens.num_samples):
        for start in range(0, len(window), batch_size):
            together = window[start : start + batch_size]
            names = [job.speaker for job in together if job.speaker is not None]
            of_source = ([job.pitch for job in together], [job.source_speaker for job in together])
            wavs = model.decode_batch([job.tokens for job in together], names or None, sampling, vocoder, *of_source)
            for job, wav in zip(together, wavs, strict=True):
                yield DecodedUtterance(job, wav)


def record(job: DecodeJob, sampling: SamplingConfig, samples: np.ndarray) -> str:
    """What an utterance decoded by the WaveNet was made from, and the samples (T,) int16 that came out, as one hash.

    The weights of the WaveNet are not in it: the fingerprint of the tokens names those that the codes depend on.
    """
    options = {**dataclasses.asdict(sampling), "threads": None}  # a number of threads that changes no sample
    codes, pitch = job.tokens.codes.tolist(), job.pitch and [part.tolist() for part in job.pitch]
    facts = [job.tokens.model, codes, job.tokens.num_samples, job.speaker, options, pitch]
    if job.tokens.pitch is not None:
        facts += [job.tokens.pitch.model, job.tokens.pitch.codes.tolist(), job.source_speaker]
    digest = hashlib.sha256(json.dumps(facts).encode())
    digest.update(samples.astype("<i2").tobytes())
    return RECORD + digest.hexdigest()


class SpeakerAssignment(NamedTuple):
    """The target speaker of each row of a token file."""

    speakers: dict[str, str | None]  # id of a row that can be decoded -> speaker; None for a model without speakers
    failures: list[ValueError]  # one for each row without a known speaker


def read_with_pitch(tokens: Path, pitch: Literal["tokens", "codes"] | None) -> Iterator[TokenRow]:
    """The rows of a token file: with pitch tokens, without them, or (None) as they are.

    Raises what `read_tokens` raises, and ValueError for a row without pitch tokens where they are asked for.
    """
    for row in read_tokens(tokens):
        if pitch == "tokens" and row.tokens.pitch is None:
            raise ValueError(f"{row.id} has no pitch tokens; tokenize with --pitch, or omit --pitch tokens")
        if pitch == "codes":
            row = dataclasses.replace(row, tokens=dataclasses.replace(row.tokens, pitch=None))
        yield row


def assign_speakers(model: SpeechVQVAE, rows: Iterable[TokenRow], speaker: str | None) -> SpeakerAssignment:
    """Checks all rows and chooses their speakers, before any of them is decoded.

    The target is `speaker` for all rows, or, if it is None, each row's own speaker. Raises what reading them raises,
    and ValueError for an unknown `speaker` and for tokens of another model.
    """
    if speaker is not None:
        model.speaker_id(speaker)
    assignment = SpeakerAssignment({}, [])
    for row in rows:
        _check_row(model, row)
        try:
            assignment.speakers[row.id] = _assigned_speaker(model, row, speaker)
        except ValueError as error:
            assignment.failures.append(error)
    return assignment


def name_outputs(
    sources: Sequence[Source],
    speakers: Sequence[str],
    out: Path,
    failures: Failures | None = None,
    *,
    overwrite: bool,
) -> dict[tuple[str, str], Path]:
    """(id, speaker) -> audio file to write: `out` itself, or in the folder `out` ID.wav, or ID-SPEAKER.wav if several.

    Sources whose files would have names that are too long are left out and appended to `failures`; without such a list,
    and if no source is left, AudioError is raised. Raises ValueError if `out` is one file but there are more outputs,
    or if two outputs would have the same name; OSError if a file cannot be written.
    """
    pairs = [(source.id, name) for source in sources for name in speakers]
    if out.suffix.lower() in WRITABLE and not out.is_dir():
        if len(pairs) > 1:
            raise ValueError(
                f"{out} is one file, but {len(sources)} inputs and {len(speakers)} speakers make {len(pairs)} outputs; "
                "give a folder"
            )
        check_writable(out, overwrite=overwrite)
        return dict.fromkeys(pairs, out)
    check_folder(out)
    if len(speakers) == 1:
        outputs = {(id, name): out / f"{id}.wav" for id, name in pairs}
    else:
        outputs = {(id, name): out / f"{id}-{file_name(name)}.wav" for id, name in pairs}
    if len(set(outputs.values())) < len(pairs):
        raise ValueError("two of the outputs would have the same file name; convert to one speaker at a time")
    too_long = {id: problem for (id, _), path in outputs.items() if (problem := _too_long(path)) is not None}
    _report(list(too_long.values()), len(sources), failures)
    outputs = {pair: path for pair, path in outputs.items() if pair[0] not in too_long}
    for path in outputs.values() if out.exists() else ():
        check_writable(path, overwrite=overwrite)
    return outputs


def name_rows(
    ids: Iterable[str], out: Path, failures: list[ValueError] | None = None, *, overwrite: bool
) -> dict[str, Path]:
    """Ids of token rows -> out/ID.wav for each; names that are too long are treated as in `name_outputs`.

    Raises OSError or ValueError if a file cannot be written.
    """
    check_folder(out)
    paths = {id: out / f"{id}.wav" for id in ids}
    too_long = {id: problem for id, path in paths.items() if (problem := _too_long(path)) is not None}
    _report(list(too_long.values()), len(paths), failures)
    paths = {id: path for id, path in paths.items() if id not in too_long}
    for path in paths.values() if out.exists() else ():
        check_writable(path, overwrite=overwrite)
    return paths


def _report(problems: Sequence[AudioError], count: int, failures: list[AudioError] | list[ValueError] | None) -> None:
    """Appends the problems of some of `count` outputs to `failures`. Raises AudioError without it, and for all."""
    if problems and failures is None:
        raise combined_error(problems)
    if failures is not None:
        failures.extend(problems)
    if problems and len(problems) == count:
        raise AudioError(f"none of the {count} outputs can be written; nothing was written")


def _too_long(path: Path) -> AudioError | None:
    """The error for a name that the file system does not take."""
    try:
        check_name(path)
    except OSError as error:
        return AudioError(str(error))
    return None


def check_folder(out: Path) -> None:
    """Raises ValueError or OSError if the folder `out` cannot be created or written to."""
    check_names_folder(out)
    if out.suffix and not out.is_dir():
        raise ValueError(
            f"cannot write {out}: give a folder (a name without a suffix); "
            f"only a single conversion can be written to a file ({' or '.join(WRITABLE)})"
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


def _assigned_speaker(model: SpeechVQVAE, row: TokenRow, speaker: str | None) -> str | None:
    """The target speaker of a row. Raises ValueError if its own speaker is wanted but not in the model."""
    if speaker is not None or not model.speakers:
        return speaker
    if row.speaker not in model.speakers:
        own = "no speaker" if row.speaker is None else f"speaker {row.speaker!r}, who is not in this model"
        raise ValueError(f"{row.id} has {own}; pass --speaker (vqaudio info MODEL lists the speakers)")
    return row.speaker
