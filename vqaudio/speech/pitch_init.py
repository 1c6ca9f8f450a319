"""Measures the pitch of each speaker of a model from training speech."""

from __future__ import annotations

import numpy as np
import torch
from accelerate.utils import broadcast_object_list

from vqaudio.data.audio import INT16_SCALE
from vqaudio.data.packed import PackedSpeech
from vqaudio.speech.model import SpeechVQVAE
from vqaudio.training import processes

MAX_SECONDS = 120.0  # of each speaker


def initialise_pitch(model: SpeechVQVAE, speech: PackedSpeech) -> None:
    """Measures the speakers of `speech` whose pitch is not known yet. To be called by every process.

    The indices of the speakers of `speech` are those of the model. The first process computes for all.
    """
    if model.pitch is None:
        return
    if processes().is_main_process:
        for speaker in range(len(model.pitch.spread)):
            if not model.pitch.spread[speaker]:
                model.pitch.measure(speaker, _waveforms(speech, speaker if model.speakers else None))
    (state,) = broadcast_object_list([{"centre": model.pitch.centre, "spread": model.pitch.spread}])
    model.pitch.centre.copy_(state["centre"])
    model.pitch.spread.copy_(state["spread"])


def _waveforms(speech: PackedSpeech, speaker: int | None) -> list[torch.Tensor]:
    """The first utterances of a speaker (None: of anybody), (T,) float32 in [-1, 1)."""
    wavs, left = [], MAX_SECONDS * speech.sample_rate
    for i in range(len(speech)):
        if left > 0 and speaker in (None, int(speech.speaker_ids[i])):
            wavs.append(torch.from_numpy(speech.audio(i).astype(np.float32) / INT16_SCALE))
            left -= len(wavs[-1])
    return wavs
