"""Maps speaker names to rows of a model's speaker embedding, and adds rows for new speakers to a trained model.

Letters: S speakers of the model, V new speakers, H channels of a speaker embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

if TYPE_CHECKING:
    from vqaudio.speech.model import SpeechVQVAE

SPEAKER_WEIGHT = "decoder.speaker.weight"  # key of the speaker embedding (S, H) in a model's state_dict
SPEAKER_PITCH = ("pitch.centre", "pitch.spread")  # keys of the pitch of each speaker (S,), if the model predicts pitch


def speaker_id(speakers: Sequence[str], name: str, kind: Literal["model", "prior"] = "model") -> int:
    """Index of a speaker of a model or prior. Raises ValueError for a name that is not in `speakers`."""
    if name not in speakers:
        raise ValueError(f"speaker {name!r} is not in this {kind}; {_listed(speakers, kind)}")
    return list(speakers).index(name)


def speaker_ids(speakers: Sequence[str], speaker: str | Sequence[str] | None, count: int) -> list[int] | None:
    """One name for `count` utterances, or one name for each -> their indices; None for a model without speakers.

    Raises ValueError for unknown names, for a wrong number of names, for no name if the model has speakers, and for a
    name if it has none.
    """
    if not speakers:
        if speaker is not None:
            raise ValueError(f"this model has no speakers, got speaker {speaker!r}; omit it")
        return None
    if speaker is None:
        raise ValueError(f"name a speaker of this model; {_listed(speakers, 'model')}")
    names = [speaker] * count if isinstance(speaker, str) else list(speaker)
    if len(names) != count:
        raise ValueError(f"{count} utterances need as many speakers (or a single name), got {len(names)}")
    return [speaker_id(speakers, name) for name in names]


def _listed(speakers: Sequence[str], kind: str) -> str:
    """The first speakers, as a clause for messages."""
    shown = ", ".join(speakers[:12]) + (", ..." if len(speakers) > 12 else "")
    return f"it has {len(speakers)}: {shown} (vqaudio info {kind.upper()} lists them)"


def with_speakers(model: SpeechVQVAE, names: Sequence[str], rows: Tensor | None = None) -> SpeechVQVAE:
    """A copy of `model` with the speakers `names` appended; the indices of its existing speakers stay the same.

    `rows`: (V, H) embeddings of the new speakers; by default each is the mean of the existing embeddings. All other
    weights are exact copies, so the fingerprint does not change. The copy is in evaluation mode and requires no
    gradients. Raises ValueError for a model without speakers, for an empty list of names, and for names that are empty,
    repeated or already in the model.
    """
    check_new_names(model, names)
    state: dict[str, Tensor] = dict(model.state_dict())
    existing = state[SPEAKER_WEIGHT]  # (S, H)
    if rows is None:
        rows = existing.mean(0, keepdim=True).expand(len(names), -1)
    state[SPEAKER_WEIGHT] = torch.cat([existing, rows.to(existing)])
    if model.pitch is not None:  # not known yet: the mean of the others
        centre, spread = (state[key] for key in SPEAKER_PITCH)
        state[SPEAKER_PITCH[0]] = torch.cat([centre, centre.mean().expand(len(names))])
        state[SPEAKER_PITCH[1]] = torch.cat([spread, spread.new_zeros(len(names))])
    with torch.random.fork_rng(devices=[]):  # the random initialisation is overwritten at once
        extended = type(model)(replace(model.cfg, speakers=(*model.speakers, *names)))
    extended.load_state_dict(state)
    return extended.eval().requires_grad_(False).to(model.device)


def check_new_names(model: SpeechVQVAE, names: Sequence[str]) -> None:
    """Raises ValueError if `names` cannot be added to the model's speakers."""
    if not model.speakers:
        raise ValueError(
            "this model has no speakers: its decoder was trained without a speaker embedding; train a model with "
            "speakers (recipes/train.py) and adapt that one"
        )
    if not names or not all(names):
        raise ValueError(f"give at least one new speaker, and no empty name, got {list(names)}")
    if len(set(names)) < len(names):
        raise ValueError(f"the new speakers must have different names, got {', '.join(names)}")
    if known := [name for name in names if name in model.speakers]:
        raise ValueError(
            f"speaker {known[0]!r} is in this model already, and existing speakers are not replaced; give the new "
            "speaker another name (--speaker, or the speaker field of the manifest)"
        )
