"""A token row: the tokens of one utterance together with its id and speaker.

As JSON: {"id", "speaker", "codes", "num_samples", "sample_rate", "hop", "model"}; speaker may be null.
Letters: N frames.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from vqaudio.data.audio_folders import file_name
from vqaudio.json_text import JSONError, parse_json
from vqaudio.nn.quantizer_protocol import check_codes
from vqaudio.speech.tokens import Tokens

KEYS = ("id", "speaker", "codes", "num_samples", "sample_rate", "hop", "model")
MAX_CODE = 2**31 - 1


@dataclass(frozen=True)
class TokenRow:
    """The tokens of one utterance of a corpus."""

    id: str
    """unique in its corpus; it is used as a file name, so it contains no slash"""
    speaker: str | None
    """name of the speaker; None if unknown"""
    tokens: Tokens

    def __post_init__(self) -> None:
        _check_id(self.id)
        if self.speaker == "":
            raise ValueError(f"the speaker of {self.id!r} is empty; give a name, or null if it is unknown")


def format_row(row: TokenRow, *, with_codes: bool = True) -> str:
    """One line of JSON, without a line end."""
    facts: dict[str, Any] = {"id": row.id, "speaker": row.speaker}
    if with_codes:
        facts["codes"] = row.tokens.codes.tolist()
    facts["num_samples"] = row.tokens.num_samples
    facts["sample_rate"] = row.tokens.sample_rate
    facts["hop"] = row.tokens.hop
    facts["model"] = row.tokens.model
    return json.dumps(facts, ensure_ascii=False)


def parse_row(line: bytes, load_codes: Callable[[str], np.ndarray] | None = None) -> TokenRow:
    """One line of JSON -> a checked row, as by `make_row`. Raises ValueError for an invalid line."""
    try:
        facts = parse_json(line)
    except JSONError as error:
        raise ValueError(f"not JSON ({error}); a token file has one object per line") from error
    if not isinstance(facts, dict):
        raise ValueError(f"a row must be a JSON object, got {type(facts).__name__}")
    return make_row(facts, load_codes)


def make_row(facts: dict[str, Any], load_codes: Callable[[str], np.ndarray] | None = None) -> TokenRow:
    """A dictionary with the keys in KEYS -> a checked row; further keys are ignored.

    The codes are a list or an array; if `load_codes` is given, it is called with the id to load them instead. Raises
    ValueError for a missing key, a value of the wrong type, codes out of range and a number of codes that does not
    match num_samples and hop.
    """
    needed = [key for key in KEYS if key != "codes" or load_codes is None]
    missing = [key for key in needed if key not in facts]
    if missing:
        raise ValueError(f"missing {', '.join(missing)}; a row needs {', '.join(needed)}")
    for key in ("id", "model"):
        if not isinstance(facts[key], str) or not facts[key]:
            raise ValueError(f"{key} must be a non-empty string, got {facts[key]!r}")
    _check_id(facts["id"])  # before it becomes part of a path
    if not isinstance(facts["speaker"], str | None):
        raise ValueError(f"speaker must be a string or null, got {facts['speaker']!r}")
    for key in ("num_samples", "sample_rate", "hop"):
        if type(facts[key]) is not int:  # not isinstance, because a bool is an int too
            raise ValueError(f"{key} must be an integer, got {facts[key]!r}")
    codes = facts["codes"] if load_codes is None else load_codes(facts["id"])
    tokens = Tokens(
        codes=torch.from_numpy(_checked_codes(codes if isinstance(codes, np.ndarray) else _listed_codes(codes))),
        num_samples=facts["num_samples"],
        sample_rate=facts["sample_rate"],
        hop=facts["hop"],
        model=facts["model"],
    )
    return TokenRow(facts["id"], facts["speaker"], tokens)


def _check_id(id: str) -> None:
    if not id or id != file_name(id):
        raise ValueError(f"an utterance id must be usable as a file name, got {id!r}")


def _listed_codes(values: Any) -> np.ndarray:
    if not isinstance(values, list) or any(type(value) is not int for value in values):
        raise ValueError(f"codes must be a list of integers, got {repr(values)[:60]}")
    if values and not 0 <= min(values) <= max(values) <= MAX_CODE:  # before the conversion to NumPy, which may overflow
        raise ValueError(f"codes must lie in 0..{MAX_CODE}, got {min(values)}..{max(values)}")
    return np.array(values, dtype=np.int64)


def _checked_codes(codes: np.ndarray) -> np.ndarray:
    """Integer array (N,) -> (N,) int64. Raises ValueError for another shape or type and codes out of range."""
    if codes.ndim != 1 or codes.dtype.kind not in "iu":
        raise ValueError(f"codes must be integers of shape (N,), got {codes.shape} {codes.dtype}")
    check_codes(codes, MAX_CODE + 1)
    return codes.astype(np.int64)
