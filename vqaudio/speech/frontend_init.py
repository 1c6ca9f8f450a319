"""Computes the constants of a front-end from training speech."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor

from vqaudio.data.packed import PackedSpeech
from vqaudio.nn.frontend import LogMel
from vqaudio.speech.model import SpeechVQVAE
from vqaudio.training import processes

MAX_UTTERANCES = 512  # that constants are computed from


def initialise_frontend(model: SpeechVQVAE, speech: PackedSpeech) -> bool:
    """Computes the constants of the model's front-end from `speech`, if it has any that no checkpoint brought.

    The first process computes them for all. Returns whether they were computed. To be called by every process.
    """
    front = model.encoder.frontend
    if front is None or isinstance(front, LogMel) or front.initialised:
        return False
    if processes().is_main_process:
        front.initialise(lambda: spread_waveforms(speech))
    (state,) = broadcast_object_list([front.state_dict()])
    front.load_state_dict(state)
    return True


def spread_waveforms(speech: PackedSpeech) -> Iterator[Tensor]:
    """At most MAX_UTTERANCES utterances, evenly spread over the corpus, (T,) float32 in [-1, 1)."""
    for i in evenly_spaced(len(speech)):
        yield torch.from_numpy(speech.waveform(i))


def evenly_spaced(count: int, most: int = MAX_UTTERANCES) -> list[int]:
    """At most `most` of the numbers 0 to `count` - 1, evenly spaced."""
    chosen = min(count, most)
    return [i * count // chosen for i in range(chosen)]
