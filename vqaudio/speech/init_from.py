"""Initialises a model from the weights of checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from vqaudio.checkpoint import ModelError, load_model
from vqaudio.speech.config import CODE_PARTS
from vqaudio.speech.model import SpeechVQVAE
from vqaudio.speech.speakers import SPEAKER_WEIGHT


def init_from(model: SpeechVQVAE, names: Sequence[str | Path]) -> dict[str | Path, list[str]]:
    """Copies the weights of checkpoints into `model`, where name and shape agree; later ones override earlier ones.

    The checkpoints are named as for `load_model`. The parts that determine the codes (encoder, normalizer, quantizer)
    are copied all or none, and speaker embeddings by speaker name; of a decoder that has not been trained (stage:
    codes) only the speaker embeddings are copied. Returns, for each checkpoint, the names of the weights of `model`
    that were not copied from it.

    Raises ModelError if nothing can be copied from a checkpoint, and for stage: decoder, if no checkpoint has the codes
    of `model`, or if the context that was trained on these codes does not fit.
    """
    not_copied, fingerprints = {}, set[str]()
    for name in names:
        source = load_model(name, kind=SpeechVQVAE)
        copied = _copy_weights(source, model)
        if not copied:
            raise ModelError(f"no weight of {name} has the name and shape of a weight of the new model")
        context = {key for key in source.state_dict() if key.startswith("context.")}
        if model.cfg.stage == "decoder" and source.fingerprint == model.fingerprint and not context <= copied:
            raise ModelError(
                f"{name} has a context that was trained on its codes, and it does not fit this model: give the same "
                f"--model.context.* ({source.cfg.context}), got {model.cfg.context}"
            )
        not_copied[name] = sorted(model.state_dict().keys() - copied)
        fingerprints.add(source.fingerprint)
    if model.cfg.stage == "decoder" and model.fingerprint not in fingerprints:
        raise ModelError(
            "stage: decoder freezes encoder and codebook, so init_from must name the model that has them, with the "
            f"same encoder, normalizer and quantizer configuration; got {', '.join(map(str, names)) or 'none'}"
        )
    return not_copied


@torch.no_grad()
def _copy_weights(source: SpeechVQVAE, target: SpeechVQVAE) -> set[str]:
    """Copies weights by the rules of `init_from`; returns the names of those that were copied completely."""
    old, new = source.state_dict(), target.state_dict()
    copied = {key for key, value in new.items() if key in old and old[key].shape == value.shape}
    code_weights = {key for key in new if key.startswith(CODE_PARTS)}
    if not code_weights <= copied:
        copied -= code_weights
    if source.cfg.stage == "codes":
        copied = {key for key in copied if not key.startswith("decoder.")}
    copied.discard(SPEAKER_WEIGHT)
    for key in copied:
        new[key].copy_(old[key])
    shared = set(target.speakers) & set(source.speakers)
    if shared and new[SPEAKER_WEIGHT].shape[1] == old[SPEAKER_WEIGHT].shape[1]:
        for speaker in shared:
            new[SPEAKER_WEIGHT][target.speaker_id(speaker)] = old[SPEAKER_WEIGHT][source.speaker_id(speaker)]
        copied |= {SPEAKER_WEIGHT} if len(shared) == len(target.speakers) else set()
    return copied
