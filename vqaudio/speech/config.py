"""The configuration of a SpeechVQVAE, and which part of it determines the codes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from vqaudio.fingerprint import FingerprintFields, config_facts, merge_facts
from vqaudio.nn.acoustic import AcousticConfig
from vqaudio.nn.context import ContextConfig
from vqaudio.nn.encoder import EncoderConfig
from vqaudio.nn.log_mel import LogMelConfig
from vqaudio.nn.normalizer import NormalizerKind
from vqaudio.nn.pitch import PitchConfig
from vqaudio.nn.pitch_quantizer import PitchQuantizerConfig
from vqaudio.nn.quantizer import QuantizerConfig
from vqaudio.nn.source_filter import IstftConfig
from vqaudio.nn.spectral_correction import check_correction
from vqaudio.nn.units import UnitsConfig
from vqaudio.nn.vector_quantizer import VectorQuantizerConfig
from vqaudio.nn.wavenet import WaveNetConfig
from vqaudio.speech.vocoders import VOCODERS, Vocoder

CODE_PARTS = ("encoder", "normalizer", "quantizer")  # modules of a SpeechVQVAE that determine the codes
TRAINED_VOCODERS: dict[str, tuple[Vocoder, ...]] = {  # stage -> vocoders that it trains, if the model has them
    "joint": ("wavenet", "istft"),
    "codes": (),
    "context": (),
    "decoder": ("wavenet",),
    "istft": ("istft",),
}


@dataclass(frozen=True)
class SpeechVQVAEConfig:
    """Everything that a checkpoint needs to tokenize and to decode."""

    FINGERPRINT: ClassVar = FingerprintFields(
        always={"sample_rate": "sample_rate", "normalizer": "normalizer"},
        nested=("encoder", "quantizer"),
        never=(
            "speakers",
            "decoder",
            "context",  # between the codes and the decoder
            "spectrum",  # a loss, and what Griffin-Lim inverts
            "spectrum_loss_weight",
            "smoothed_spectrum_loss_weight",
            "pitch",
            "pitch_tokens",  # have a fingerprint of their own
            "acoustic",  # before the decoder
            "istft",
            "frame_noise",
            "predicted_spectra",
            "conversions",
            "conversion_loss_weight",
            "vocoder",
            "inherited_vocoders",
            "stage",
            "target",
            "units",
            "time_jitter",
        ),
    )

    speakers: tuple[str, ...] = ()
    """names of the speakers, in the order of their embeddings; a recipe fills them in from its corpus"""
    sample_rate: int = 16000
    """sample rate, in Hz"""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    normalizer: NormalizerKind = "frame"
    """normalisation before the quantizer: none, affine, batch, frame or unit"""
    quantizer: QuantizerConfig = field(default_factory=VectorQuantizerConfig)
    """quantizer, one of those in the union; `kind` chooses it"""
    decoder: WaveNetConfig = field(default_factory=WaveNetConfig)
    """WaveNet decoder; its hop, cond_dim and num_speakers follow from the other options"""
    context: ContextConfig = field(default_factory=ContextConfig)
    """causal network between the codes and the decoder"""
    spectrum: LogMelConfig = field(default_factory=LogMelConfig)
    """optional auxiliary log-mel loss on the output of the context network, in training; n_mels 0: none. Its prediction
    is what the vocoder griffin-lim inverts"""
    spectrum_loss_weight: float = 3.0
    """weight of the auxiliary log-mel loss (mean squared error of values with a variance of about 1)"""
    smoothed_spectrum_loss_weight: float = 0.0
    """weight of the squared error of the spectrum after averaging over 5 frames and 5 bands and without its mean over
    the crop (level and timbre), weighted by loudness; 0: not part of the loss. It suppresses spectral noise and
    emphasises phonetic content"""
    pitch: PitchConfig = field(default_factory=PitchConfig)
    """prediction of voicing and F0 on the output of the context network; win_length 0: none. With the spectrum it makes
    the acoustic frames that the vocoder istft and, with `acoustic`, the WaveNet are conditioned on"""
    pitch_tokens: PitchQuantizerConfig = field(default_factory=PitchQuantizerConfig)
    """optional pitch tokens, voicing and F0 of speech as codes of their own; frames 0: none. The model needs `pitch`"""
    acoustic: AcousticConfig = field(default_factory=AcousticConfig)
    """network between acoustic frames and the WaveNet. With dilations, the WaveNet is conditioned on the spectrum and
    pitch of speech, on the true ones in training; without, on the context network"""
    istft: IstftConfig = field(default_factory=IstftConfig)
    """vocoder istft, trained on the spectrum and pitch of speech; without dilations there is none"""
    frame_noise: float = 0.05
    """standard deviation of the noise on the spectrum that vocoders are trained on"""
    predicted_spectra: float = 0.0
    """fraction of the crops on which the vocoder istft is trained with the spectrum that the codes predict"""
    conversions: float = 0.0
    """stages codes and context: fraction of crops converted to another speaker before encoding, in training, by the
    model itself with the vocoder istft; the targets stay the original (back-translation, Sennrich et al., arXiv
    1511.06709), so that speaker characteristics are learned from the speaker embedding rather than from the codes"""
    conversion_loss_weight: float = 0.0
    """stage context: weight of the squared error of the spectra of conversions, compared with those of the model at the
    start of training, moved to the mean spectrum of the target speaker; 0: not part of the loss. For 2 to 64 speakers,
    all of them in the model that it starts from (init_from)"""
    stage: Literal["joint", "codes", "context", "decoder", "istft"] = "joint"
    """what is trained. joint: everything; codes: everything but the vocoders, to predict `target`, which takes minutes;
    context: the context network and what it predicts; decoder: the WaveNet and, unless it is conditioned on acoustic
    frames, the context network; istft: the vocoder istft, which needs no codes. The last three leave encoder and
    codebook as they are"""
    vocoder: Vocoder = "wavenet"
    """default vocoder. wavenet: the decoder; griffin-lim: no network, but the predicted log-mel spectrum, inverted;
    istft: filters for pulses and noise, predicted from spectrum and pitch"""
    inherited_vocoders: tuple[Vocoder, ...] = ()
    """vocoders that were trained before this stage; a recipe fills them in from `init_from`"""
    target: Literal["spectrum", "units"] = "spectrum"
    """what stage: codes trains the codes to predict. spectrum: the log-mel spectrum; units: clusters and cepstra
    without the level and the mean and variance of each speaker, from one code at a time. With units, the context
    network and the spectrum, if there are any, are trained beside the codes; their gradient does not reach the codes"""
    units: UnitsConfig = field(default_factory=UnitsConfig)
    """the targets of target: units"""
    time_jitter: float = 0.0
    """time jitter: fraction of the frames whose code is replaced by that of a neighbour, in training"""

    def __post_init__(self) -> None:
        if len(set(self.speakers)) < len(self.speakers):
            raise ValueError(f"speakers must be different names, got {self.speakers}")
        if not 1 <= self.sample_rate < 2**31:
            raise ValueError(f"sample_rate must lie in 1 to 2**31 - 1 Hz, got {self.sample_rate}")
        if self.quantizer.dim != self.encoder.dim:
            raise ValueError(f"quantizer.dim ({self.quantizer.dim}) must be encoder.dim ({self.encoder.dim}); set both")
        if not 0 <= self.time_jitter <= 1:
            raise ValueError(f"time_jitter must lie in [0, 1], a fraction of the frames, got {self.time_jitter}")
        has_mel_loss = bool(self.spectrum.n_mels)
        frames_fit = self.encoder.hop % self.spectrum.hop_length == 0
        altered = self.spectrum.warp or self.spectrum.equalizer_db
        if has_mel_loss and (not self.context.dilations or not frames_fit or altered):
            raise ValueError(
                "the auxiliary log-mel loss needs a context network (context.dilations), a spectrum.hop_length that "
                f"divides the hop of the encoder ({self.encoder.hop} samples), spectrum.warp 0 and "
                f"spectrum.equalizer_db 0, got {self.context}, {self.spectrum}"
            )
        if not 0 < self.spectrum_loss_weight < math.inf:
            raise ValueError(f"spectrum_loss_weight must be a finite number above 0, got {self.spectrum_loss_weight}")
        if not 0 <= self.smoothed_spectrum_loss_weight < math.inf:
            raise ValueError(
                "smoothed_spectrum_loss_weight must be a finite number, 0 or more, got "
                f"{self.smoothed_spectrum_loss_weight}"
            )
        if self.smoothed_spectrum_loss_weight and not has_mel_loss:
            raise ValueError("smoothed_spectrum_loss_weight is part of the auxiliary log-mel loss: set spectrum.n_mels")
        if self.stage not in TRAINED_VOCODERS:
            raise ValueError(f"stage must be one of {', '.join(map(repr, TRAINED_VOCODERS))}, got {self.stage!r}")
        if self.vocoder not in VOCODERS:
            raise ValueError(f"vocoder must be {' or '.join(map(repr, VOCODERS))}, got {self.vocoder!r}")
        if self.vocoder == "griffin-lim" and not has_mel_loss:
            raise ValueError(
                "vocoder: griffin-lim inverts the predicted log-mel spectrum: set spectrum.n_mels, or vocoder: wavenet"
            )
        self._check_acoustic()
        self._check_target()
        width = self.context.channels if self.context.dilations else self.encoder.dim
        follows = {"hop": self.encoder.hop, "cond_dim": width, "num_speakers": len(self.speakers)}
        if self.acoustic.dilations:
            vector = self.spectrum.hop_length // self.acoustic.upsampling
            follows |= {"hop": vector, "cond_dim": self.acoustic.channels}
        object.__setattr__(self, "decoder", replace(self.decoder, **follows))

    def _check_acoustic(self) -> None:
        if self.pitch.win_length and not self.spectrum.n_mels:
            raise ValueError("pitch is predicted for the frames of the spectrum: set spectrum.n_mels too")
        if self.pitch.win_length:
            self.pitch.check(self.spectrum.hop_length, self.sample_rate)
        if self.pitch_tokens.frames and not self.pitch.win_length:
            raise ValueError("pitch_tokens are codes of the pitch: set spectrum.n_mels and pitch.win_length too")
        if self.pitch_tokens.frames:
            self.pitch_tokens.check(self.spectrum.hop_length, self.sample_rate)
        if self.acoustic.dilations:
            self.acoustic.check(self.spectrum)
        if self.istft.dilations:
            check_correction(self.spectrum)
        for name, used in (("acoustic", self.acoustic.dilations), ("istft", self.istft.dilations)):
            if used and not self.pitch.win_length:
                raise ValueError(
                    f"{name} is conditioned on spectrum and pitch: set spectrum.n_mels and pitch.win_length too"
                )
        for name in ("vocoder", "stage"):
            if getattr(self, name) == "istft" and not self.istft.dilations:
                raise ValueError(f"{name}: istft needs the vocoder istft: set istft.dilations")
        if self.stage == "context" and not self.spectrum.n_mels:
            raise ValueError("stage: context trains with the log-mel loss: set spectrum.n_mels")
        if not 0 <= self.frame_noise < math.inf:
            raise ValueError(f"frame_noise must be a finite number, 0 or more, got {self.frame_noise}")
        if not 0 <= self.predicted_spectra <= 1:
            raise ValueError(f"predicted_spectra must lie in [0, 1], a fraction, got {self.predicted_spectra}")
        if not 0 <= self.conversions <= 1:
            raise ValueError(f"conversions must lie in [0, 1], a fraction of the crops, got {self.conversions}")
        if self.conversions and (self.stage not in ("codes", "context") or not self.istft.dilations):
            raise ValueError(
                "conversions are for the stages codes and context, with the vocoder istft: set istft.dilations, got "
                f"stage: {self.stage}, {self.istft}"
            )
        weight = self.conversion_loss_weight
        if not 0 <= weight < math.inf:
            raise ValueError(f"conversion_loss_weight must be a finite number, 0 or more, got {weight}")
        if weight and (self.stage != "context" or self.conversions):
            raise ValueError(
                "conversion_loss_weight is for stage: context with conversions: 0, "
                f"got stage: {self.stage}, conversions: {self.conversions}"
            )

    def _check_target(self) -> None:
        if self.target not in ("spectrum", "units"):
            raise ValueError(f"target must be 'spectrum' or 'units', got {self.target!r}")
        if self.target == "spectrum" and self.stage == "codes" and not self.spectrum.n_mels:
            raise ValueError(
                "stage: codes trains with the log-mel loss only: set spectrum.n_mels, target: units, or stage: joint"
            )
        if self.target == "units" and self.stage == "joint":
            raise ValueError("target: units is for stage: codes (and for a decoder of such codes), got stage: joint")
        if self.target == "units" and self.encoder.hop % self.units.hop_length:
            raise ValueError(
                f"units.hop_length must divide the hop of the encoder ({self.encoder.hop} samples), got "
                f"{self.units.hop_length}"
            )

    @property
    def frozen_parts(self) -> tuple[str, ...]:
        """Names of the modules that are not trained in this stage."""
        context, vocoders = ("context", "spectrum", "pitch"), ("decoder", "acoustic", "istft")
        of_stage = {
            "joint": (),
            "codes": vocoders,
            "context": (*CODE_PARTS, *vocoders),
            "decoder": (*CODE_PARTS, "istft", *(context if self.acoustic.dilations else ())),
            "istft": (*CODE_PARTS, *context, "decoder", "acoustic"),
        }
        no_loss = ("context",) if self.predicts_units and not self.spectrum.n_mels else ()
        return (*of_stage[self.stage], *no_loss)

    @property
    def trained_vocoders(self) -> tuple[Vocoder, ...]:
        """Those that the model has and whose weights have been trained; griffin-lim has none."""
        has = {"wavenet": True, "istft": bool(self.istft.dilations), "griffin-lim": False}
        trained = {*self.inherited_vocoders, *TRAINED_VOCODERS[self.stage]}
        return tuple(name for name in VOCODERS if has[name] and name in trained)

    @property
    def freezes_codes(self) -> bool:
        """Whether encoder and codebook stay as they are in training."""
        return self.stage in ("context", "decoder", "istft")

    @property
    def predicts_units(self) -> bool:
        """Whether training needs the targets of the unit objective."""
        return self.stage == "codes" and self.target == "units"

    def facts_of_codes(self) -> dict[str, Any]:
        """The options that determine the codes, for the fingerprint."""
        front = {"front": config_facts(self.encoder.frontend)} if self.encoder.frontend.n_mels else {}
        return merge_facts(config_facts(self), config_facts(self.encoder), config_facts(self.quantizer), front)
