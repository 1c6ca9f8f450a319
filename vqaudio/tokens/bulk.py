"""Tokenizes many audio files: finds the utterances that inputs name, and computes their tokens."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import chain, islice, tee
from pathlib import Path
from typing import TypeVar

import torch
from filelock import FileLock
from torch import Tensor

from vqaudio.atomic import check_name
from vqaudio.data.audio import AudioError, Failures, combined_error
from vqaudio.data.audio_folders import AUDIO_SUFFIXES, Source, file_name, speech_below
from vqaudio.data.manifest import read_manifest
from vqaudio.nn.pitch_quantizer import PitchQuantizer
from vqaudio.pipes import DASH, is_stream
from vqaudio.speech.model import SpeechVQVAE
from vqaudio.speech.tokenizer import CountedPieces, audio_pieces, check_pitch_quantizer, num_rows
from vqaudio.speech.tokens import Tokens
from vqaudio.tokens.files import read_tokens, write_tokens
from vqaudio.tokens.rows import TokenRow

MAX_THREADS = 4  # utterances at once: with more, the threads wait for the interpreter
AHEAD = 4  # utterances for each thread that are begun before the result of the first is taken
BLOCKS_AHEAD = 2  # of 10 seconds, of each file that is read for a GPU
MAX_READERS = 8  # threads that read files for a GPU: with more, they too wait for the interpreter
Result = TokenRow | AudioError
Read = TypeVar("Read")
Engine = Callable[[Iterable[Source]], Iterator[Result]]
"""computes the result of each source, in the order of the sources; it may take some sources ahead of the results"""


def find_sources(inputs: Sequence[Path], speaker_level: int | None = 1) -> list[Source]:
    """Audio files, folders and manifests -> utterances with unique ids, in the order of the inputs.

    - A file: its id is its name without the suffix, its speaker is unknown. - is standard input, its id "stdin".
    - A folder: all audio files in it and its subfolders, with ids and speakers as `speech_below` gives them.
    - A manifest (.jsonl): ids, files and speakers as it lists them.

    Raises FileNotFoundError for a folder without audio, and ValueError for a damaged manifest, for two utterances with
    the same id and for no inputs. The audio files themselves are not opened.
    """
    if not inputs:
        raise ValueError("give at least one audio file, folder or manifest (.jsonl)")
    sources: list[Source] = []
    for path in inputs:
        sources += _expand(path, speaker_level)
    if not sources:
        raise ValueError(f"{', '.join(map(str, inputs))} lists no utterances; give a manifest with at least one")
    path_of: dict[str, Path] = {}
    for source in sources:
        if source.id in path_of:
            raise ValueError(
                f"{path_of[source.id]} and {source.path} would have the same id {source.id!r}; "
                "tokenize them in separate runs, or write a manifest that gives them ids"
            )
        path_of[source.id] = source.path
    return sources


def tokenize_all(
    model: SpeechVQVAE, sources: Sequence[Source], failures: Failures, *, pitch: bool = False
) -> Iterator[TokenRow]:
    """The rows of the sources, in their order; an error for each file that cannot be used is appended to `failures`.

    Raises AudioError at the end if no source could be used.
    """
    return usable(tokenize_each(model, sources, pitch), len(sources), failures)


def tokenize_each(model: SpeechVQVAE, sources: Iterable[Source], pitch: bool = False) -> Generator[Result]:
    """The row of each source, or the error for a file that cannot be used, in this process: an `Engine`.

    Several utterances are tokenized at once: on a GPU in one batch, on a CPU by threads that share the CPUs of PyTorch,
    because matrices as small as those of an utterance leave most of the CPUs idle.
    """
    if num_rows(model.device) > 1:
        yield from _tokenize_together(model, sources, pitch)
        return
    sources = iter(sources)
    first = list(islice(sources, 2))
    sources = chain(first, sources)
    fingerprint = model.fingerprint  # once, because it reads all weights
    tokenize = partial(tokenize_source, model, fingerprint=fingerprint, pitch=pitch)
    cpus = torch.get_num_threads()
    threads = min(MAX_THREADS, cpus, len(first))  # a single utterance has all CPUs for itself
    own_dtype = torch.get_default_dtype() == torch.float32  # otherwise each utterance changes it for all threads
    if threads < 2 or model.device.type != "cpu" or not own_dtype:
        yield from map(tokenize, sources)
        return
    pool = ThreadPoolExecutor(threads, "tokenize", torch.set_num_threads, (cpus // threads,))
    try:
        yield from in_order(sources, pool, tokenize, tokenize, AHEAD * threads)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(cpus)


def _tokenize_together(model: SpeechVQVAE, sources: Iterable[Source], pitch: bool) -> Iterator[Result]:
    """As `tokenize_each`, many utterances in one batch, while threads read the files of the next ones."""
    fingerprint, rows = model.fingerprint, num_rows(model.device)
    quantizer = check_pitch_quantizer(model.pitch_quantizer) if pitch else None
    pool = ThreadPoolExecutor(min(MAX_READERS, torch.get_num_threads()), "read")
    try:
        opened = _ahead((_Reading(source, model.sample_rate, pool, quantizer) for source in sources), rows)
        readings, utterances = tee(opened)
        for reading, codes in zip(readings, model.encode_each(utterances), strict=True):
            if reading.error:
                yield reading.error
                continue
            counted = reading.counted
            tokens = Tokens(codes, counted.num_samples, model.sample_rate, model.hop, fingerprint, counted.pitch())
            yield TokenRow(reading.source.id, reading.source.speaker, tokens)
    finally:
        pool.shutdown(cancel_futures=True)


class _Reading:
    """A file that is being read: an iterable of its blocks (T,), the next of which a thread of `pool` always reads.

    It ends at an error. Streams are read by the thread that asks for a block: an interrupt ends the wait.
    """

    def __init__(self, source: Source, sample_rate: int, pool: ThreadPoolExecutor, quantizer: PitchQuantizer | None):
        self.source, self.counted = source, CountedPieces(self._read(), quantizer)
        self.error: AudioError | None = None
        self._blocks = audio_pieces(source.path, None, sample_rate)
        self._pool = None if is_stream(source.path) else pool
        self._next = self._begun()

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.counted)

    def _read(self) -> Iterator[Tensor]:
        blocks = None
        while blocks is None or len(blocks) == BLOCKS_AHEAD:
            blocks = self._next()
            if isinstance(blocks, AudioError):
                self.error = blocks
                return
            if len(blocks) == BLOCKS_AHEAD:
                self._next = self._begun()
            yield from blocks

    def _begun(self) -> Callable[[], list[Tensor] | AudioError]:
        """Begins to read some blocks; fewer than BLOCKS_AHEAD are the last ones."""
        read = partial(attempted, self.source, lambda: list(islice(self._blocks, BLOCKS_AHEAD)))
        return read if self._pool is None else self._pool.submit(read).result


def _ahead(items: Iterable[Read], count: int) -> Iterator[Read]:
    """The items, each taken `count` items before it is yielded."""
    waiting: deque[Read] = deque()
    for item in items:
        waiting.append(item)
        if len(waiting) > count:
            yield waiting.popleft()
    yield from waiting


def in_order(
    sources: Iterable[Source],
    pool: ThreadPoolExecutor,
    tokenize: Callable[[Source], Result],
    tokenize_stream: Callable[[Source], Result],
    ahead: int,
) -> Iterator[Result]:
    """The results of `tokenize`, called by the threads of `pool`, in the order of the sources.

    At most `ahead` sources are taken before the result of the first of them is yielded. `tokenize_stream` is called in
    this thread, for standard input and pipes: an interrupt ends the wait for them.
    """
    pending: deque[Callable[[], Result]] = deque()  # each waits for its result
    for source in sources:
        later = partial(tokenize_stream, source) if is_stream(source.path) else pool.submit(tokenize, source).result
        pending.append(later)
        if len(pending) > ahead:
            yield pending.popleft()()
    while pending:
        yield pending.popleft()()


def tokenize_source(model: SpeechVQVAE, source: Source, fingerprint: str, pitch: bool = False) -> Result:
    """The row of one source, or the error if its file cannot be used; `fingerprint` is that of the model."""

    def read() -> TokenRow:
        return TokenRow(source.id, source.speaker, model.tokenize(source.path, fingerprint=fingerprint, pitch=pitch))

    return attempted(source, read)


def attempted(source: Source, read: Callable[[], Read]) -> Read | AudioError:
    """What `read` returns, or the error if the file of the source cannot be used."""
    try:
        return read()
    except AudioError as error:
        return error
    except OSError as error:
        return AudioError(f"{source.path} cannot be read: {error.strerror or error}")


def usable(results: Iterable[Read | AudioError], count: int, failures: Failures) -> Iterator[Read]:
    """What is no error among the results of `count` sources; the errors are appended to `failures`.

    Raises AudioError at the end if there is nothing else.
    """
    used = False
    for result in results:
        if isinstance(result, AudioError):
            failures.append(result)
        else:
            used = True
            yield result
    if not used:
        raise AudioError(f"none of the {count} inputs can be used; nothing was written")


def tokenize_whole(model: SpeechVQVAE, sources: Sequence[Source]) -> Iterator[TokenRow]:
    """Like `tokenize_all`, but raises one AudioError at the end that names all sources that cannot be used."""
    failures: Failures = []
    with suppress(AudioError):  # none can be used, which is reported below
        yield from tokenize_all(model, sources, failures)
    if failures:
        raise combined_error(failures)


def with_storable_names(sources: Sequence[Source], path_of: Callable[[str], Path], failures: Failures) -> list[Source]:
    """The sources whose tokens have a file, `path_of(id)`, with a valid length of name; the others go to `failures`.

    Raises AudioError if there is none.
    """
    storable = []
    for source in sources:
        try:
            check_name(path_of(source.id), added_bytes=0)
        except OSError as error:
            failures.append(AudioError(str(error)))
        else:
            storable.append(source)
    if not storable:
        raise AudioError(f"none of the {len(sources)} inputs can be written; nothing was written")
    return storable


def tokens_of(model: SpeechVQVAE, manifests: Sequence[Path], path: Path) -> Iterator[TokenRow]:
    """The tokens of the manifests' utterances: computed and written to `path` (.jsonl) once, then read from there.

    A lock makes concurrent processes wait for the first one. Raises ValueError if the file contains tokens of another
    model or of other utterances, AudioError if an utterance cannot be used, and FileNotFoundError for a manifest that
    does not exist.
    """
    for manifest in manifests:
        if not manifest.is_file():
            raise FileNotFoundError(f"manifest {manifest} does not exist; vqaudio prepare creates manifests")
    sources = find_sources(manifests)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        if not path.exists():
            write_tokens(path, tokenize_whole(model, sources))
    expected = [source.id for source in sources]
    rows = list(read_tokens(path))
    if [row.id for row in rows] != expected:
        raise ValueError(
            f"{path} contains {len(rows)} utterances, which are not the {len(expected)} of "
            f"{', '.join(map(str, manifests))}; delete it to tokenize them again"
        )
    if others := {row.tokens.model for row in rows} - {model.fingerprint}:
        raise ValueError(
            f"{path} contains tokens of model {others.pop()}, not of model {model.fingerprint}; delete it to tokenize "
            "them again"
        )
    return iter(rows)


def _expand(path: Path, speaker_level: int | None) -> list[Source]:
    if path.is_dir():
        sources = speech_below(path, speaker_level)
        if not sources:
            raise FileNotFoundError(
                f"there is no audio in {path} or its subfolders; supported formats: {' '.join(sorted(AUDIO_SUFFIXES))}"
            )
        return sources
    if path.suffix == ".jsonl" and path.exists():
        return [Source(file_name(row.id), row.path, row.speaker) for row in read_manifest(path)]
    return [Source("stdin" if str(path) in (DASH, "/dev/stdin") else file_name(path.stem), path, None)]
