"""Recognisers of speech: what is said in audio, as text.

`SphinxRecogniser` comes with its acoustic model in its package and needs no network; it hears the words of the texts
that it was told, and no others. `HubRecogniser` is any recogniser of the Hugging Face Hub, such as Whisper.
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
LONG = 30.0  # seconds from which a HubRecogniser hears in pieces: more than Whisper takes at once


class ASR(Protocol):
    def transcribe(self, wav: Wav, sample_rate: int) -> str:
        """(T,) in [-1, 1] -> what is said in it; "" where nothing is heard."""
        ...


class PocketsphinxASR:
    """pocketsphinx with its acoustic model of US English, and an n-gram model of the given texts.

    The vocabulary is closed: whatever is said, it hears words of these texts, and prefers them in the order in which
    they stand there. Its error rate therefore compares kinds of audio with each other, and not with published rates.
    """

    def __init__(self, texts: Iterable[str], order: int = 3):
        """`order`: of the n-grams. Raises ValueError where no word of the texts is in the dictionary."""
        try:
            from pocketsphinx import Decoder, get_model_path
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError("words are heard with pocketsphinx: pip install 'vqaudio[metrics]'") from error
        self.texts, self.order = tuple(texts), order
        sentences = [words_of(text) for text in self.texts]
        words = {word for sentence in sentences for word in sentence}
        entries = _entries(Path(get_model_path("en-us/cmudict-en-us.dict")), words)
        self.missing = tuple(sorted(words - entries.keys()))  # words that it can never hear
        if not entries:
            raise ValueError(
                f"no word of the {len(self.texts)} texts is in pocketsphinx's dictionary of English; "
                "give texts in English, or use a HubRecogniser"
            )
        known = [[word for word in sentence if word in entries] for sentence in sentences]
        with tempfile.TemporaryDirectory() as folder:
            model, dictionary = Path(folder, "texts.arpa"), Path(folder, "texts.dict")
            model.write_text(arpa(known, order), "utf-8")
            dictionary.write_text("".join("".join(entries[word]) for word in sorted(entries)), "utf-8")
            self._decoder = Decoder(lm=str(model), dict=str(dictionary), cmn="batch", loglevel="FATAL")

    def __reduce__(self) -> tuple[Any, ...]:
        """A decoder cannot be sent to another process, what it is made from can."""
        return type(self), (self.texts, self.order)

    def transcribe(self, wav: Wav, sample_rate: int) -> str:
        """As `Recogniser`. The same audio gives the same text, whatever was heard before."""
        samples = to_int16(_prepared(wav, sample_rate, SPHINX_RATE))
        if not len(samples):
            return ""
        self._decoder.reinit_feat()  # without it estimates of noise stay from one utterance to the next
        self._decoder.start_utt()
        self._decoder.process_raw(samples.tobytes(), full_utt=True)
        self._decoder.end_utt()
        heard = self._decoder.hyp()
        return heard.hypstr if heard else ""


class TransformersASR:
    """A recogniser of the Hugging Face Hub, or one that was saved to a folder: Whisper, wav2vec 2.0 with CTC, ..."""

    def __init__(self, name: str, device: str = "cpu"):
        """`name`: such as openai/whisper-small, fetched at first use, or a folder."""
        try:
            from transformers import pipeline
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "recognisers of the Hub run with transformers: pip install transformers"
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
        in_pieces = {"chunk_length_s": LONG} if len(samples) > LONG * self.sample_rate else {}
        heard: Any = self._pipeline({"raw": samples, "sampling_rate": self.sample_rate}, **in_pieces)
        return heard["text"].strip()


def transcribe_all(recogniser: ASR, wavs: Iterable[Wav], sample_rate: int, *, workers: int = 1) -> Iterator[str]:
    """Wavs (T,) -> their texts, in order, as they become ready; the same for any number of workers.

    `workers`: processes, each with a recogniser of its own (pocketsphinx lets one thread work at a time). They are
    spawned, so with more than one a script must begin its work below `if __name__ == "__main__"`.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    if workers == 1:
        yield from (recogniser.transcribe(wav, sample_rate) for wav in wavs)
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), _employ, (recogniser,)) as pool:
        yield from pool.map(partial(_hear, sample_rate=sample_rate), wavs)


_own: list[ASR] = []  # of a worker process


def _employ(recogniser: ASR) -> None:
    _own.append(recogniser)


def _hear(wav: Wav, sample_rate: int) -> str:
    return _own[0].transcribe(wav, sample_rate)


def _entries(dictionary: Path, words: set[str]) -> dict[str, list[str]]:
    """The lines of pocketsphinx's dictionary for those of the words that it has; a second way to say one is "a(2)".

    With all of its 134,000 words a decoder takes up to 13 s to make, with these 10 ms.
    """
    entries: dict[str, list[str]] = {}
    for line in dictionary.read_text("utf-8").splitlines(keepends=True):
        word = line.split(maxsplit=1)[0].split("(")[0]
        if word in words:
            entries.setdefault(word, []).append(line)
    return entries


def _prepared(wav: Wav, sample_rate: int, wanted: int) -> Wav:
    """Checked, and at the rate that a recogniser hears."""
    if wav.ndim != 1 or not np.isfinite(wav).all():
        raise ValueError(f"a recogniser hears mono audio (T,) of finite samples, got shape {wav.shape}")
    return resampled(wav, sample_rate, wanted)
