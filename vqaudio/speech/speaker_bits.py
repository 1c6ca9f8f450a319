"""Whose voice is it? What utterances cost when each of a model's voices says them, in bits per sample."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from vqaudio.speech.model import SpeechVQVAE


@torch.no_grad()
def bits_by_speaker(model: SpeechVQVAE, batches: Iterable[dict[str, Tensor]], voices: Sequence[int]) -> list[float]:
    """Batches as the model is trained on -> bits per sample of all their valid samples, for each of `voices`.

    `voices` are numbers of speakers (`model.speaker_id`), and stand in for the speakers of the batches. Teacher-forced,
    evaluation mode, float32; the codes are computed once for all voices. Raises RuntimeError for a model in training
    mode, ValueError for no batch.
    """
    if model.training:
        raise RuntimeError("the model is in training mode; call model.eval() before it is evaluated")
    nats = torch.zeros(len(voices), dtype=torch.float64)
    num_samples = 0
    for cpu_batch in batches:
        batch = {name: value.to(model.device) for name, value in cpu_batch.items()}
        z_q = quantized_codes(model, batch["wav"])
        for i, voice in enumerate(voices):
            speaker = torch.full_like(batch["speaker"], voice)
            nats[i] += model.nll_of_each(batch["target"], z_q, speaker, batch["lengths"]).double().sum().cpu()
        num_samples += int(batch["lengths"].sum())
    if not num_samples:
        raise ValueError("there is nothing to evaluate: no batch")
    return (nats / num_samples / math.log(2)).tolist()


@torch.no_grad()
def quantized_codes(model: SpeechVQVAE, wav: Tensor) -> Tensor:
    """(B, 1, T) -> (B, D, N): the code vectors, exactly as the decoder hears them when it speaks; float32."""
    with torch.autocast(wav.device.type, enabled=False):  # in half precision some codes would be others
        z, _ = model.encoder(wav)
        return model.quantizer.decode(model.quantizer.encode(model.normalizer(z)))
