"""Initialises a model from the weights of checkpoints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import torch

from vqaudio.checkpoint import ModelError, load_model
from vqaudio.fingerprint import config_facts
from vqaudio.speech.config import CODE_PARTS
from vqaudio.speech.model import SpeechVQVAE
from vqaudio.speech.speakers import SPEAKER_PITCH, SPEAKER_WEIGHT
from vqaudio.speech.vocoders import VOCODERS, Vocoder

FRONTEND = "encoder.frontend."  # before the names of the constants of a front-end


def init_from(model: SpeechVQVAE, names: Sequence[str | Path]) -> dict[str | Path, list[str]]:
    """Copies the weights of checkpoints into `model`, where name and shape agree; later ones override earlier ones.

    The checkpoints are named as for `load_model`. The parts that determine the codes (encoder, normalizer, quantizer)
    are copied all or none, but for the constants of another front-end than that of `model` and, where no checkpoint
    before has it, a quantizer with other weights. Speaker embeddings are copied by speaker name; of a decoder that has
    not been trained (stage: codes) only these are. Returns, for each checkpoint, the names of the weights of `model`
    that were not copied from it.

    Raises ModelError if nothing can be copied from a checkpoint, and for stages that freeze parts, if no checkpoint has
    the codes of `model`, if the context that was trained on these codes does not fit, or if what a stage freezes of
    context, spectrum and pitch is in no checkpoint with these codes; for conversions and their teacher, if what makes
    them was not copied or there is only one speaker.
    """
    not_copied, fingerprints, vocoders, all_copied = {}, set[str](), set[Vocoder](), set[str]()
    frozen = tuple(f"{part}." for part in ("context", "spectrum", "pitch") if part in model.cfg.frozen_parts)
    missing = {key for key in model.state_dict() if key.startswith(frozen)} - {*SPEAKER_PITCH}
    for name in names:
        source = load_model(name, kind=SpeechVQVAE)
        copied = _copy_weights(source, model, all_copied)
        if not copied:
            raise ModelError(f"no weight of {name} has the name and shape of a weight of the new model")
        all_copied |= copied
        vocoders |= {name for name in source.cfg.trained_vocoders if _complete(name, source, model, copied)}
        context = {key for key in source.state_dict() if key.startswith("context.")}
        if model.cfg.stage == "decoder" and source.fingerprint == model.fingerprint and not context <= copied:
            raise ModelError(
                f"{name} has a context that was trained on its codes, and it does not fit this model: give the same "
                f"--model.context.* ({source.cfg.context}), got {model.cfg.context}"
            )
        not_copied[name] = sorted(model.state_dict().keys() - copied)
        fingerprints.add(source.fingerprint)
        if source.fingerprint == model.fingerprint:
            missing -= copied
    if model.cfg.freezes_codes and model.fingerprint not in fingerprints:
        raise ModelError(
            f"stage: {model.cfg.stage} freezes encoder and codebook, so init_from must name the model that has them, "
            f"with the same encoder, normalizer and quantizer configuration; got {', '.join(map(str, names)) or 'none'}"
        )
    if model.cfg.conversions or model.cfg.conversion_loss_weight:
        _check_conversions(model, all_copied, vocoders, names)
    if missing and model.cfg.stage in ("decoder", "istft"):
        parts = sorted({key.partition(".")[0] for key in missing})
        raise ModelError(
            f"stage: {model.cfg.stage} freezes {', '.join(parts)}, which no checkpoint with these codes has as "
            "configured here; train them first, with --model.stage context"
        )
    model.cfg = replace(model.cfg, inherited_vocoders=tuple(name for name in VOCODERS if name in vocoders))
    return not_copied


def by_part(names: Iterable[str], model: SpeechVQVAE) -> str:
    """Names of weights of `model` -> its parts that have them, such as "harmonics, decoder (40 of 41 weights)"."""
    named, of_part = (Counter(name.partition(".")[0] for name in each) for each in (names, model.state_dict()))
    whole = [part for part, count in named.items() if count == of_part[part]]
    partly = [f"{part} ({named[part]} of {of_part[part]} weights)" for part in named if part not in whole]
    return ", ".join((*whole, *partly)) or "nothing"


def _check_conversions(
    model: SpeechVQVAE, copied: set[str], vocoders: set[Vocoder], names: Sequence[str | Path]
) -> None:
    """Raises ModelError unless all that conversions are made with was copied: weights and, for crops, vocoder istft."""
    makers = tuple(f"{part}." for part in (*CODE_PARTS, "context", "spectrum"))
    missing = {key for key in model.state_dict() if key.startswith(makers) or key == SPEAKER_WEIGHT} - copied
    lacking = {"some speakers" if key == SPEAKER_WEIGHT else key.split(".")[0] for key in missing}
    lacking |= {"istft"} - vocoders if model.cfg.conversions else set()
    if len(model.speakers) < 2:
        lacking = {"several speakers"}
    if lacking:
        raise ModelError(
            "conversions are made by the model itself: init_from must bring codes, context network, all speakers and, "
            f"for model.conversions, vocoder istft, configured as here; {', '.join(map(str, names)) or 'none'} lacks "
            f"{', '.join(sorted(lacking))}"
        )


def _complete(vocoder: Vocoder, source: SpeechVQVAE, target: SpeechVQVAE, copied: set[str]) -> bool:
    """Whether a vocoder was copied whole, but for speaker embeddings, and what it is conditioned on stays as it is.

    The WaveNet shares the speaker embedding with the context network, so it does not outlast training of that.
    """
    if vocoder == "wavenet" and target.cfg.stage in ("codes", "context"):
        return False
    reads_frames = vocoder == "istft" or (vocoder == "wavenet" and target.acoustic is not None)
    if reads_frames and not _same_frames(source, target):
        return False
    # the correction comes after the WaveNet; and it can gain harmonics, but not lose them
    old = replace(source.cfg.acoustic, correction=target.cfg.acoustic.correction)
    known = target.cfg.acoustic in (old, replace(old, harmonics=True))
    if vocoder == "wavenet" and target.acoustic is not None and not known:
        return False
    prefixes = {"wavenet": ("decoder.", "acoustic."), "istft": ("istft.",), "griffin-lim": ()}[vocoder]
    keys = {key for key in source.state_dict() | target.state_dict() if key.startswith(prefixes)}
    return keys - {SPEAKER_WEIGHT} <= copied


def _same_frames(source: SpeechVQVAE, target: SpeechVQVAE) -> bool:
    """Whether spectrum and pitch of acoustic frames are the same."""
    return (source.cfg.spectrum, source.cfg.pitch) == (target.cfg.spectrum, target.cfg.pitch)


@torch.no_grad()
def _copy_weights(source: SpeechVQVAE, target: SpeechVQVAE, before: set[str]) -> set[str]:
    """Copies weights by the rules of `init_from`; returns the names of those that were copied completely.

    before: names of the weights that were copied from earlier checkpoints.
    """
    old, new = source.state_dict(), target.state_dict()
    copied = {key for key, value in new.items() if key in old and old[key].shape == value.shape}
    code_weights = {key for key in new if key.startswith(CODE_PARTS)}
    fronts = [each.cfg.encoder.frontend for each in (source, target)]
    if type(fronts[0]) is not type(fronts[1]) or config_facts(fronts[0]) != config_facts(fronts[1]):
        # a recipe computes the constants of the new one
        constants = {key for key in code_weights if key.startswith(FRONTEND)}
        copied, code_weights = copied - constants, code_weights - constants
    codebook = {key for key in code_weights if key.startswith("quantizer.")}
    if not codebook <= copied and not codebook <= before:  # another quantizer, which begins anew
        copied, code_weights = copied - codebook, code_weights - codebook
    if not code_weights <= copied:
        copied -= code_weights
    if "wavenet" not in source.cfg.trained_vocoders:
        copied = {key for key in copied if not key.startswith("decoder.")}
    if not _same_frames(source, target):  # a recipe measures them
        copied = {key for key in copied if not key.startswith("harmonics.")}
    if source.speakers or target.speakers:  # whose rows are copied by name
        copied -= {SPEAKER_WEIGHT, *SPEAKER_PITCH}
    for key in copied:
        new[key].copy_(old[key])
    shared = set(target.speakers) & set(source.speakers)
    if shared and new[SPEAKER_WEIGHT].shape[1] == old[SPEAKER_WEIGHT].shape[1]:
        keys = [SPEAKER_WEIGHT, *(key for key in SPEAKER_PITCH if key in new and key in old)]
        for speaker, key in product(shared, keys):
            new[key][target.speaker_id(speaker)] = old[key][source.speaker_id(speaker)]
        copied |= set(keys) if len(shared) == len(target.speakers) else set()
    return copied
