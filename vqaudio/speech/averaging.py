"""Averages the weights of speech models that were fine-tuned from one another."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch

from vqaudio.speech.model import SpeechVQVAE
from vqaudio.speech.speakers import SPEAKER_PITCH, SPEAKER_WEIGHT, speaker_id

TRAINED = ("context.", "spectrum.", "pitch.")  # what stage: context trains, beside the speaker embedding


@torch.no_grad()
def averaged(models: Sequence[SpeechVQVAE]) -> SpeechVQVAE:
    """Models with the same codes, the last one of stage: context -> that one with the mean of their weights.

    Of a model before fine-tuning and after it, the mean keeps most of what each does better (Wortsman et al., "Robust
    fine-tuning of zero-shot models", arXiv 2109.01903). The mean is taken of what stage: context trains: context
    network, spectrum, pitch, and speaker embeddings by name. The rest is that of the last model. Raises ValueError for
    fewer than two models, other codes, a last one of another stage, other options of these parts, and a speaker of the
    last one that another one lacks.
    """
    if len(models) < 2:
        raise ValueError(f"an average needs at least 2 models, got {len(models)}")
    last = models[-1]
    for number, model in enumerate(models, start=1):
        _check(model, last, f"model {number} of {len(models)}")
    result = copy.deepcopy(last)
    states, mean = [model.state_dict() for model in models], result.state_dict()
    for key in mean:
        if key.startswith(TRAINED) or key == SPEAKER_WEIGHT:
            values = [state[key] for state in states]
            if key in (SPEAKER_WEIGHT, *SPEAKER_PITCH):
                rows = [[speaker_id(model.speakers, name) for name in last.speakers] for model in models]
                values = [value[own] for value, own in zip(values, rows, strict=True)]
            mean[key].copy_(torch.stack(values).double().mean(0))
    return result


def _check(model: SpeechVQVAE, last: SpeechVQVAE, name: str) -> None:
    if last.cfg.stage != "context":
        raise ValueError(
            f"the last model must be of stage: context, got stage: {last.cfg.stage}; average first, and train the "
            "WaveNet, which shares the speaker embedding, afterwards"
        )
    if model.fingerprint != last.fingerprint:
        raise ValueError(f"{name} has the codes of {model.fingerprint}, the last one those of {last.fingerprint}")
    for option in ("context", "spectrum", "pitch"):
        own, wanted = getattr(model.cfg, option), getattr(last.cfg, option)
        if own != wanted:
            raise ValueError(f"{name} must have the options of the last one, {option}: {wanted}, got {own}")
    if lacking := sorted(set(last.speakers) - set(model.speakers)):
        raise ValueError(f"{name} lacks speakers of the last one: {', '.join(lacking)}")
