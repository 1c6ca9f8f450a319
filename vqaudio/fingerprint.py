"""The fingerprint of a model: a hash of everything that determines its codes, so that tokens can be matched to models.

It covers configuration fields and weights. The class attribute FINGERPRINT of a configuration lists which of its fields
are covered; every field must be listed there. This module is independent of any model.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # bytes per number -> to compare bits


@dataclasses.dataclass(frozen=True)
class FingerprintFields:
    """Which fields of a configuration a fingerprint covers. Each field must be listed in exactly one of these."""

    always: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """field -> its name in the fingerprint, which is its name in format 1"""
    unless_default: tuple[str, ...] = ()
    """fields added after format 1: covered only if they differ from their default, so that older models keep their
    fingerprint. The default of such a field must never change"""
    by_weights: tuple[str, ...] = ()
    """fields whose every change changes the names or the number of bytes of the covered weights. Shapes are not in the
    hash: a field that gives a weight another shape of the same size must be covered"""
    nested: tuple[str, ...] = ()
    """configurations that list their own fields; the caller adds them"""
    never: tuple[str, ...] = ()
    """fields that cannot change a code, such as those of training or of the decoder"""

    @property
    def listed(self) -> list[str]:
        """All listed fields."""
        return [*self.always, *self.unless_default, *self.by_weights, *self.nested, *self.never]


def config_facts(config: Any) -> dict[str, Any]:
    """A dataclass instance with a FINGERPRINT -> name -> value of the covered fields.

    Raises TypeError if a field is not listed exactly once, or a listed one does not exist.
    """
    kind, fields = type(config), {each.name: each for each in dataclasses.fields(config)}
    covered: FingerprintFields = kind.FINGERPRINT
    for name in sorted(fields.keys() | set(covered.listed)):
        if name not in fields or covered.listed.count(name) != 1:
            found = f"listed {covered.listed.count(name)} times" if name in fields else "no field"
            raise TypeError(
                f"{kind.__name__}.FINGERPRINT must list each field once, and nothing else, but {name!r} is {found}: "
                "list a new field under unless_default if it can change a code, under never if it cannot"
            )
    facts = {fact: getattr(config, name) for name, fact in covered.always.items()}
    for name in covered.unless_default:
        if (value := getattr(config, name)) != _default(fields[name]):
            facts[name] = value
    return facts


def merge_facts(*parts: Mapping[str, Any]) -> dict[str, Any]:
    """The union of facts. Raises ValueError for a name that occurs twice: one value would replace the other."""
    merged: dict[str, Any] = {}
    for part in parts:
        if repeated := merged.keys() & part.keys():
            raise ValueError(
                f"the fact {min(repeated)!r} occurs twice in a fingerprint; give one of the fields another name under "
                "FINGERPRINT.always"
            )
        merged |= part
    return merged


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def fingerprint(facts: Mapping[str, Any], weights: Mapping[str, Tensor]) -> str:
    """The first 12 hex digits of the SHA-256 over configuration fields and weights, in the order of their names."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name, weight in sorted(weights.items()):
        digest.update(name.encode() + weight.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


class CachedFingerprint:
    """`fingerprint` with a cache: it is computed again only if a configuration field or a bit of a weight has changed.

    PyTorch's version counters do not count writes through `.data`, so the weights are compared with a copy. This takes
    a fraction of the time of the hash, and as much memory as the weights.
    """

    def __init__(self) -> None:
        self._known: tuple[dict[str, Any], dict[str, Tensor], str] | None = None

    def of(self, facts: Mapping[str, Any], weights: Mapping[str, Tensor]) -> str:
        """As `fingerprint`."""
        if self._known is None or self._known[0] != facts or not _same_bits(self._known[1], weights):
            copies = {name: weight.detach().clone() for name, weight in weights.items()}
            self._known = dict(facts), copies, fingerprint(facts, copies)
        return self._known[2]

    def __reduce__(self) -> tuple[type[CachedFingerprint], tuple[()]]:
        """Copies by copy.deepcopy or pickle start with an empty cache."""
        return CachedFingerprint, ()


def _same_bits(known: Mapping[str, Tensor], now: Mapping[str, Tensor]) -> bool:
    """Whether all have the same type, device, shape and bits: 0.0 and -0.0 differ, a NaN equals itself."""
    if known.keys() != now.keys():
        return False
    pairs = [(known[name], weight.detach()) for name, weight in now.items()]
    if any((a.dtype, a.device, a.shape) != (b.dtype, b.device, b.shape) for a, b in pairs):
        return False
    bits = [(a.view(_INTEGERS[a.element_size()]), b.view(_INTEGERS[b.element_size()])) for a, b in pairs]
    if all(a.device.type == "cpu" for a, _ in bits):
        return all(np.array_equal(a.numpy(), b.numpy()) for a, b in bits)  # in half the time of torch.equal
    return not torch.stack([(a != b).any().to(bits[0][0].device) for a, b in bits]).any()  # waits for a GPU once
