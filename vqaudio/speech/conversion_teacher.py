"""Target spectra of conversions: those of a model as it is, moved to the mean spectrum of the target speaker.

Codes carry some information on the source speaker. A conversion therefore has another long-term average spectrum than
its target speaker, by 2 to 4 dB (root mean square over bands). How it differs depends on the two speakers and hardly on
the content, so that it can be measured beforehand, and learned without raising the WER
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

from vqaudio.data.packed import PackedSpeech
from vqaudio.fingerprint import fingerprint
from vqaudio.nn.log_mel import STD_DB
from vqaudio.speech.acoustic import quantized_vectors
from vqaudio.speech.frontend_init import evenly_spaced
from vqaudio.speech.model import SpeechVQVAE
from vqaudio.training import processes

MAX_SPEAKERS = 64  # all pairs of them are measured
UTTERANCES, MAX_SECONDS = 14, 16.0  # utterances of each speaker, and seconds of each of them, that are measured
LOUD_DB = 35.0  # frames are measured whose loudest band is at most this far below the loudest of the utterance


class ConversionTeacher(nn.Module):
    """Code vectors, speakers, other speakers -> target log-mel spectra of the same content by the other speakers."""

    offsets: Tensor  # (S, S, F) of each source and target speaker, added to the standardised log-mel spectrum

    def __init__(self, model: SpeechVQVAE):
        """A copy of what `model` predicts the spectrum with; its offsets are 0 until `measure`."""
        super().__init__()
        assert model.context is not None and model.spectrum is not None and model.decoder.speaker is not None
        self.context = copy.deepcopy(model.context)
        self.spectrum = copy.deepcopy(model.spectrum)
        self.speaker = copy.deepcopy(model.decoder.speaker)
        count = len(model.speakers)
        self.register_buffer("offsets", torch.zeros(count, count, model.cfg.spectrum.n_mels, device=model.device))
        self.eval().requires_grad_(False)

    @torch.no_grad()
    def measure(self, utterances: Iterable[tuple[int, Tensor, Tensor]]) -> None:
        """Sets the offsets from utterances: a speaker, the speech (T,) in [-1, 1] and its code vectors (D, N) of each.

        All speakers must have at least one.
        """
        everyone = torch.arange(len(self.offsets), device=self.offsets.device)
        true, converted = ([list[Tensor]() for _ in everyone] for _ in range(2))
        for source, wav, codes in utterances:
            predicted = self._predicted(codes.expand(len(everyone), -1, -1), everyone)  # (S, M, F)
            true[source].append(mean_spectrum(self.spectrum.log_mel.centred(wav[None], predicted.shape[1])[0]))
            converted[source].append(torch.stack([mean_spectrum(each) for each in predicted]))
        of_target = torch.stack([torch.stack(found).mean(0) for found in true])  # (S, F)
        self.offsets.copy_(of_target - torch.stack([torch.stack(found).mean(0) for found in converted]))

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


def initialise_conversion_teacher(model: SpeechVQVAE, speech: PackedSpeech) -> dict[str, str]:
    """Gives a model with `conversion_loss_weight` its teacher, from its weights as they are and from training speech.

    To be called by every process, after init_from; the first one measures for all. The indices of the speakers of
    `speech` are those of the model. Returns facts that a run must have in common with one that it continues: a hash of
    the weights of the teacher, which is in no checkpoint. Raises ValueError for fewer than 2 and more than MAX_SPEAKERS
    speakers, and for one without speech.
    """
    if not model.cfg.conversion_loss_weight:
        return {}
    if not 2 <= len(model.speakers) <= MAX_SPEAKERS:
        raise ValueError(
            f"model.conversion_loss_weight is for 2 to {MAX_SPEAKERS} speakers, whose pairs are all measured, got "
            f"{len(model.speakers)}; give the manifests of those that conversions should resemble"
        )
    if missing := sorted(set(range(len(model.speakers))) - set(speech.speaker_ids.tolist())):
        raise ValueError(
            "model.conversion_loss_weight measures the mean spectrum of every speaker; there is no speech of "
            f"{', '.join(model.speakers[speaker] for speaker in missing)}"
        )
    teacher = ConversionTeacher(model)
    facts = {"conversion_teacher": fingerprint({}, teacher.state_dict())}
    if processes().is_main_process:
        teacher.measure(_utterances(model, speech))
    (offsets,) = broadcast_object_list([teacher.offsets])
    teacher.offsets.copy_(offsets)
    model.conversion_teacher = (teacher,)
    return facts


def _utterances(model: SpeechVQVAE, speech: PackedSpeech) -> Iterator[tuple[int, Tensor, Tensor]]:
    """What is measured: UTTERANCES of each speaker, evenly spread over those that there are."""
    most = round(MAX_SECONDS * speech.sample_rate)
    for speaker in range(len(model.speakers)):
        own = np.flatnonzero(speech.speaker_ids == speaker)
        for index in own[evenly_spaced(len(own), UTTERANCES)]:
            wav = torch.from_numpy(speech.waveform(int(index))[:most]).to(model.device)
            yield speaker, wav, quantized_vectors(model, wav[None, None])[0]
