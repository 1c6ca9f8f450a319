"""Tokenizes in several processes of this machine: the same rows in the same order as one process.

A worker is a fresh Python process that loads the model once. It reads sources from its standard input and writes
results to its standard output; it ends when its input ends, and so also when this process is killed.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from queue import SimpleQueue
from typing import BinaryIO, cast

import numpy as np
import torch

from vqaudio.checkpoint import load_model
from vqaudio.data.audio import AudioError
from vqaudio.data.audio_folders import Source
from vqaudio.speech.model import SpeechVQVAE
from vqaudio.speech.tokens import PitchTokens, Tokens
from vqaudio.tokens.bulk import Engine, Result, in_order, tokenize_source
from vqaudio.tokens.rows import TokenRow

AHEAD = 16  # utterances for each worker that may be taken before the result of the first of them is yielded
ENDED_IN_TIME = 5.0  # seconds until a killed process must be gone


@contextmanager
def worker_processes(
    model: SpeechVQVAE, name: str, count: int, threads: int | None = None, *, pitch: bool = False
) -> Iterator[Engine]:
    """`count` processes that load the model `name`, which `model` is -> the engine that tokenizes in them.

    Each computes on `threads` threads (None: 1), on the device of `model`. Streams, such as standard input, are
    tokenized in this process. When the block ends, the processes are ended too. The engine raises ChildProcessError if
    one of them dies, and ValueError if the model that they load has another fingerprint.
    """
    if count < 1:
        raise ValueError(f"workers must be at least 1, got {count}")
    options = (name, str(model.device), threads or 1, pitch)
    workers = [_Worker(f"worker {i + 1} of {count}", *options) for i in range(count)]
    try:
        with ThreadPoolExecutor(count) as pool:  # a thread of this process for each worker, which waits for it
            try:
                yield partial(_tokenize_each, model, workers, pool, pitch)
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
                for worker in workers:  # before the threads are joined, which wait for them
                    worker.end()
    finally:
        for worker in workers:
            worker.end()


def _tokenize_each(
    model: SpeechVQVAE, workers: list[_Worker], pool: ThreadPoolExecutor, pitch: bool, sources: Iterable[Source]
) -> Iterator[Result]:
    """The result of each source, in their order."""
    fingerprint = model.fingerprint
    idle: SimpleQueue[_Worker] = SimpleQueue()
    for worker in workers:
        idle.put(worker)

    def tokenize(source: Source) -> Result:
        worker = idle.get()
        try:
            return worker.tokenize(source, model, fingerprint)
        finally:
            idle.put(worker)  # a dead one too, so that no thread waits for ever

    here = partial(tokenize_source, model, fingerprint=fingerprint, pitch=pitch)
    return in_order(sources, pool, tokenize, here, AHEAD * len(workers))


class _Worker:
    """A process that tokenizes, and its pipes."""

    def __init__(self, title: str, name: str, device: str, threads: int, pitch: bool):
        self.title = title
        paths = [os.path.abspath(path) for path in sys.path]  # noqa: PTH100  # "" is the current folder
        environment = {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": str(threads)}
        program = f"from vqaudio.tokens.workers import work; work({name!r}, {device!r}, {threads}, {pitch})"
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **environment},
            start_new_session=True,  # signals of the terminal end this process, which ends its workers
        )

    def tokenize(self, source: Source, model: SpeechVQVAE, fingerprint: str) -> Result:
        """The result of a source. Raises ChildProcessError if the process has died."""
        sent, received = cast(BinaryIO, self.process.stdin), cast(BinaryIO, self.process.stdout)
        try:
            pickle.dump(source, sent)
            sent.flush()
            codes, num_samples, pitch, found = pickle.load(received)
        except (OSError, EOFError, pickle.UnpicklingError, ValueError) as error:
            raise ChildProcessError(self._exit_description(source)) from error
        if isinstance(codes, str):
            return AudioError(codes)
        if found != fingerprint:
            raise ValueError(f"the model changed while it was read: {self.title} loaded {found}, not {fingerprint}")
        own = pitch and PitchTokens(torch.from_numpy(pitch[0]), *pitch[1:])
        tokens = Tokens(torch.from_numpy(codes), num_samples, model.sample_rate, model.hop, fingerprint, own)
        return TokenRow(source.id, source.speaker, tokens)

    def end(self) -> None:
        """Ends the process at once: it only reads, so there is nothing to clean up."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            with suppress(OSError):  # what was not yet sent to a process that is gone
                cast(BinaryIO, pipe).close()

    def _exit_description(self, source: Source) -> str:
        """One sentence about the end of the process."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(ENDED_IN_TIME)
        code = self.process.returncode
        if code is None:
            how = "closed its output"
        elif code < 0:
            how = f"was ended by {signal.Signals(-code).name}"
        else:
            how = f"ended with exit code {code}"
        return (
            f"{self.title} (process {self.process.pid}) {how} while it tokenized {source.path}; if memory ran out, use "
            "fewer --workers; with --resume, the command keeps the utterances that are done and goes on"
        )


def work(name: str, device: str, threads: int, pitch: bool) -> None:
    """The program of a worker: (pickled) sources from standard input -> codes, number of samples, pitch, fingerprint.

    For a file that cannot be used, the error's message takes the place of the codes.
    """
    received, sent = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no result
    torch.set_num_threads(threads)
    model = load_model(name, device)
    fingerprint = model.fingerprint
    while True:
        try:
            source = pickle.load(received)
        except EOFError:
            return
        result = tokenize_source(model, source, fingerprint, pitch)
        if isinstance(result, AudioError):
            answer: tuple[str | np.ndarray, int, tuple[np.ndarray, int, str] | None] = (str(result), 0, None)
        else:
            tokens, own = result.tokens, result.tokens.pitch
            answer = (tokens.codes.numpy(), tokens.num_samples, own and (own.codes.numpy(), own.hop, own.model))
        try:
            pickle.dump((*answer, fingerprint), sent)
            sent.flush()
        except BrokenPipeError:  # the process that wanted it has gone
            os._exit(0)
