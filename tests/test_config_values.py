"""No configuration accepts a number that is not finite: it would disable a check, or end a run much later."""

import dataclasses
import importlib
import math
import pkgutil
from collections.abc import Iterator
from typing import Any, get_type_hints

import pytest
from torch import Tensor

import vqaudio

UNBOUNDED = {("Limits", "seconds")}  # infinity: no limit


def _configurations() -> Iterator[Any]:
    """One of every configuration that has defaults."""
    found: set[type] = set()
    for module in pkgutil.walk_packages(vqaudio.__path__, "vqaudio."):
        if "._kernels" in module.name or module.name.endswith(("__main__", "triton", "modeling_vqaudio")):
            continue
        for name, cls in vars(importlib.import_module(module.name)).items():
            if dataclasses.is_dataclass(cls) and isinstance(cls, type) and name.endswith(("Config", "Limits")):
                found.add(cls)
    for cls in sorted(found, key=lambda cls: cls.__qualname__):
        fields = dataclasses.fields(cls)
        missing = dataclasses.MISSING
        if all(f.default is not missing or f.default_factory is not missing for f in fields):
            yield cls()


FIELDS = [
    pytest.param(cfg, name, id=f"{type(cfg).__name__}.{name}")
    for cfg in _configurations()
    for name, kind in get_type_hints(type(cfg), localns={"Tensor": Tensor}).items()
    if kind in (float, float | None) and (type(cfg).__name__, name) not in UNBOUNDED
]


def test_the_configurations_are_found() -> None:
    assert len(FIELDS) > 60


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("cfg", "name"), FIELDS)
def test_a_number_that_is_not_finite_is_refused_by_name(cfg, name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        dataclasses.replace(cfg, **{name: value})
