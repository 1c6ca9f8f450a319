"""The configuration of a SpeechVQVAE, and what of it decides the codes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from vqaudio.fingerprint import config_facts
from vqaudio.nn.context import ContextConfig
from vqaudio.nn.encoder import EncoderConfig
from vqaudio.nn.frontend import LogMelConfig
from vqaudio.nn.normalizer import NormalizerKind
from vqaudio.nn.quantizer import QuantizerConfig
from vqaudio.nn.vector_quantizer import VectorQuantizerConfig
from vqaudio.nn.wavenet import WaveNetConfig

CODE_PARTS = ("encoder", "normalizer", "quantizer")  # of a SpeechVQVAE: those that make the codes


@dataclass(frozen=True)
class SpeechVQVAEConfig:
    """Everything that a checkpoint must know to tokenize and to speak."""

    speakers: tuple[str, ...] = ()
    """names of the voices, in the order of their embeddings; a recipe fills them in from its corpus"""
    sample_rate: int = 16000
    """in Hz"""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    normalizer: NormalizerKind = "frame"
    """what brings vectors to the codebook's scale: none, affine, batch, frame or unit"""
    quantizer: QuantizerConfig = field(default_factory=VectorQuantizerConfig)
    """of the kind vq or fsq"""
    decoder: WaveNetConfig = field(default_factory=WaveNetConfig)
    """its hop, condition and speakers follow from the rest"""
    context: ContextConfig = field(default_factory=ContextConfig)
    """a causal network between the codes and the decoder"""
    spectrum: LogMelConfig = field(default_factory=LogMelConfig)
    """log-mel spectra that the context is asked for too, in training; without bands it is not"""
    spectrum_loss_weight: float = 3.0
    """of the mean squared error of those, whose variance is about 1, in the loss"""
    stage: Literal["joint", "codes", "decoder"] = "joint"
    """what is trained. joint: everything; codes: everything but the decoder, by the log-mel loss alone, which takes
    minutes; decoder: the decoder and its context, with encoder and codebook frozen"""
    time_jitter: float = 0.0
    """share of the frames that the decoder hears from a neighbour instead, in training"""

    def __post_init__(self) -> None:
        if len(set(self.speakers)) < len(self.speakers):
            raise ValueError(f"speakers must be different names, got {self.speakers}")
        if self.sample_rate < 1:
            raise ValueError(f"sample_rate must be at least 1 Hz, got {self.sample_rate}")
        if self.quantizer.dim != self.encoder.dim:
            raise ValueError(f"quantizer.dim ({self.quantizer.dim}) must be encoder.dim ({self.encoder.dim}); set both")
        if not 0 <= self.time_jitter <= 1:
            raise ValueError(f"time_jitter must lie in [0, 1], a share of the frames, got {self.time_jitter}")
        asked = bool(self.spectrum.n_mels)
        if asked and (not self.context.dilations or self.encoder.hop % self.spectrum.hop_length or self.spectrum.warp):
            raise ValueError(
                "a spectrum is asked of a context (context.dilations), at a hop that divides the encoder's "
                f"({self.encoder.hop} samples) and without a warp, got {self.context}, {self.spectrum}"
            )
        if not 0 < self.spectrum_loss_weight < math.inf:
            raise ValueError(f"spectrum_loss_weight must be a finite number above 0, got {self.spectrum_loss_weight}")
        if self.stage not in ("joint", "codes", "decoder"):
            raise ValueError(f"stage must be 'joint', 'codes' or 'decoder', got {self.stage!r}")
        if self.stage == "codes" and not asked:
            raise ValueError("stage: codes trains by the log-mel loss alone: set spectrum.n_mels, or stage: joint")
        width = self.context.channels if self.context.dilations else self.encoder.dim
        follows = {"hop": self.encoder.hop, "cond_dim": width, "num_speakers": len(self.speakers)}
        object.__setattr__(self, "decoder", replace(self.decoder, **follows))

    def facts_of_codes(self) -> dict[str, Any]:
        """What decides the codes beside the weights, for the fingerprint."""
        facts = config_facts(self.encoder) | config_facts(self.quantizer)
        facts |= {"sample_rate": self.sample_rate, "normalizer": self.normalizer}
        if self.encoder.frontend.n_mels:
            facts["front"] = config_facts(self.encoder.frontend)
        return facts
