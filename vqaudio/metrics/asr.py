"""Automatic speech recognition.

`PocketsphinxASR` has its acoustic model in its package and needs no network; its vocabulary is that of given texts.
`TransformersASR` is a model of the Hugging Face Hub, such as Whisper.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from vqaudio.data.audio import resampled, to_int16
from vqaudio.data.forced_alignment import SPHINX_RATE
from vqaudio.data.text import words_of
from vqaudio.metrics.language_model import arpa

Wav = npt.NDArray[np.float32]
LONG = 30.0  # seconds: longer audio is recognised in chunks, because Whisper takes no more at once


class ASR(Protocol):
    def transcribe(self, wav: Wav, sample_rate: int) -> str:
        """(T,) in [-1, 1] -> text; "" where nothing is recognised."""
        ...


class PocketsphinxASR:
    """pocketsphinx with its acoustic model of US English, and an n-gram model of the given texts.

    The vocabulary is closed: it recognises only words of these texts, and prefers them in the order of the texts. Its
    error rates compare kinds of audio with each other; they must not be compared with published ones.
    """

    def __init__(self, texts: Iterable[str], order: int = 3):
        """`order`: of the n-grams. Raises ValueError where no word of the texts is in the dictionary."""
        try:
            from pocketsphinx import Decoder, get_model_path
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError("this recogniser needs pocketsphinx: pip install 'vqaudio[metrics]'") from error
        self.texts, self.order = tuple(texts), order
        sentences = [words_of(text) for text in self.texts]
        words = {word for sentence in sentences for word in sentence}
        entries = _entries(Path(get_model_path("en-us/cmudict-en-us.dict")), words)
        self.missing = tuple(sorted(words - entries.keys()))  # words that it can never recognise
        if not entries:
            raise ValueError(
                f"no word of the {len(self.texts)} texts is in pocketsphinx's dictionary of English; "
                "give English texts, or a model of the Hugging Face Hub (--asr)"
            )
        known = [[word for word in sentence if word in entries] for sentence in sentences]
        with tempfile.TemporaryDirectory() as folder:
            model, dictionary = Path(folder, "texts.arpa"), Path(folder, "texts.dict")
            model.write_text(arpa(known, order), "utf-8")
            dictionary.write_text("".join("".join(entries[word]) for word in sorted(entries)), "utf-8")
            self._decoder = Decoder(lm=str(model), dict=str(dictionary), cmn="batch", loglevel="FATAL")

    def __reduce__(self) -> tuple[Any, ...]:
        """For worker processes: a decoder cannot be pickled, its arguments can."""
        return type(self), (self.texts, self.order)

    def transcribe(self, wav: Wav, sample_rate: int) -> str:
        """As `ASR`. The same audio gives the same text, whatever was recognised before."""
        samples = to_int16(_prepared(wav, sample_rate, SPHINX_RATE))
        if not len(samples):
            return ""
        self._decoder.reinit_feat()  # otherwise noise estimates carry over to the next utterance
        self._decoder.start_utt()
        self._decoder.process_raw(samples.tobytes(), full_utt=True)
        self._decoder.end_utt()
        hypothesis = self._decoder.hyp()
        return hypothesis.hypstr if hypothesis else ""


class TransformersASR:
    """A speech recognition model of the Hugging Face Hub or in a folder: Whisper, wav2vec 2.0 with CTC, ..."""

    def __init__(self, name: str, device: str = "cpu"):
        """`name`: such as openai/whisper-small, downloaded at first use, or a folder."""
        try:
            from transformers import pipeline
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "models of the Hugging Face Hub need transformers: pip install transformers"
            ) from error
        self.name, self.device = name, device
        self._pipeline = pipeline("automatic-speech-recognition", model=name, device=device)
        self.sample_rate: int = self._pipeline.feature_extractor.sampling_rate  # pyright: ignore

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.name, self.device)

    def transcribe(self, wav: Wav, sample_rate: int) -> str:
        samples = _prepared(wav, sample_rate, self.sample_rate)
        if not len(samples):
            return ""
        chunked = {"chunk_length_s": LONG} if len(samples) > LONG * self.sample_rate else {}
        result: Any = self._pipeline({"raw": samples, "sampling_rate": self.sample_rate}, **chunked)
        return result["text"].strip()


def transcribe_all(asr: ASR, wavs: Iterable[Wav], sample_rate: int, *, workers: int = 1) -> Iterator[str]:
    """Waveforms (T,) -> texts, in order, as they become ready; the same for any number of workers.

    `workers`: processes, each with its own recogniser (pocketsphinx runs one thread at a time). They are spawned, so
    with more than one a script must do its work below `if __name__ == "__main__"`.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    if workers == 1:
        yield from (asr.transcribe(wav, sample_rate) for wav in wavs)
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), _start_worker, (asr,)) as pool:
        yield from pool.map(partial(_transcribe, sample_rate=sample_rate), wavs)


_worker_asr: list[ASR] = []  # one, in a worker process


def _start_worker(asr: ASR) -> None:
    _worker_asr.append(asr)


def _transcribe(wav: Wav, sample_rate: int) -> str:
    return _worker_asr[0].transcribe(wav, sample_rate)


def _entries(dictionary: Path, words: set[str]) -> dict[str, list[str]]:
    """Lines of pocketsphinx's dictionary by word; alternative pronunciations are marked "a(2)".

    A decoder with all 134,000 words takes up to 13 s to build, one with these words 10 ms.
    """
    entries: dict[str, list[str]] = {}
    for line in dictionary.read_text("utf-8").splitlines(keepends=True):
        word = line.split(maxsplit=1)[0].split("(")[0]
        if word in words:
            entries.setdefault(word, []).append(line)
    return entries


def _prepared(wav: Wav, sample_rate: int, wanted: int) -> Wav:
    """Checked and resampled."""
    if wav.ndim != 1 or not np.isfinite(wav).all():
        raise ValueError(f"speech recognition takes mono audio (T,) of finite samples, got shape {wav.shape}")
    return resampled(wav, sample_rate, wanted)
