"""A speech tokenizer: VQ-VAE on raw waveforms with a speaker-conditioned WaveNet decoder."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vqaudio.checkpoint import ModelError, load_model, save_model
    from vqaudio.speech.model import SpeechVQVAE, SpeechVQVAEConfig
    from vqaudio.speech.tokens import Tokens
else:

    def __getattr__(name):
        """Imports a public name when it is first asked for: `vqaudio --help` need not wait seconds for torch."""
        import importlib

        for module in ("speech", "storage", "tokens") if name in __all__ else ():
            value = getattr(importlib.import_module(f"vqaudio.models.{module}"), name, None)
            if value is not None:
                return value
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["ModelError", "SpeechVQVAE", "SpeechVQVAEConfig", "Tokens", "load_model", "save_model"]
