"""Autoregressive generation: one obvious loop, and faster ones with the same signature that must equal it."""

from vqaudio.sampling.backends import choose, generate

__all__ = ["choose", "generate"]
