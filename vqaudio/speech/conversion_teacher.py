"""What spectra of conversions should be: those of a model as it is, moved to the mean spectrum of the target speaker.

Codes carry some of the voice that they were made from. A conversion therefore has another long-term average spectrum
than its target speaker, by 2 to 4 dB (root mean square over bands). How it differs depends on the two speakers and
hardly on what is said, so that it can be measured beforehand, and learned without losing words
(`model.conversion_loss_weight`): conversions of a copy of the model, moved by that difference, are the teacher of the
model (distillation, Hinton et al., arXiv 1503.02531).

Shapes: B batch, N codes, D code dimension, M spectra, F mel bands, S speakers, T samples.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from vqaudio.data.audio import INT16_SCALE
from vqaudio.data.packed import PackedSpeech
from vqaudio.nn.log_mel import STD_DB
from vqaudio.speech.acoustic import quantized_codes
from vqaudio.speech.model import SpeechVQVAE

MAX_SPEAKERS = 64  # all pairs of them are measured
UTTERANCES, MAX_SECONDS = 14, 16.0  # of each speaker that are measured, and of each utterance
LOUD_DB = 35.0  # frames whose loudest band is less than this below that of the utterance are measured


class ConversionTeacher(nn.Module):
    """Code vectors, their speakers, other speakers -> the spectra that these should have saying them."""

    offsets: Tensor  # (S, S, F) of each source and target speaker, added to the standardised log-mel spectrum

    @torch.no_grad()
    def __init__(self, model: SpeechVQVAE, utterances: Iterable[tuple[int, Tensor]]):
        """A copy of what `model` predicts the spectrum with, and the mean spectra of its speakers.

        utterances: speaker and waveform (T,) in [-1, 1] of each, one or more of every speaker.
        """
        super().__init__()
        assert model.context is not None and model.spectrum is not None and model.decoder.speaker is not None
        self.context = copy.deepcopy(model.context)
        self.spectrum = copy.deepcopy(model.spectrum)
        self.speaker = copy.deepcopy(model.decoder.speaker)
        count = len(model.speakers)
        true: list[list[Tensor]] = [[] for _ in range(count)]
        converted: list[list[list[Tensor]]] = [[[] for _ in range(count)] for _ in range(count)]
        for source, wav in utterances:
            wav = wav[None].to(model.device)
            codes = quantized_codes(model, wav[:, None])
            predicted = [self._predicted(codes, torch.tensor([target], device=wav.device)) for target in range(count)]
            true[source].append(mean_spectrum(self.spectrum.log_mel.centred(wav, predicted[0].shape[1])[0]))
            for target, spectrum in enumerate(predicted):
                converted[source][target].append(mean_spectrum(spectrum[0]))
        if missing := [name for name, found in zip(model.speakers, true, strict=True) if not found]:
            raise ValueError(f"the mean spectrum of {missing[0]} is not known: give at least one utterance")
        of_target = torch.stack([torch.stack(found).mean(0) for found in true])  # (S, F)
        of_pairs = torch.stack(
            [torch.stack([torch.stack(found).mean(0) for found in of_source]) for of_source in converted]
        )
        self.register_buffer("offsets", of_target - of_pairs)
        self.eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, z_q: Tensor, source: Tensor, target: Tensor) -> Tensor:
        """(B, D, N), speakers (B,), other speakers (B,) -> log-mel spectra (B, M, F), standardised as by `LogMel`."""
        return self._predicted(z_q, target) + self.offsets[source, target][:, None]

    def _predicted(self, z_q: Tensor, speaker: Tensor) -> Tensor:
        return self.spectrum(self.context(z_q, self.speaker(speaker)))


def mean_spectrum(spectrum: Tensor) -> Tensor:
    """Log-mel spectra (M, F), standardised as by `LogMel` -> the mean of those that are loud, (F,), with the mean 0."""
    loudest = spectrum.amax(1)
    mean = spectrum[loudest >= loudest.max() - LOUD_DB / STD_DB].mean(0)
    return mean - mean.mean()


def initialise_conversion_teacher(model: SpeechVQVAE, speech: PackedSpeech) -> None:
    """Gives a model with `conversion_loss_weight` its teacher, from its weights as they are and from training speech.

    To be called by every process, after init_from. The indices of the speakers of `speech` are those of the model.
    Raises ValueError for less than 2 and more than MAX_SPEAKERS speakers.
    """
    if not model.cfg.conversion_loss_weight:
        return
    if not 2 <= len(model.speakers) <= MAX_SPEAKERS:
        raise ValueError(
            f"model.conversion_loss_weight is for 2 to {MAX_SPEAKERS} speakers, whose pairs are all measured, got "
            f"{len(model.speakers)}; give the manifests of those that conversions should resemble"
        )
    teacher = ConversionTeacher(model, _utterances(speech))
    (teacher.offsets,) = broadcast_object_list([teacher.offsets])  # other processes may round otherwise
    model.conversion_teacher = (teacher,)


def _utterances(speech: PackedSpeech) -> Iterator[tuple[int, Tensor]]:
    """Speaker and waveform (T,) of UTTERANCES utterances of each speaker, evenly spread over those that there are."""
    most = round(MAX_SECONDS * speech.sample_rate)
    for speaker in range(len(speech.speakers)):
        own = np.flatnonzero(speech.speaker_ids == speaker)
        for index in own[np.unique(np.arange(UTTERANCES) * len(own) // UTTERANCES)] if len(own) else ():
            yield speaker, torch.from_numpy(speech.audio(int(index))[:most].astype(np.float32) / INT16_SCALE)
