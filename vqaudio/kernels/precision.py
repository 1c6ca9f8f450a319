"""Precisions of the compiled WaveNet's weights; importable without PyTorch."""

from __future__ import annotations

from typing import Literal

Precision = Literal["float32", "bf16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("float32", "bf16", "int8")  # in the order of kernels.cpp
