"""Environments that can be recorded."""

from typing import Literal

VideoKind = Literal["vizdoom"]
