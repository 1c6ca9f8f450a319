"""A token row: the tokens of one utterance together with its id and speaker.

As JSON: {"id", "speaker", "codes", "num_samples", "sample_rate", "hop", "model"}; speaker may be null. Deduplicated,
"units" and "duration" take the place of "codes" (`run_lengths`). A row with pitch tokens also has "pitch", "pitch_hop"
and "pitch_model". Letters: N frames, M pitch tokens.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from vqaudio.data.audio_folders import file_name
from vqaudio.json_text import JSONError, is_unicode, parse_json
from vqaudio.nn.quantizer_protocol import check_codes
from vqaudio.speech.tokens import PitchTokens, Tokens
from vqaudio.tokens.run_lengths import Codes, expanded, run_lengths

RUN_LENGTHS = ("units", "duration")  # keys in the place of "codes"
KEYS = ("id", "speaker", "codes", "num_samples", "sample_rate", "hop", "model")
PITCH_KEYS = ("pitch", "pitch_hop", "pitch_model")  # of rows with pitch tokens, all or none
MAX_CODE = 2**31 - 1
Load = Callable[[str, str], np.ndarray]
"""("codes" or "pitch", id of a row) -> its codes, which are not in the row itself"""


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


def format_row(row: TokenRow, *, with_codes: bool = True, dedup: bool = False) -> str:
    """One line of JSON, without a line end; with `dedup`, the codes are written as units and their lengths."""
    codes = code_arrays(row, dedup) if with_codes else {}
    lists = {key: values.tolist() for key, values in codes.items()}
    facts = {"id": row.id, "speaker": row.speaker, **lists, **other_facts(row)}
    return json.dumps(facts, ensure_ascii=False)


def code_arrays(row: TokenRow, dedup: bool = False) -> dict[str, Codes]:
    """{"codes": (N,)} of a row, or with `dedup` its units and duration, and {"pitch": (M,)} if there is one; int64."""
    codes, pitch = row.tokens.codes.numpy(), row.tokens.pitch
    arrays = run_lengths(codes)._asdict() if dedup else {"codes": codes}
    return arrays if pitch is None else {**arrays, "pitch": pitch.codes.numpy()}


def other_facts(row: TokenRow) -> dict[str, Any]:
    """What a row needs beside id, speaker and codes to be decoded."""
    facts, pitch = {key: getattr(row.tokens, key) for key in KEYS[3:]}, row.tokens.pitch
    return facts if pitch is None else {**facts, "pitch_hop": pitch.hop, "pitch_model": pitch.model}


def parse_row(line: bytes, load: Load | None = None) -> TokenRow:
    """One line of JSON -> a checked row, as by `make_row`. Raises ValueError for an invalid line."""
    try:
        facts = parse_json(line)
    except JSONError as error:
        raise ValueError(f"not JSON ({error}); a token file has one object per line") from error
    if not isinstance(facts, dict):
        raise ValueError(f"a row must be a JSON object, got {type(facts).__name__}")
    return make_row(facts, load)


def make_row(facts: dict[str, Any], load: Load | None = None) -> TokenRow:
    """A dictionary with the keys in KEYS, and PITCH_KEYS if it has the last of them -> a checked row.

    Further keys are ignored. The codes are a list or an array, or the units and durations of deduplicated codes; if
    `load` is given, it is called with the id to load codes and pitch instead. Raises ValueError for a missing key, a
    value of the wrong type, codes out of range and a number of codes that does not match num_samples and hop.
    """
    deduplicated = "codes" not in facts and "units" in facts
    pitch_keys = PITCH_KEYS if facts.get("pitch_model") is not None else ()
    lists = ("codes", "pitch") if load else ("codes",) if deduplicated else ()
    needed = [key for key in (*KEYS, *pitch_keys) if key not in lists]
    if deduplicated and "duration" not in facts:
        raise ValueError("units without their duration cannot be decoded; write the tokens again with both")
    missing = [key for key in needed if key not in facts]
    if missing:
        raise ValueError(f"missing {', '.join(missing)}; a row needs {', '.join(needed)}")
    for key in ("id", "model", *pitch_keys[2:]):
        if not isinstance(facts[key], str) or not facts[key]:
            raise ValueError(f"{key} must be a non-empty string, got {facts[key]!r}")
    _check_id(facts["id"])  # before it becomes part of a path
    if not isinstance(facts["speaker"], str | None):
        raise ValueError(f"speaker must be a string or null, got {facts['speaker']!r}")
    for key in ("speaker", "model", *pitch_keys[2:]):
        if not is_unicode(facts[key]):  # could not be written again
            raise ValueError(f"{key} must be Unicode text, got {facts[key]!r}")
    for key in ("num_samples", "sample_rate", "hop", *pitch_keys[1:2]):
        if type(facts[key]) is not int:  # not isinstance, because a bool is an int too
            raise ValueError(f"{key} must be an integer, got {facts[key]!r}")
    if load is not None:
        codes = _checked_codes(load("codes", facts["id"]))
    elif deduplicated:
        units, duration = (_checked_codes(facts[key], key) for key in RUN_LENGTHS)
        codes = expanded(units, duration, -(-facts["num_samples"] // max(1, facts["hop"])))
    else:
        codes = _checked_codes(facts["codes"])
    tokens = Tokens(
        codes=torch.from_numpy(codes),
        num_samples=facts["num_samples"],
        sample_rate=facts["sample_rate"],
        hop=facts["hop"],
        model=facts["model"],
        pitch=_pitch(facts, load) if pitch_keys else None,
    )
    return TokenRow(facts["id"], facts["speaker"], tokens)


def _pitch(facts: dict[str, Any], load: Load | None) -> PitchTokens:
    codes = _checked_codes(facts["pitch"] if load is None else load("pitch", facts["id"]), "pitch")
    return PitchTokens(torch.from_numpy(codes), facts["pitch_hop"], facts["pitch_model"])


def _check_id(id: str) -> None:
    if not id or id != file_name(id):
        raise ValueError(f"an utterance id must be usable as a file name, got {id!r}")


def _checked_codes(values: Any, key: str = "codes") -> Codes:
    """List of integers, or integer array, (N,) -> (N,) int64.

    Raises ValueError for another shape or type and values out of range.
    """
    codes = values if isinstance(values, np.ndarray) else _listed_codes(values, key)
    if codes.ndim != 1 or codes.dtype.kind not in "iu":
        raise ValueError(f"{key} must be integers of shape (N,), got {codes.shape} {codes.dtype}")
    check_codes(codes, MAX_CODE + 1, key)
    return codes.astype(np.int64)


def _listed_codes(values: Any, key: str) -> np.ndarray:
    if not isinstance(values, list) or any(type(value) is not int for value in values):
        raise ValueError(f"{key} must be a list of integers, got {repr(values)[:60]}")
    if values and not 0 <= min(values) <= max(values) <= MAX_CODE:  # before the conversion to NumPy, which may overflow
        raise ValueError(f"{key} must lie in 0..{MAX_CODE}, got {min(values)}..{max(values)}")
    return np.array(values, dtype=np.int64)
