"""Reads JSON of unknown origin: whatever is wrong with it is one exception with one clause as its message."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class JSONError(ValueError):
    """Text that is not JSON; the message says why, in a few words."""


DAMAGED = (ValueError, KeyError, TypeError, OverflowError)  # what using JSON without the expected values raises


def is_unicode(value: object) -> bool:
    """Whether a value is no text, or text that UTF-8 can hold: JSON may contain half a surrogate pair, "\\ud800"."""
    try:
        return not isinstance(value, str) or value.encode() is not None
    except UnicodeEncodeError:
        return False


def parse_json(text: str | bytes) -> Any:
    """JSON text, UTF-8 if bytes -> its value.

    Raises JSONError for text that is not UTF-8 or not JSON, brackets nested thousands deep and whole numbers of
    thousands of digits.
    """
    try:
        return json.loads(text)
    except UnicodeDecodeError as error:
        raise JSONError(f"not UTF-8 text: {error.reason}") from error
    except json.JSONDecodeError as error:
        raise JSONError(str(error) if error.lineno > 1 else error.msg) from error
    except RecursionError as error:
        raise JSONError("brackets are nested too deeply") from error
    except ValueError as error:  # from int(): more than 4300 digits
        raise JSONError("a whole number has thousands of digits") from error


def read_index(path: Path, version: int, advice: str) -> dict[str, Any]:
    """The JSON object in a file of format `version`.

    Raises FileNotFoundError, and ValueError that ends in `advice` for anything else.
    """
    try:
        index = parse_json(path.read_bytes())
    except JSONError as error:
        raise ValueError(f"{path} is not JSON ({error}); {advice}") from error
    found = index.get("version") if isinstance(index, dict) else None
    if found != version:
        raise ValueError(f"{path} has format version {found}, this vqaudio reads version {version}; {advice}")
    return index
