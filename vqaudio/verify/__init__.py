"""Checks of what a model and an installation promise, on this machine: `vqaudio verify`."""
