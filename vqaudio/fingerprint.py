"""A short name for what decides a model's codes, so that tokens and models can be matched."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from torch import Tensor


def fingerprint(facts: dict[str, Any], weights: dict[str, Tensor]) -> str:
    """The first 12 hex digits of the SHA-256 over configuration facts and named weights, in the order of names."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name, weight in sorted(weights.items()):
        digest.update(name.encode() + weight.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]
