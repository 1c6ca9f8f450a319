"""What each figure of a report means; the words are in meanings.yaml."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Literal, NamedTuple

import yaml


class Meaning(NamedTuple):
    unit: str  # "share" is shown in percent; "" where there is none
    better: Literal["higher", "lower", "neither"]
    sentence: str


@cache
def meanings() -> dict[str, Meaning]:
    """By the figures' names."""
    text = files("vqaudio.report").joinpath("meanings.yaml").read_text(encoding="utf-8")
    return {name: Meaning(*facts) for name, facts in yaml.safe_load(text).items()}
