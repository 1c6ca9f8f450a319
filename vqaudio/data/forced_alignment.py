"""When is each phone of a text spoken? Forced alignment with pocketsphinx, whose model of English is in its package.

The text says which phones there are (by the CMU dictionary, with silence between words where it is heard), the acoustic
model says where each of them is. So this is made by a machine: `agreement` measures how far from a person's it is.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from vqaudio.data.alignments import Alignment, Segment
from vqaudio.data.audio import AudioError, read_audio, resampled, to_int16
from vqaudio.data.corpora import Failures
from vqaudio.data.manifest import Utterance
from vqaudio.data.text import words_of

if TYPE_CHECKING:
    from pocketsphinx import Decoder

Wav = npt.NDArray[np.float32]
SPHINX_RATE = 16_000  # of the acoustic model in the package of pocketsphinx
FRAME, WINDOW = 0.01, 0.025625  # seconds: what pocketsphinx hears at a time, and how much around that it looks at
TIME_OFFSET = (WINDOW - FRAME) / 2  # seconds by which its times are early: it counts windows from where they begin

_own = threading.local()  # a decoder serves one thread


def align(wav: Wav, text: str, sample_rate: int) -> Alignment:
    """(T,) in [-1, 1] and what is said in it -> its phones, by the labels of the CMU dictionary, from 0 to the end.

    The same audio and text give the same phones, whatever was aligned before. Raises ValueError for a text without
    words, for words that are not in the dictionary, and where nothing that could be the text is heard.
    """
    if wav.ndim != 1 or not np.isfinite(wav).all():
        raise ValueError(f"audio must be mono (T,) with finite samples, got shape {wav.shape}")
    decoder, words = _decoder(), words_of(text)
    if not words:
        raise ValueError(f"there are no words in the text {text!r}")
    if missing := [word for word in dict.fromkeys(words) if decoder.lookup_word(word) is None]:
        raise ValueError(f"words that are not in pocketsphinx's dictionary of English: {', '.join(missing)}")
    heard = resampled(wav, sample_rate, SPHINX_RATE)
    if len(heard) < WINDOW * SPHINX_RATE:
        raise ValueError(f"{len(wav)} samples at {sample_rate} Hz are too short for any phone")
    try:
        found = _phones(decoder, " ".join(words), to_int16(heard).tobytes())
    except RuntimeError as error:
        del _own.decoder  # it is still in the middle of the utterance
        raise ValueError("audio and text do not fit together; check that the text is what is said") from error
    times = [start * FRAME + TIME_OFFSET for start, _ in found[1:]]
    labels = [label for _, label in found]
    return [Segment(*s) for s in zip([0.0, *times], [*times, len(wav) / sample_rate], labels, strict=True)]


def align_all(utterances: Sequence[Utterance], failures: Failures, workers: int = 1) -> Iterator[tuple[str, Alignment]]:
    """Ids and phones of utterances, in their order; what cannot be aligned is appended to `failures` and left out.

    `workers`: processes; pocketsphinx lets one thread work at a time. They are spawned, so with more than one a script
    must begin its work below `if __name__ == "__main__"`. Raises AudioError at the end where not one was aligned.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    check_aligner()
    count = len(failures)
    for utterance, done in zip(utterances, _each(utterances, workers), strict=True):
        if isinstance(done, AudioError):
            failures.append(done)
        else:
            yield utterance.id, done
    if len(failures) - count == len(utterances):
        raise AudioError(f"none of the {len(utterances)} utterances can be aligned; nothing was written")


def check_aligner() -> None:
    """Raises ModuleNotFoundError, with what to install, where nothing can be aligned."""
    try:
        import pocketsphinx  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("phones are aligned with pocketsphinx: pip install 'vqaudio[metrics]'") from error


def _decoder() -> Decoder:
    """This thread's own."""
    check_aligner()
    from pocketsphinx import Decoder

    if not hasattr(_own, "decoder"):
        # bestpath: on its way through the lattice it loses words that the second pass then misses
        _own.decoder = Decoder(lm=None, bestpath=False, loglevel="FATAL")
    return _own.decoder


def _phones(decoder: Decoder, text: str, samples: bytes) -> list[tuple[int, str]]:
    """Where in frames each phone begins, end to end; first words are found, then the phones in them."""
    decoder.set_align_text(text)
    _run_decoder(decoder, samples)
    decoder.set_alignment()
    _run_decoder(decoder, samples)
    return [(phone.start, phone.name) for phone in decoder.get_alignment().phones()]


def _run_decoder(decoder: Decoder, samples: bytes) -> None:
    decoder.reinit_feat()  # without it estimates of noise stay from one utterance to the next
    decoder.start_utt()
    decoder.process_raw(samples, full_utt=True)
    decoder.end_utt()


def _each(utterances: Sequence[Utterance], workers: int) -> Iterator[Alignment | AudioError]:
    if workers == 1:
        yield from map(_align_one, utterances)
        return
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        yield from pool.map(_align_one, utterances, chunksize=4)


def _align_one(utterance: Utterance) -> Alignment | AudioError:
    """An utterance that cannot be aligned comes back as the reason."""
    if utterance.text is None:
        return AudioError(f"{utterance.id} has no text in its manifest; without one nothing can be aligned")
    try:
        return align(read_audio(utterance.path, SPHINX_RATE), utterance.text, SPHINX_RATE)
    except AudioError as error:
        return error
    except OSError as error:
        return AudioError(f"{utterance.path} cannot be read: {error.strerror or error}")
    except ValueError as error:
        return AudioError(f"{utterance.id} cannot be aligned: {error}")
