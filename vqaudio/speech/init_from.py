"""A model that begins with the weights of others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from vqaudio.checkpoint import ModelError, load_model
from vqaudio.speech.config import CODE_PARTS
from vqaudio.speech.model import SpeechVQVAE
from vqaudio.speech.speakers import SPEAKER_WEIGHT


def init_from(model: SpeechVQVAE, names: Sequence[str | Path]) -> dict[str | Path, list[str]]:
    """Gives `model` the weights of others, named as `load_model` takes them, wherever name and shape agree.

    Of two that agree, the later one's. What makes the codes (encoder, normalizer, quantizer) is taken whole or not at
    all, voices by their names, and of a decoder that has learned nothing (stage: codes) its voices alone. Returns, for
    each of them, the names of the weights that it did not give. Raises ModelError where one gives nothing, and where
    `model` is to keep its codes (stage: decoder) but they are those of none of the others, or what has learned to read
    them (the context) would be lost.
    """
    left, fingerprints = {}, set[str]()
    for name in names:
        other = load_model(name, kind=SpeechVQVAE)
        given = _give(model, other)
        if not given:
            raise ModelError(f"no weight of {name} has the name and shape of one that is to be trained")
        read_by = {key for key in other.state_dict() if key.startswith("context.")}
        if model.cfg.stage == "decoder" and other.fingerprint == model.fingerprint and not read_by <= given:
            raise ModelError(
                f"the codes of {name} are read by its context, and this model has none of that shape: give it the same "
                f"--model.context.* ({other.cfg.context}), got {model.cfg.context}"
            )
        left[name] = sorted(model.state_dict().keys() - given)
        fingerprints.add(other.fingerprint)
    if model.cfg.stage == "decoder" and model.fingerprint not in fingerprints:
        raise ModelError(
            "stage: decoder freezes encoder and codebook, so init_from must name the model that they are from, with the "
            f"same encoder, normalizer and quantizer in its configuration; got {', '.join(map(str, names)) or 'none'}"
        )
    return left


@torch.no_grad()
def _give(model: SpeechVQVAE, other: SpeechVQVAE) -> set[str]:
    """Copies what agrees, as `init_from` says; its names."""
    theirs, own = other.state_dict(), model.state_dict()
    given = {key for key, value in own.items() if key in theirs and theirs[key].shape == value.shape}
    of_codes = {key for key in own if key.startswith(CODE_PARTS)}
    if not of_codes <= given:
        given -= of_codes
    if other.cfg.stage == "codes":
        given = {key for key in given if not key.startswith("decoder.")}
    given.discard(SPEAKER_WEIGHT)
    for key in given:
        own[key].copy_(theirs[key])
    shared = set(model.speakers) & set(other.speakers)
    if shared and own[SPEAKER_WEIGHT].shape[1] == theirs[SPEAKER_WEIGHT].shape[1]:
        for speaker in shared:
            own[SPEAKER_WEIGHT][model.speaker_id(speaker)] = theirs[SPEAKER_WEIGHT][other.speaker_id(speaker)]
        given |= {SPEAKER_WEIGHT} if len(shared) == len(model.speakers) else set()
    return given
