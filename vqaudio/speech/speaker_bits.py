"""Cross-entropy of utterances conditioned on each of a model's speakers, in bits per sample."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from vqaudio.nn.modes import check_evaluating
from vqaudio.speech.acoustic import quantized_vectors
from vqaudio.speech.model import SpeechVQVAE


@torch.no_grad()
def bits_by_speaker(model: SpeechVQVAE, batches: Iterable[dict[str, Tensor]], speakers: Sequence[int]) -> list[float]:
    """Training batches of the model -> bits per valid sample, over all batches, for each of `speakers`.

    `speakers` are indices (`model.speaker_id`) that replace the speakers of the batches. The likelihood is
    teacher-forced, in evaluation mode and float32; the codes are computed once for all speakers. Raises RuntimeError
    for a model in training mode and ValueError if there is no batch.
    """
    check_evaluating(model)
    nats = torch.zeros(len(speakers), dtype=torch.float64)
    num_samples = 0
    for cpu_batch in batches:
        batch = {name: value.to(model.device) for name, value in cpu_batch.items()}
        z_q = quantized_vectors(model, batch["wav"])
        for i, id in enumerate(speakers):
            speaker = torch.full_like(batch["speaker"], id)
            nats[i] += model.nll_of_each(batch["target"], z_q, speaker, batch["lengths"]).double().sum().cpu()
        num_samples += int(batch["lengths"].sum())
    if not num_samples:
        raise ValueError("there is nothing to evaluate: give at least one batch")
    return (nats / num_samples / math.log(2)).tolist()
