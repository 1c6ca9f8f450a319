"""Configuration of `adapt`. It imports no torch, because its fields are also the flags of `vqaudio adapt`."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class AdaptConfig:
    """With the defaults, the shipped model takes a few minutes on two CPU cores."""

    steps: int = 200
    """optimizer steps for the new speaker embeddings; with --decoder, as many again for the decoder"""
    lr: float = 0.03
    """peak learning rate of the speaker embeddings; an embedding takes a higher one than a network"""
    crop_samples: int = 5120
    """length of a training crop, in samples"""
    batch_size: int = 4
    """crops per optimizer step"""
    decoder: bool = False
    """fine-tune the decoder afterwards: closer to the new speakers, but existing speakers change slightly"""
    decoder_lr: float = 3e-4
    """peak learning rate of the decoder"""
    seed: int = 0
    """random seed of the training crops"""

    def __post_init__(self) -> None:
        for name in ("steps", "crop_samples", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must lie in 0 to 2**63 - 1, got {self.seed}")
        for name in ("lr", "decoder_lr"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be a finite number above 0, got {getattr(self, name)}")
