"""Continuing interrupted work: which outputs are there already, and whether they are what would be written now."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

import numpy as np
import soundfile
import torch

from vqaudio.data.audio import AudioError, num_frames, resampled_length, to_int16
from vqaudio.data.corpora import Failures
from vqaudio.json_text import parse_json
from vqaudio.pipes import is_stream
from vqaudio.sampling.config import SamplingConfig
from vqaudio.speech.model import SpeechVQVAE
from vqaudio.speech.tokenizer import check_pitch_quantizer
from vqaudio.speech.tokens import Tokens
from vqaudio.speech.vocoders import Vocoder
from vqaudio.tokens.bulk import Engine, Result, Source, tokenize_each, usable
from vqaudio.tokens.decoding import RECORD, DecodeJob, record
from vqaudio.tokens.files import names_unit_text, read_tokens
from vqaudio.tokens.rows import TokenRow, format_row, make_row

if sys.platform != "win32":
    import fcntl

LINE_START = b'{"id": '  # of the journal
COMPARED_PIECES = 2  # of `decode_stream`, 16 codes each: what is decoded again of an utterance that is there


def is_decoded(model: SpeechVQVAE, job: DecodeJob, sampling: SamplingConfig, vocoder: Vocoder | None = None) -> bool:
    """Whether the audio file of a job is there: of its length, with the samples that decoding begins with, and with
    the `record` of this job. Files of earlier versions have no record.

    Of vocoders other than the WaveNet, which are fast, all samples are compared. Raises FileExistsError for a file of
    another length, with other samples or another record, which is another utterance or was made with another speaker,
    model, vocoder, pitch or sampling.
    """
    if not job.path.exists():
        return False
    if model.check_vocoder(vocoder) != "wavenet":
        expected = model.decode(job.tokens, job.speaker, sampling, vocoder, job.pitch, job.source_speaker)
    else:
        pieces = model.decode_stream(job.tokens, job.speaker, sampling, vocoder, job.pitch, job.source_speaker)
        expected = torch.cat(list(islice(pieces, COMPARED_PIECES)))
    try:
        with soundfile.SoundFile(job.path) as file:
            same = (file.frames, file.samplerate) == (job.tokens.num_samples, model.sample_rate)
            samples = file.read(dtype="int16") if same else np.empty(0, np.int16)
            same = same and np.array_equal(samples[: len(expected)], to_int16(expected.numpy()))
            if same and model.check_vocoder(vocoder) == "wavenet" and file.comment.startswith(RECORD):
                same = file.comment == record(job, sampling, samples)
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
    model: SpeechVQVAE,
    sources: Sequence[Source],
    out: Path,
    failures: Failures,
    engine: Engine | None = None,
    *,
    pitch: bool = False,
) -> Iterator[Iterator[TokenRow]]:
    """The rows of `tokenize_all`, but those that an interrupted run of the same command has computed are taken from it.

    `engine` computes the others (None: `tokenize_each`), with `pitch` tokens or without, and those that differ in that.
    Until the block ends, each row is kept in the file
    `journal_of(out)`, with a hash of its audio file: a row is taken from there if model and audio are the same,
    wherever the audio lies. The file is deleted when the block ends, and kept if it raises. Rows of finished tokens in
    `out` are kept too, unless the audio file has another length or was modified since `out` was written (see
    `_finished`): it is tokenized again.

    Raises ValueError if another process is at it, or for a journal that is none, and OSError if it cannot be written.
    """
    with _opened(journal_of(out)) as file:
        finished, known = _finished(out, model, sources), _read_journal(file, journal_of(out))
        done = _Done(model, finished, known, pitch)
        results = _results(sources, done, engine or partial(tokenize_each, model, pitch=pitch), file)
        yield usable(results, len(sources), failures)


@contextmanager
def _opened(journal: Path) -> Iterator[BinaryIO]:
    """The journal, locked, to read and append; it is deleted when the block ends, and if it raises, unless it is empty.

    The lock is on the journal itself, so that none is left behind; where there are no locks, nothing is locked.
    """
    try:
        file = journal.open("a+b")
    except OSError as error:
        raise type(error)(f"cannot write {journal}: {error.strerror}; choose a folder that you may write to") from error
    with file:
        if not _locked(file, journal):
            raise ValueError(f"another process is writing {journal}; wait for it, or give another --out")
        try:
            yield file
        except BaseException:
            if os.fstat(file.fileno()).st_size == 0:
                _delete(file, journal)
            raise
        _delete(file, journal)


def _locked(file: BinaryIO, path: Path) -> bool:
    """Locks an open file until it is closed -> whether no other process had; it may have deleted the file since."""
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat())


def _delete(file: BinaryIO, path: Path) -> None:
    """Deletes an open file: while it is locked, or on Windows, where an open file cannot be deleted, afterwards."""
    if sys.platform == "win32":
        file.close()
    path.unlink(missing_ok=True)


class _Finished(NamedTuple):
    """The rows of finished tokens."""

    rows: Mapping[str, TokenRow]  # by id
    written_ns: int  # when, as of `os.stat`


class _Done:
    """What an interrupted run has computed."""

    def __init__(self, model: SpeechVQVAE, finished: _Finished, known: Mapping[str, Tokens], pitch: bool):
        self.model, self.finished, self.known = model, finished, known  # tokens of the journal by hash of their audio
        self.pitch_model = check_pitch_quantizer(model.pitch_quantizer).fingerprint if pitch else None

    def row(self, source: Source, digest: Callable[[], str | None]) -> TokenRow | None:
        """The row of a source; None if it is to be computed. `digest` is called if the row is not finished."""
        row = self.finished.rows.get(source.id)
        if row is not None and self._is_of(row, source) and self._has_pitch(row.tokens):
            return TokenRow(source.id, source.speaker, row.tokens)
        tokens = self.known.get(digest() or "")
        if tokens is None or not _fits(self.model, tokens) or not self._has_pitch(tokens):
            return None
        return TokenRow(source.id, source.speaker, tokens)

    def _is_of(self, row: TokenRow, source: Source) -> bool:
        """Whether a finished row is of a source: of its length, and of a file that is older than the tokens."""
        if row.tokens.num_samples != _num_samples(source, self.model.sample_rate):
            return False
        return _changed_ns(source.path) < self.finished.written_ns

    def _has_pitch(self, tokens: Tokens) -> bool:
        """Whether there are pitch tokens of the model, or none if none are wanted."""
        return (tokens.pitch and tokens.pitch.model) == self.pitch_model


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


def _finished(path: Path, model: SpeechVQVAE, sources: Sequence[Source]) -> _Finished:
    """The rows in `path`, if it exists. Raises ValueError unless they are of this model and of these sources.

    Rows hold no hash of their audio, so a file that was modified (or replaced: then its inode has changed)
    when the tokens were written, or later, counts as other audio.
    """
    if not path.exists():
        return _Finished({}, 0)
    if names_unit_text(path):
        raise ValueError(f"{path} is unit text, which does not record its source; {_REPLACE}")
    written = (path, *path.iterdir()) if path.is_dir() else (path,)
    written_ns = min(file.stat().st_mtime_ns for file in written)
    rows = {row.id: row for row in read_tokens(path)}
    if others := rows.keys() - {source.id for source in sources}:
        raise ValueError(f"{path} has tokens of {min(others)!r}, which is not among the inputs; {_REPLACE}")
    if others := {row.tokens.model for row in rows.values()} - {model.fingerprint}:
        raise ValueError(f"{path} has tokens of model {others.pop()}, not of {model.fingerprint}; {_REPLACE}")
    return _Finished(rows, written_ns)


def _changed_ns(path: Path) -> int:
    """When the content of a file or the file under this name last changed."""
    stat = path.stat()
    return max(stat.st_mtime_ns, stat.st_ctime_ns)


def _fits(model: SpeechVQVAE, tokens: Tokens) -> bool:
    """Whether the model can have computed the tokens."""
    try:
        model.check_tokens(tokens)
    except ValueError:
        return False
    return True


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


def _read_journal(file: BinaryIO, path: Path) -> Mapping[str, Tokens]:
    """Hash of the audio -> tokens, of all lines that are valid; others cost no more than to compute their rows again.

    An incomplete last line, of a killed process, is cut off. Raises ValueError for a file without any valid line, which
    may not be a journal.
    """
    file.seek(0)
    *lines, rest = file.read().split(b"\n")
    known = dict(entry for line in lines if (entry := _journal_entry(line)) is not None)
    begun = rest[: len(LINE_START)] == LINE_START[: len(rest)]
    if not known and (lines or not begun):
        raise ValueError(f"{path} has no row of an interrupted run; delete it, or give another --out")
    file.truncate(sum(len(line) + 1 for line in lines))
    return known


def _journal_entry(line: bytes) -> tuple[str, Tokens] | None:
    """A line of a journal -> hash of the audio, its tokens; None for any other line."""
    try:
        facts = parse_json(line)
        if isinstance(facts, dict) and isinstance(facts.get("audio"), str):
            return facts["audio"], make_row(facts).tokens
    except ValueError:
        pass
    return None
