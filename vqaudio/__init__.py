"""A speech tokenizer: VQ-VAE on raw waveforms with a speaker-conditioned WaveNet decoder."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vqaudio.checkpoint import ModelError, load_model, save_model
    from vqaudio.speech.config import SpeechVQVAEConfig
    from vqaudio.speech.model import SpeechVQVAE
    from vqaudio.speech.tokens import Tokens
else:
    _HOMES = {
        "ModelError": "checkpoint",
        "load_model": "checkpoint",
        "save_model": "checkpoint",
        "SpeechVQVAEConfig": "speech.config",
        "SpeechVQVAE": "speech.model",
        "Tokens": "speech.tokens",
    }

    def __getattr__(name):
        """Imports a public name when it is first used: `vqaudio --help` need not wait seconds for torch."""
        import importlib

        if name in _HOMES:
            return getattr(importlib.import_module(f"vqaudio.{_HOMES[name]}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["ModelError", "SpeechVQVAE", "SpeechVQVAEConfig", "Tokens", "load_model", "save_model"]
