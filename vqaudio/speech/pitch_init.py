"""What a model computes from the pitch of training speech first: of speakers, of harmonics, and of pitch tokens."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from accelerate.utils import broadcast_object_list

from vqaudio.data.packed import PackedSpeech
from vqaudio.nn.harmonics import MIN_FRAMES
from vqaudio.nn.modes import evaluating
from vqaudio.nn.pitch_quantizer import PitchQuantizerConfig
from vqaudio.speech.acoustic import true_frames
from vqaudio.speech.frontend_init import spread_waveforms
from vqaudio.speech.model import SpeechVQVAE
from vqaudio.training import processes

MAX_SECONDS = 120.0  # of each speaker


def initialise_pitch(model: SpeechVQVAE, speech: PackedSpeech) -> None:
    """Measures the pitch of speakers, and makes the codebook of pitch tokens, where they are not there yet.

    To be called by every process. The indices of the speakers of `speech` are those of the model. The first process
    computes for all.
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
    if model.pitch_quantizer is not None and not model.pitch_quantizer.quantizer.initialised:
        quantizer = model.pitch_quantizer.to(processes().device)  # on which the processes exchange tensors
        quantizer.fit(spread_waveforms(speech) if processes().is_main_process else [])
        quantizer.to(model.device)


def initialise_harmonics(model: SpeechVQVAE, speech: PackedSpeech) -> None:
    """Measures the harmonics of `speech` for a model that needs them and has not measured them.

    To be called by every process; the first one computes for all. Raises ValueError for too few voiced frames with
    steady F0.
    """
    if model.harmonics is None or model.harmonics.measured:
        return
    if processes().is_main_process:
        with evaluating(model):  # without noise on the spectra
            model.harmonics.measure(
                true_frames(model, wav[None], -(-len(wav) // model.hop)) for wav in spread_waveforms(speech)
            )
    (state,) = broadcast_object_list([model.harmonics.state_dict()])
    model.harmonics.load_state_dict(state)
    if not model.harmonics.measured:
        raise ValueError(
            f"the training speech has fewer than {MIN_FRAMES} voiced frames with steady F0, from which harmonics are "
            "measured; give more of it, or set model.acoustic.harmonics False"
        )


def with_pitch_tokens(model: SpeechVQVAE, cfg: PitchQuantizerConfig, wavs: Iterable[torch.Tensor]) -> SpeechVQVAE:
    """A copy of `model` with pitch tokens, whose codebook is made from `wavs`, (T,) in [-1, 1].

    All other weights and the fingerprint of the codes stay. The copy is in evaluation mode and requires no gradients.
    Raises ValueError for a model that predicts no pitch, and for cfg.frames 0.
    """
    if model.pitch is None or not cfg.frames:
        raise ValueError(
            "pitch tokens are for a model that predicts pitch (pitch.win_length), and need 1 frame or more"
        )
    with torch.random.fork_rng(devices=[]):
        extended = type(model)(replace(model.cfg, pitch_tokens=cfg))
    assert extended.pitch_quantizer is not None
    kept = {key: value for key, value in model.state_dict().items() if not key.startswith("pitch_quantizer.")}
    extended.load_state_dict({**extended.pitch_quantizer.state_dict(prefix="pitch_quantizer."), **kept})
    extended.pitch_quantizer.fit(wavs)
    return extended.eval().requires_grad_(False).to(model.device)


def _waveforms(speech: PackedSpeech, speaker: int | None) -> list[torch.Tensor]:
    """The first utterances of a speaker (None: any speaker), (T,) float32 in [-1, 1)."""
    wavs, left = [], MAX_SECONDS * speech.sample_rate
    for i in range(len(speech)):
        if left > 0 and speaker in (None, int(speech.speaker_ids[i])):
            wavs.append(torch.from_numpy(speech.waveform(i)))
            left -= len(wavs[-1])
    return wavs
