"""A speech tokenizer: VQ-VAE on raw waveforms with a speaker-conditioned WaveNet decoder."""

from vqaudio.models.speech import SpeechVQVAE, SpeechVQVAEConfig
from vqaudio.models.storage import ModelError, load_model, save_model
from vqaudio.models.tokens import Tokens

__all__ = ["ModelError", "SpeechVQVAE", "SpeechVQVAEConfig", "Tokens", "load_model", "save_model"]
