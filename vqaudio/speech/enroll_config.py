"""How a voice is learned; without torch, for these are the flags of `vqaudio adapt` too."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class AdaptConfig:
    """The defaults take the shipped model some minutes on two CPU cores."""

    steps: int = 200
    """updates of the new voice; with --decoder as many of the decoder after them"""
    lr: float = 0.03
    """highest learning rate of the voice; a row of an embedding takes larger steps than a network"""
    crop_samples: int = 5120
    """length of a crop, in samples"""
    batch_size: int = 4
    """crops per step"""
    decoder: bool = False
    """then train the decoder too: closer to the new speaker, but the old voices change a little"""
    decoder_lr: float = 3e-4
    """highest learning rate of the decoder"""
    seed: int = 0
    """of the crops"""

    def __post_init__(self) -> None:
        for name in ("steps", "crop_samples", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must lie in 0 to 2**63 - 1, got {self.seed}")
        for name in ("lr", "decoder_lr"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be a finite number above 0, got {getattr(self, name)}")
