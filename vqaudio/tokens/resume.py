"""Continuing interrupted work: which outputs are there already, and whether they are what would be written now."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import soundfile
import torch

from vqaudio.data.audio import AudioError, num_frames, resampled_length, to_int16
from vqaudio.data.corpora import Failures
from vqaudio.json_text import parse_json
from vqaudio.pipes import is_stream
from vqaudio.sampling.config import SamplingConfig
from vqaudio.speech.model import SpeechVQVAE
from vqaudio.speech.vocoders import Vocoder
from vqaudio.tokens.bulk import Engine, Result, Source, tokenize_each, usable
from vqaudio.tokens.decoding import DecodeJob
from vqaudio.tokens.files import names_unit_text, read_tokens
from vqaudio.tokens.rows import TokenRow, format_row, make_row

COMPARED_PIECES = 2  # of `decode_stream`, 16 codes each: what is decoded again of an utterance that is there


def is_decoded(model: SpeechVQVAE, job: DecodeJob, sampling: SamplingConfig, vocoder: Vocoder | None = None) -> bool:
    """Whether the audio file of a job is there: of its length, and with the samples that decoding begins with.

    Of vocoders other than the WaveNet, which are fast, all samples are compared. Raises FileExistsError for a file of
    another length or with other samples, which is another utterance or was made with another speaker, model, vocoder,
    pitch or sampling.
    """
    if not job.path.exists():
        return False
    if model.check_vocoder(vocoder) != "wavenet":
        expected = model.decode(job.tokens, job.speaker, sampling, vocoder, job.pitch)
    else:
        pieces = model.decode_stream(job.tokens, job.speaker, sampling, vocoder, job.pitch)
        expected = torch.cat(list(islice(pieces, COMPARED_PIECES)))
    try:
        with soundfile.SoundFile(job.path) as file:
            same = (file.frames, file.samplerate) == (job.tokens.num_samples, model.sample_rate)
            same = same and np.array_equal(file.read(len(expected), dtype="int16"), to_int16(expected.numpy()))
    except soundfile.LibsndfileError:
        same = False
    if not same:
        raise FileExistsError(
            f"{job.path} exists and is not what this command writes: it was made from other codes, or with another "
            "speaker, model, vocoder or sampling; pass --overwrite instead of --resume to replace it, or give another "
            "--out"
        )
    return True


def journal_of(out: Path) -> Path:
    """NAME.resume.jsonl beside `out`: the rows of an interrupted `tokenize --resume`."""
    return out.with_name(f"{out.stem}.resume.jsonl")


@contextmanager
def resumed(
    model: SpeechVQVAE, sources: Sequence[Source], out: Path, failures: Failures, engine: Engine | None = None
) -> Iterator[Iterator[TokenRow]]:
    """The rows of `tokenize_all`, but those that an interrupted run of the same command has computed are taken from it.

    `engine` computes the others (None: `tokenize_each`). Until the block ends, each row is kept in the file
    `journal_of(out)`, with a hash of its audio file: a row is taken from there if model and audio are the same,
    wherever the audio lies. The file is deleted when the block ends, and kept if it raises. Rows of finished tokens in
    `out` are kept too (see `_finished`).
    """
    journal = journal_of(out)
    done = _Done(model, _finished(out, model, sources), _read_journal(journal))
    try:
        with journal.open("ab") as file:
            results = _results(sources, done, engine or partial(tokenize_each, model), file)
            yield usable(results, len(sources), failures)
    except BaseException:
        if journal.stat().st_size == 0:
            journal.unlink()
        raise
    journal.unlink()


class _Done:
    """What an interrupted run has computed."""

    def __init__(self, model: SpeechVQVAE, finished: Mapping[str, TokenRow], known: Mapping[str, dict[str, Any]]):
        self.finished, self.known = finished, known  # rows by id, rows of the journal by the hash of their audio
        self.sample_rate, self.fingerprint = model.sample_rate, model.fingerprint

    def row(self, source: Source, digest: Callable[[], str | None]) -> TokenRow | None:
        """The row of a source; None if it is to be computed. `digest` is called if the row is not finished."""
        row = self.finished.get(source.id)
        if row is not None and row.tokens.num_samples == _num_samples(source, self.sample_rate):
            return TokenRow(source.id, source.speaker, row.tokens)
        facts = self.known.get(digest() or "")
        if facts is None or facts["model"] != self.fingerprint:
            return None
        return make_row({**facts, "id": source.id, "speaker": source.speaker})


def _results(sources: Iterable[Source], done: _Done, engine: Engine, journal: BinaryIO) -> Iterator[Result]:
    """The results of the sources in their order; those that `engine` computes are written to the journal.

    The engine may take sources ahead of its results. `taken` holds an entry for each source whose result has not been
    yielded: its row if it is done, else the hash of its audio.
    """
    taken: deque[TokenRow | str | None] = deque()

    def to_compute() -> Iterator[Source]:
        for source in sources:
            digest = cache(partial(_digest, source))
            row = done.row(source, digest)
            taken.append(digest() if row is None else row)
            if row is None:
                yield source

    def rows_done() -> Iterator[TokenRow]:
        while taken and isinstance(taken[0], TokenRow):
            yield cast(TokenRow, taken.popleft())

    for result in engine(to_compute()):
        yield from rows_done()
        digest = taken.popleft()
        if digest and isinstance(result, TokenRow):
            facts = {**json.loads(format_row(result)), "audio": digest}
            journal.write((json.dumps(facts) + "\n").encode())
            journal.flush()
        yield result
    yield from rows_done()


def _finished(path: Path, model: SpeechVQVAE, sources: Sequence[Source]) -> dict[str, TokenRow]:
    """The rows by id in `path`, if it exists. Raises ValueError unless they are of this model and of these sources."""
    if not path.exists():
        return {}
    if names_unit_text(path):
        raise ValueError(f"{path} is unit text, which does not tell what it was made from; {_REPLACE}")
    rows = {row.id: row for row in read_tokens(path)}
    if others := rows.keys() - {source.id for source in sources}:
        raise ValueError(f"{path} has tokens of {min(others)!r}, which is not among the inputs; {_REPLACE}")
    if others := {row.tokens.model for row in rows.values()} - {model.fingerprint}:
        raise ValueError(f"{path} has tokens of model {others.pop()}, not of {model.fingerprint}; {_REPLACE}")
    return rows


def _num_samples(source: Source, sample_rate: int) -> int | None:
    """Length of the audio at `sample_rate`, from its header; None if it cannot be read."""
    if is_stream(source.path):
        return None
    try:
        frames, rate = num_frames(source.path)
    except (AudioError, OSError):
        return None
    return resampled_length(frames, rate, sample_rate)


_REPLACE = "pass --overwrite instead of --resume to replace it, or give another --out"


def _digest(source: Source) -> str | None:
    """A hash of an audio file; None if it cannot be read, which `tokenize_source` reports, and for streams."""
    if is_stream(source.path) or not source.path.is_file():
        return None
    try:
        with source.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def _read_journal(path: Path) -> Mapping[str, dict[str, Any]]:
    """Hash of the audio -> row, of all complete lines; an incomplete last line, of a killed process, is cut off."""
    if not path.exists():
        return {}
    content = path.read_bytes()
    content = content[: content.rfind(b"\n") + 1]
    with path.open("r+b") as file:
        file.truncate(len(content))
    return {row["audio"]: row for row in map(parse_json, content.splitlines())}
