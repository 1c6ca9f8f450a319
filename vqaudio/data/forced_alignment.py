"""Forced phone alignment of transcribed English speech with pocketsphinx and its bundled acoustic model.

The transcript is converted to phones with the CMU dictionary, with optional silence between words, and the acoustic
model finds the time of each phone. `vqaudio.metrics.alignment_agreement` measures the agreement with manual alignments.
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
from vqaudio.data.audio import AudioError, Failures, read_audio, resampled, to_int16
from vqaudio.data.manifest import Utterance
from vqaudio.data.text import words_of

if TYPE_CHECKING:
    from pocketsphinx import Decoder

Wav = npt.NDArray[np.float32]
SPHINX_RATE = 16_000  # Hz, of the acoustic model bundled with pocketsphinx
FRAME, WINDOW = 0.01, 0.025625  # seconds: frame shift and analysis window of pocketsphinx
TIME_OFFSET = (WINDOW - FRAME) / 2  # seconds; pocketsphinx reports the start of a window, not its centre

_own = threading.local()  # a pocketsphinx decoder must not be shared between threads


def align(wav: Wav, text: str, sample_rate: int) -> Alignment:
    """Waveform (T,) in [-1, 1] and its transcript -> contiguous phone segments (CMU labels) from 0 to the end.

    The result does not depend on earlier calls. Raises ValueError for audio that is not mono, not finite or shorter
    than one window, for a transcript without words or with words missing from the dictionary, and if the alignment
    fails.
    """
    if wav.ndim != 1 or not np.isfinite(wav).all():
        raise ValueError(f"audio must be mono (T,) with finite samples, got shape {wav.shape}")
    decoder, words = _decoder(), words_of(text)
    if not words:
        raise ValueError(f"the transcript {text!r} contains no words")
    if missing := [word for word in dict.fromkeys(words) if decoder.lookup_word(word) is None]:
        raise ValueError(f"words missing from the English dictionary of pocketsphinx: {', '.join(missing)}")
    samples = resampled(wav, sample_rate, SPHINX_RATE)
    if len(samples) < WINDOW * SPHINX_RATE:
        raise ValueError(f"{len(wav)} samples at {sample_rate} Hz are too short for any phone")
    pcm = to_int16(samples)
    if not pcm.any():  # it leaves estimates in the decoder that spoil the next utterance
        raise ValueError("the audio is digital silence: there is nothing to align")
    try:
        found = _phones(decoder, " ".join(words), pcm.tobytes())
    except RuntimeError as error:
        del _own.decoder  # its state is undefined after a failure
        raise ValueError("audio and transcript do not match; check the transcript") from error
    times = [start * FRAME + TIME_OFFSET for start, _ in found[1:]]
    labels = [label for _, label in found]
    return [Segment(*s) for s in zip([0.0, *times], [*times, len(wav) / sample_rate], labels, strict=True)]


def align_all(utterances: Sequence[Utterance], failures: Failures, workers: int = 1) -> Iterator[tuple[str, Alignment]]:
    """Yield (id, alignment) of utterances in their order; failed utterances are appended to `failures` and left out.

    `workers` is the number of processes (pocketsphinx runs only one thread at a time). They are started with the
    "spawn" method, so with more than one a script needs the guard `if __name__ == "__main__"`. Raises AudioError at the
    end if no utterance could be aligned.
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
    """Raise ModuleNotFoundError, with the extra to install, if pocketsphinx is missing."""
    try:
        import pocketsphinx  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("forced alignment needs pocketsphinx: pip install 'vqaudio[metrics]'") from error


def _decoder() -> Decoder:
    """The decoder of this thread."""
    check_aligner()
    from pocketsphinx import Decoder

    if not hasattr(_own, "decoder"):
        # bestpath drops words from the lattice, which the second pass then misses
        _own.decoder = Decoder(lm=None, bestpath=False, loglevel="FATAL")
    return _own.decoder


def _phones(decoder: Decoder, text: str, samples: bytes) -> list[tuple[int, str]]:
    """Start frame and name of each phone, contiguous: a first pass aligns words, a second one phones."""
    decoder.set_align_text(text)
    _run_decoder(decoder, samples)
    decoder.set_alignment()
    _run_decoder(decoder, samples)
    return [(phone.start, phone.name) for phone in decoder.get_alignment().phones()]


def _run_decoder(decoder: Decoder, samples: bytes) -> None:
    decoder.reinit_feat()  # resets the noise estimate of the previous utterance
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
    """The alignment, or an AudioError with the reason for failure."""
    if utterance.text is None:
        return AudioError(f"{utterance.id} has no text in its manifest; alignment needs a transcript")
    try:
        return align(read_audio(utterance.path, SPHINX_RATE), utterance.text, SPHINX_RATE)
    except AudioError as error:
        return error
    except OSError as error:
        return AudioError(f"{utterance.path} cannot be read: {error.strerror or error}")
    except ValueError as error:
        return AudioError(f"{utterance.id} cannot be aligned: {error}")
