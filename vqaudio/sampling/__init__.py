"""Autoregressive generation: one obvious loop, and faster ones with the same signature that must equal it."""

from vqaudio.sampling.ring import generate

__all__ = ["generate"]
