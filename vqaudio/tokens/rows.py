"""A token row: what a model made of one utterance, beside the utterance's id and speaker.

As JSON: {"id", "speaker", "codes", "num_samples", "sample_rate", "hop", "model"}; speaker may be null.
Letters: N frames.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from vqaudio.speech.tokens import Tokens

KEYS = ("id", "speaker", "codes", "num_samples", "sample_rate", "hop", "model")
MAX_CODE = 2**31 - 1
_NOT_IN_FILE_NAMES = re.compile(r"[/\\\x00-\x1f\x7f\ud800-\udfff]")  # slashes, control characters, half characters


@dataclass(frozen=True)
class TokenRow:
    """The tokens of one utterance of a corpus."""

    id: str
    """unique in its corpus; it becomes a file name, so it holds no slash"""
    speaker: str | None
    """who spoke, where that is known"""
    tokens: Tokens

    def __post_init__(self) -> None:
        _check_id(self.id)
        if self.speaker == "":
            raise ValueError(f"the speaker of {self.id!r} is empty; give a name, or null where it is not known")


def file_name(text: str) -> str:
    """Any text -> one that a file may be called: what it must not hold becomes "_"."""
    name = _NOT_IN_FILE_NAMES.sub("_", text)
    return f"_{name}" if name in ("", ".", "..") else name


def format_row(row: TokenRow, *, with_codes: bool = True) -> str:
    """One line of JSON, without its line end."""
    facts: dict[str, Any] = {"id": row.id, "speaker": row.speaker}
    if with_codes:
        facts["codes"] = row.tokens.codes.tolist()
    facts["num_samples"] = row.tokens.num_samples
    facts["sample_rate"] = row.tokens.sample_rate
    facts["hop"] = row.tokens.hop
    facts["model"] = row.tokens.model
    return json.dumps(facts, ensure_ascii=False)


def parse_row(line: bytes, load_codes: Callable[[str], np.ndarray] | None = None) -> TokenRow:
    """One line of JSON -> a checked row, as `make_row` makes it. Raises ValueError for what is not such a line."""
    try:
        facts = json.loads(line)
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 text ({error.reason})") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg}); a token file has one object per line") from error
    if not isinstance(facts, dict):
        raise ValueError(f"a row must be a JSON object, got {type(facts).__name__}")
    return make_row(facts, load_codes)


def make_row(facts: dict[str, Any], load_codes: Callable[[str], np.ndarray] | None = None) -> TokenRow:
    """Values by the names in KEYS -> a checked row; further names are ignored.

    The codes are a list or an array; `load_codes` fetches those of an id that are not among the values. Raises
    ValueError for what is not such a row: a missing key, a value of the wrong type, codes out of range or not as many
    as the samples have.
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
        if type(facts[key]) is not int:  # true is an int too
            raise ValueError(f"{key} must be a whole number, got {facts[key]!r}")
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
        raise ValueError("codes must be a list of whole numbers")
    if values and not 0 <= min(values) <= max(values) <= MAX_CODE:  # before NumPy, which overflows
        raise ValueError(f"codes must lie in 0..{MAX_CODE}, got {min(values)}..{max(values)}")
    return np.array(values, dtype=np.int64)


def _checked_codes(codes: np.ndarray) -> np.ndarray:
    """Any array of whole numbers -> (N,) int64."""
    if codes.ndim != 1 or codes.dtype.kind not in "iu":
        raise ValueError(f"codes must be (N,) whole numbers, got {codes.shape} {codes.dtype}")
    if codes.size and not 0 <= codes.min() <= codes.max() <= MAX_CODE:
        raise ValueError(f"codes must lie in 0..{MAX_CODE}, got {codes.min()}..{codes.max()}")
    return codes.astype(np.int64)
