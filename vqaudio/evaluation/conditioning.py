"""Does the decoder listen? What the codes and the speaker are worth to it, in bits per sample."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from vqaudio.models.speech import SpeechVQVAE
from vqaudio.nn.quantizer import perplexity


@torch.no_grad()
def conditioning(model: SpeechVQVAE, batches: Iterable[dict[str, Tensor]]) -> dict[str, float]:
    """Batches as the model is trained on -> figures, averaged over valid samples; evaluation mode, float32.

    bits_per_sample: cross-entropy of the next sample given the past, the codes and the speaker (teacher-forced).
    gap_codes, gap_speakers: by how much it grows with the codes, or the speakers, of the batch's next utterance:
    0 means that the decoder ignores them. perplexity (1 to K) and usage (0 to 1): of all codes together.
    """
    if model.training:
        raise RuntimeError("the model is in training mode; call model.eval() before it is evaluated")
    device = model.device
    nats = torch.zeros(3, device=device)
    counts = torch.zeros(model.codebook_size, device=device)
    num_samples = 0
    for cpu_batch in batches:
        batch = {name: value.to(device) for name, value in cpu_batch.items()}
        target, speaker, lengths = batch["target"], batch["speaker"], batch["lengths"]
        if target.shape[0] < 2:
            raise ValueError("a batch must hold at least 2 utterances: codes are exchanged between them")
        q = model.quantize(batch["wav"], lengths)
        losses = [
            model.nll(target, q.z_q, speaker, lengths),
            model.nll(target, q.z_q.roll(1, 0), speaker, lengths),
            model.nll(target, q.z_q, speaker.roll(1, 0), lengths),
        ]
        nats += torch.stack(losses) * lengths.sum()
        num_samples += int(lengths.sum())
        codes = q.codes[model.valid_frames(lengths, q.codes.shape[1])]
        counts += torch.bincount(codes, minlength=len(counts))
    if not num_samples:
        raise ValueError("there is nothing to evaluate: no batch")
    true, other_codes, other_speakers = (nats / num_samples / math.log(2)).tolist()
    return {
        "bits_per_sample": true,
        "gap_codes": other_codes - true,
        "gap_speakers": other_speakers - true,
        "perplexity": perplexity(counts).item(),
        "usage": (counts > 0).float().mean().item(),
    }
