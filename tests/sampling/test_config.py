"""SamplingConfig: what it refuses, how keyword arguments override it, and that it needs no PyTorch."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import get_type_hints

import pytest

from vqaudio.kernels.precision import PRECISIONS
from vqaudio.sampling.config import SamplingConfig, SamplingOptions


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -0.1}, "temperature must be a finite number, 0 .*got -0.1"),
        ({"temperature": float("nan")}, "temperature must be"),
        ({"temperature": float("inf")}, "temperature must be"),
        ({"top_k": 0}, "top_k must be at least 1 .*got 0; leave it out"),
        ({"top_p": 0.0}, "top_p must be above 0 and at most 1, got 0.0; leave it out"),
        ({"top_p": 1.01}, "top_p must be above 0 and at most 1, got 1.01"),
        ({"top_p": float("nan")}, "top_p must be"),
        ({"seed": 2**32}, r"seed must lie in 0\.\.2\*\*32 - 1, got 4294967296"),
        ({"seed": -1}, r"seed must lie in 0\.\.2\*\*32 - 1, got -1"),
        ({"precision": "fp8"}, "precision must be one of float32, bf16, int8, got 'fp8'"),
        ({"threads": 0}, "threads must be at least 1, got 0"),
    ],
)
def test_values_out_of_range_are_refused(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        SamplingConfig(**options)
    with pytest.raises(ValueError, match=message):
        SamplingConfig().override(**options)


def test_limits_are_allowed() -> None:
    assert SamplingConfig(temperature=0, top_k=1, top_p=1.0, seed=2**32 - 1, threads=1).greedy
    assert [SamplingConfig(precision=precision).greedy for precision in PRECISIONS] == [False] * 3


def test_keyword_arguments_override_single_fields() -> None:
    base = SamplingConfig(temperature=0.7, seed=3)
    assert base.override() is base
    assert base.override(top_p=0.9, seed=4) == SamplingConfig(temperature=0.7, top_p=0.9, seed=4)
    with pytest.raises(TypeError, match="topp: no sampling option of this name; there are temperature, top_k, top_p"):
        base.override(topp=0.9)  # pyright: ignore[reportCallIssue]


def test_keyword_arguments_are_the_fields() -> None:
    assert get_type_hints(SamplingOptions) == get_type_hints(SamplingConfig)
    assert list(get_type_hints(SamplingOptions)) == [field.name for field in dataclasses.fields(SamplingConfig)]


def test_it_is_imported_without_torch() -> None:
    code = "import sys; from vqaudio.sampling import SamplingConfig; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
