"""Names of speakers, as users give them, to the rows of a model's embedding; more speakers for a trained model.

Letters: S speakers that it has, V new ones, H channels of an embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from vqaudio.speech.model import SpeechVQVAE

SPEAKER_WEIGHT = "decoder.speaker.weight"  # (S, H) in a model's state


def speaker_id(speakers: Sequence[str], name: str) -> int:
    """Index of a voice. Raises ValueError for a name that is not among `speakers`."""
    if name not in speakers:
        shown = ", ".join(speakers[:12]) + (", ..." if len(speakers) > 12 else "")
        raise ValueError(
            f"speaker {name!r} is not in this model; it knows {len(speakers)}: {shown} (vqaudio info MODEL lists them)"
        )
    return list(speakers).index(name)


def speaker_ids(speakers: Sequence[str], speaker: str | Sequence[str] | None, count: int) -> list[int] | None:
    """One name for `count` utterances, or one each -> their indices; None of a model without speakers.

    Raises ValueError for unknown names, for other numbers of them, and where a name is missing or out of place.
    """
    if not speakers:
        if speaker is not None:
            raise ValueError(f"this model has no speakers, got {speaker!r}; leave speaker out")
        return None
    if speaker is None:
        raise ValueError(f"name a speaker; this model knows {len(speakers)}: {', '.join(speakers[:12])}")
    names = [speaker] * count if isinstance(speaker, str) else list(speaker)
    if len(names) != count:
        raise ValueError(f"{count} utterances need as many speakers (or a single name), got {len(names)}")
    return [speaker_id(speakers, name) for name in names]


def with_speakers(model: SpeechVQVAE, names: Sequence[str], rows: Tensor | None = None) -> SpeechVQVAE:
    """A copy that knows `names` too, after the voices that it has, whose numbers do not change.

    `rows`: (V, H) embeddings of the new voices; without them each begins at the mean of the old. Every other weight
    is copied to the bit, so the fingerprint is the same. The copy is in evaluation mode and needs no gradients.
    Raises ValueError for a model without speakers, for no names, and for names that are empty, known or repeated.
    """
    check_new_names(model, names)
    state: dict[str, Tensor] = dict(model.state_dict())
    old = state[SPEAKER_WEIGHT]  # (S, H)
    if rows is None:
        rows = old.mean(0, keepdim=True).expand(len(names), -1)
    state[SPEAKER_WEIGHT] = torch.cat([old, rows.to(old)])
    with torch.random.fork_rng(devices=[]):  # first weights are drawn, and replaced at once
        grown = type(model)(replace(model.cfg, speakers=(*model.speakers, *names)))
    grown.load_state_dict(state)
    return grown.eval().requires_grad_(False).to(model.device)


def check_new_names(model: SpeechVQVAE, names: Sequence[str]) -> None:
    """Raises ValueError where `names` cannot become voices of the model."""
    if not model.speakers:
        raise ValueError(
            "this model has no speakers: its decoder was trained to hear no voice, and has no place for one; "
            "train a model with speakers (recipes/train.py) and adapt that"
        )
    if not names or not all(names):
        raise ValueError(f"name at least one new speaker, and none with an empty name, got {list(names)}")
    if len(set(names)) < len(names):
        raise ValueError(f"the new speakers must have different names, got {', '.join(names)}")
    if known := [name for name in names if name in model.speakers]:
        raise ValueError(
            f"speaker {known[0]!r} is in this model already, and a voice that it has is not replaced; give the new one "
            "another name (--speaker, or the manifest's speaker field)"
        )
