"""Averages the weights of a speech model before and after fine-tuning."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch

from vqaudio.speech.model import SpeechVQVAE
from vqaudio.speech.speakers import SPEAKER_WEIGHT, speaker_id

TRAINED = ("context.", "spectrum.", "pitch.")  # parameters of stage: context, beside the speaker embedding


@torch.no_grad()
def averaged(models: Sequence[SpeechVQVAE]) -> SpeechVQVAE:
    """Models with the same codes, the last one of stage: context -> that one with the mean of their weights.

    Of a model before and after fine-tuning, the mean keeps most of what each does better (Wortsman et al., "Robust
    fine-tuning of zero-shot models", arXiv 2109.01903). The mean is taken of the parameters that stage: context trains:
    context network, spectrum, pitch, and speaker embeddings by name. Everything else is that of the last model, its
    speakers and their measured pitch included. The models themselves are not modified.

    Raises ValueError for fewer than two models, a last one of another stage, other codes, other options of the averaged
    parts, and speakers of the last one that another one lacks.
    """
    if len(models) < 2:
        raise ValueError(f"an average needs at least 2 models, got {len(models)}")
    last = models[-1]
    if last.cfg.stage != "context":
        raise ValueError(
            f"the last model must be the fine-tuned one, of stage: context, got stage: {last.cfg.stage}; give it last, "
            "and train a WaveNet, which shares the speaker embedding, after averaging"
        )
    for number, model in enumerate(models[:-1], start=1):
        _check(model, last, f"model {number} of {len(models)}")
    result = copy.deepcopy(last)
    states = [model.state_dict() for model in models]
    for key, mean in result.named_parameters():
        if key.startswith(TRAINED) or key == SPEAKER_WEIGHT:
            values = [state[key].to(last.device) for state in states]
            if key == SPEAKER_WEIGHT:
                rows = [[speaker_id(model.speakers, name) for name in last.speakers] for model in models]
                values = [value[own] for value, own in zip(values, rows, strict=True)]
            mean.copy_(torch.stack(values).double().mean(0))
    return result


def _check(model: SpeechVQVAE, last: SpeechVQVAE, name: str) -> None:
    if model.fingerprint != last.fingerprint:
        raise ValueError(
            f"{name} has the codes of {model.fingerprint}, the last one those of {last.fingerprint}; average models "
            "with the same encoder and codebook, before and after stage: context"
        )
    own, wanted = ({"context": one.cfg.context, "spectrum": one.cfg.spectrum, "pitch": one.cfg.pitch,
                    "decoder.cond_hidden_channels": one.cfg.decoder.cond_hidden_channels}
                   for one in (model, last))  # fmt: skip
    for option, value in wanted.items():
        if own[option] != value:
            raise ValueError(f"{name} must have the options of the last one, {option}: {value}, got {own[option]}")
    if bool(model.speakers) != bool(last.speakers):
        raise ValueError(f"{name} and the last one must both have speakers, or neither of them")
    if lacking := sorted(set(last.speakers) - set(model.speakers)):
        raise ValueError(f"{name} lacks speakers of the last one: {', '.join(lacking)}")
