"""Names of voices, as users give them, to the rows of a model's embedding."""

from __future__ import annotations

from collections.abc import Sequence


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
