"""Actions by name: each one holds one button of the environment down for a frame."""

from __future__ import annotations

import re
from collections.abc import Sequence

ACTION_OF_BUTTON = {  # names of ViZDoom's buttons -> of actions; other buttons are called as they are, in small letters
    "TURN_LEFT": "left",
    "TURN_RIGHT": "right",
    "MOVE_FORWARD": "forward",
    "MOVE_BACKWARD": "backward",
    "MOVE_LEFT": "step-left",
    "MOVE_RIGHT": "step-right",
}
MAX_ACTIONS = 100_000  # of one sequence; more is a mistake


def action_of_button(button: str) -> str:
    """Name of a button -> of the action that holds it down: TURN_LEFT -> left."""
    return ACTION_OF_BUTTON.get(button, button.lower().replace("_", "-"))


def parse_actions(text: str, known: Sequence[str]) -> tuple[int, ...]:
    """ "forward*20,left*10" -> indices into `known`, one per frame; a name without a number is one frame.

    Raises ValueError for an unknown action and for what is not a list of this form.
    """
    indices: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*([A-Za-z][\w-]*)\s*(?:\*\s*(\d{1,9})\s*)?", part)
        if found is None:
            raise ValueError(f"actions have the form forward*20,left*10, got {part.strip()!r} in {text!r}")
        name, times = found[1], int(found[2] or 1)
        if name not in known:
            raise ValueError(f"action {name!r} is not in this prior; it has {', '.join(known)}")
        if times < 1 or len(indices) + times > MAX_ACTIONS:
            raise ValueError(f"actions must be repeated 1 to {MAX_ACTIONS} times in all, got {part.strip()!r}")
        indices += [known.index(name)] * times
    return tuple(indices)
