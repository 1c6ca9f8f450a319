"""A speech model for Hugging Face transformers: configuration, feature extractor and model.

`vqaudio export hf` copies this file into the exported folder, where `from_pretrained(..., trust_remote_code=True)`
finds it; it needs the installed package vqaudio.

Letters: B batch, T samples, N codes.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import BatchFeature, PreTrainedConfig, SequenceFeatureExtractor
from transformers.modeling_utils import PreTrainedAudioTokenizerBase
from transformers.utils.generic import ModelOutput, can_return_tuple

from vqaudio.checkpoint import FORMAT
from vqaudio.config import from_dict, to_dict
from vqaudio.speech.config import SpeechVQVAEConfig
from vqaudio.speech.model import SpeechVQVAE
from vqaudio.speech.tokenizer import audio_pieces
from vqaudio.speech.tokens import Tokens
from vqaudio.speech.vocoders import Vocoder


class VQAudioConfig(PreTrainedConfig):
    """config.json of an exported model; `vqaudio.load_model` reads it, too.

    format, kind, config: as `vqaudio.save_model` writes them. The rest follows from the model: sampling_rate in Hz,
    hop_length in samples per code, codebook_size, speakers in the order of their ids, and the fingerprint.
    """

    model_type = "vqaudio"

    format: int = FORMAT
    kind: str = SpeechVQVAE.__name__
    config: dict | None = None
    sampling_rate: int = 16000
    hop_length: int = 64
    codebook_size: int = 512
    speakers: list[str] | tuple[str, ...] = ()
    fingerprint: str | None = None

    @classmethod
    def of(cls, model: SpeechVQVAE) -> VQAudioConfig:
        """The configuration of a model."""
        return cls(**_facts(model))

    def speech_config(self) -> SpeechVQVAEConfig:
        """The options of the model. Raises ValueError for another kind of model and another format."""
        if (self.kind, self.format) != (SpeechVQVAE.__name__, FORMAT):
            raise ValueError(
                f"this vqaudio reads the kind {SpeechVQVAE.__name__} in format {FORMAT}, got {self.kind} in format "
                f"{self.format}; use the version of vqaudio that exported the model"
            )
        return from_dict(SpeechVQVAEConfig, self.config or {})


def _facts(model: SpeechVQVAE) -> dict[str, Any]:
    return {
        "config": to_dict(model.cfg),
        "sampling_rate": model.sample_rate,
        "hop_length": model.hop,
        "codebook_size": model.codebook_size,
        "speakers": list(model.speakers),
        "fingerprint": model.fingerprint,
    }


class VQAudioFeatureExtractor(SequenceFeatureExtractor):
    """Waveforms -> a padded batch for `VQAudioModel`: input_values (B, 1, T) float32 and padding_mask (B, T)."""

    model_input_names = ["input_values", "padding_mask"]  # noqa: RUF012

    def __init__(self, feature_size: int = 1, sampling_rate: int = 16000, padding_value: float = 0.0, **kwargs: Any):
        super().__init__(feature_size, sampling_rate, padding_value, **kwargs)

    def __call__(
        self,
        raw_audio: np.ndarray | Tensor | Sequence[Any],
        sampling_rate: int | None = None,
        return_tensors: str | None = None,
        padding: bool | str = True,
        max_length: int | None = None,
        truncation: bool = False,
        pad_to_multiple_of: int | None = None,
    ) -> BatchFeature:
        """One waveform (T,) in [-1, 1], or a list of several -> a batch, padded as `SequenceFeatureExtractor.pad` does.

        Raises ValueError for another sampling rate than the model's, for more than one channel, empty waveforms and
        values that are not finite or not floating-point. Without `sampling_rate` it warns.
        """
        if sampling_rate is None:
            warnings.warn(
                f"pass sampling_rate: audio at another rate than {self.sampling_rate} Hz would be encoded wrongly, "
                "without an error",
                stacklevel=2,
            )
        several = isinstance(raw_audio, (list, tuple)) and len(raw_audio) > 0 and np.ndim(raw_audio[0]) > 0
        wavs = [
            next(audio_pieces(np.asarray(wav), sampling_rate, self.sampling_rate)).numpy()
            for wav in (raw_audio if several else [raw_audio])
        ]
        features = self.pad(
            BatchFeature({"input_values": wavs}),
            padding=padding,
            max_length=max_length,
            truncation=truncation,
            pad_to_multiple_of=pad_to_multiple_of,
            return_attention_mask=True,
        )
        features["padding_mask"] = features.pop("attention_mask")
        features["input_values"] = [wav[None] for wav in features["input_values"]]
        return features.convert_to_tensors(return_tensors)


@dataclass
class VQAudioEncoderOutput(ModelOutput):
    """What `VQAudioModel.encode` returns."""

    audio_codes: Tensor  # (B, 1, N) int64; 0 for padding
    audio_codes_mask: Tensor = None  # pyright: ignore[reportAssignmentType]  # (B, 1, N) int32; 0 for padding


@dataclass
class VQAudioDecoderOutput(ModelOutput):
    """What `VQAudioModel.decode` returns."""

    audio_values: Tensor  # (B, 1, T) float32 in [-1, 1], T = N * hop_length


@dataclass
class VQAudioOutput(ModelOutput):
    """What `VQAudioModel` returns when it is called: the outputs of `encode` and `decode`."""

    audio_codes: Tensor
    audio_values: Tensor = None  # pyright: ignore[reportAssignmentType]  # (B, 1, T), as long as the input
    audio_codes_mask: Tensor = None  # pyright: ignore[reportAssignmentType]


class VQAudioModel(PreTrainedAudioTokenizerBase):
    """A `SpeechVQVAE`, which is its attribute `vqvae`, behind the interface of audio tokenizers."""

    config_class = VQAudioConfig
    base_model_prefix = "vqvae"  # saved weights have the names of `SpeechVQVAE`, without it
    main_input_name = "input_values"
    _keep_in_fp32_modules_strict = ["vqvae"]  # noqa: RUF012  # codes are those of float32

    def __init__(self, config: VQAudioConfig):
        super().__init__(config)
        self.vqvae = SpeechVQVAE(config.speech_config())
        for tensor in (*self.parameters(), *self.buffers()):
            tensor._is_hf_initialized = True  # pyright: ignore[reportAttributeAccessIssue]  # as `SpeechVQVAE` made it
        self.post_init()

    @classmethod
    def from_pretrained(cls, *arguments: Any, **options: Any) -> VQAudioModel:
        """As for every model of transformers, but in float32 whatever `dtype` is: codes are defined for float32."""
        options.pop("torch_dtype", None)
        return super().from_pretrained(*arguments, **{**options, "dtype": torch.float32})

    @can_return_tuple
    @torch.no_grad()
    def encode(self, input_values: Tensor, padding_mask: Tensor | None = None) -> VQAudioEncoderOutput:
        """Waveforms (B, 1, T) in [-1, 1], mask (B, T) or (B, 1, T) with 0 for padding at the end -> codes, mask.

        A waveform has the same codes in any batch, bit for bit. Raises ValueError for other shapes and padding
        elsewhere.
        """
        lengths = None if padding_mask is None else _lengths(padding_mask, input_values)
        codes, counts = self.vqvae.encode(input_values, lengths)
        mask = torch.arange(codes.shape[1], device=codes.device) < counts[:, None]
        return VQAudioEncoderOutput(codes[:, None], mask[:, None].int())

    @can_return_tuple
    @torch.no_grad()
    def decode(
        self,
        audio_codes: Tensor,
        audio_codes_mask: Tensor | None = None,
        speaker_id: int | str | Sequence[int | str] | Tensor | None = None,
        padding_mask: Tensor | None = None,
        vocoder: Vocoder | None = None,
        temperature: float = 1.0,
        seed: int = 0,
    ) -> VQAudioDecoderOutput:
        """Codes (B, 1, N) int64 -> audio (B, 1, N * hop_length), 0 where the mask is 0.

        speaker_id: a number or name (`config.speakers`), one for all or one for each; None for a model without
        speakers. padding_mask: that of `encode`; the audio gets its length. vocoder, temperature, seed: as
        `SpeechVQVAE.decode_batch`. Raises ValueError for other shapes, unknown speakers and codes out of range.
        """
        if audio_codes.ndim != 3 or audio_codes.shape[1] != 1 or audio_codes.is_floating_point():
            raise ValueError(
                f"audio_codes must be (B, 1, N) and integers, got {tuple(audio_codes.shape)} {audio_codes.dtype}"
            )
        model, rows = self.vqvae, audio_codes[:, 0].cpu().long()
        counts = [rows.shape[1]] * len(rows)
        if audio_codes_mask is not None:
            counts = _lengths(audio_codes_mask, audio_codes).tolist()
        tokens = [
            Tokens(row[:count].clone(), count * model.hop, model.sample_rate, model.hop, model.fingerprint)
            for row, count in zip(rows, counts, strict=True)
        ]
        speakers = _speaker_names(model.speakers, speaker_id, len(rows))
        wavs = model.decode_batch(tokens, speakers, vocoder=vocoder, temperature=temperature, seed=seed)
        audio = nn.utils.rnn.pad_sequence(wavs, batch_first=True)[:, None] if wavs else torch.zeros(0, 1, 0)
        if padding_mask is not None:
            audio = audio[..., : padding_mask.shape[-1]]
        return VQAudioDecoderOutput(audio.to(self.device))

    @can_return_tuple
    def forward(
        self,
        input_values: Tensor,
        padding_mask: Tensor | None = None,
        speaker_id: int | str | Sequence[int | str] | Tensor | None = None,
    ) -> VQAudioOutput:
        """Waveforms -> codes, and their audio by the speakers; as `encode` and `decode`. For training, see vqaudio."""
        encoded = self.encode(input_values, padding_mask)
        decoded = self.decode(encoded.audio_codes, encoded.audio_codes_mask, speaker_id)
        audio = decoded.audio_values[..., : input_values.shape[-1]]
        return VQAudioOutput(encoded.audio_codes, audio, encoded.audio_codes_mask)

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """As for every model of transformers; `vqaudio.load_model` reads the folder, too."""
        for name, value in _facts(self.vqvae).items():
            setattr(self.config, name, value)
        super().save_pretrained(save_directory, **{"state_dict": self.vqvae.state_dict(), **kwargs})

    def _init_weights(self, module: nn.Module) -> None:
        """What is not saved, such as mel filters, which transformers leaves undefined when it loads a model."""
        (name,) = (name for name, each in self.vqvae.named_modules() if each is module)
        new = SpeechVQVAE(self.vqvae.cfg).get_submodule(name)
        for kind in ("_parameters", "_buffers"):
            for key, tensor in getattr(module, kind).items():
                if tensor is not None and not getattr(tensor, "_is_hf_initialized", False):
                    getattr(module, kind)[key] = getattr(new, kind)[key].to(tensor.device)


def _lengths(mask: Tensor, values: Tensor) -> Tensor:
    """Mask (B, L) or (B, 1, L) of values (B, 1, L) -> how many are valid (B,). Raises ValueError for other padding."""
    mask = mask[:, 0] if mask.ndim == 3 else mask
    if values.ndim != 3 or mask.shape != (values.shape[0], values.shape[2]):
        raise ValueError(f"a mask of {tuple(values.shape)} must be (B, L) or (B, 1, L), got {tuple(mask.shape)}")
    valid = mask.bool()
    if not valid.any(1).all() or (valid.diff(dim=1).int() * valid[:, 1:].int()).any():
        raise ValueError(
            "padding must follow the values of each row (padding_side right), and no row may be all padding"
        )
    return valid.sum(1).cpu()


def _speaker_names(
    names: tuple[str, ...], chosen: int | str | Sequence[int | str] | Tensor | None, count: int
) -> list[str] | None:
    """Numbers or names of speakers, one for all or one for each of `count` utterances -> their names."""
    if chosen is None:
        return None
    if isinstance(chosen, Tensor):
        chosen = chosen.tolist()
    each = [chosen] * count if isinstance(chosen, (int, str)) else list(chosen)
    if wrong := [speaker for speaker in each if isinstance(speaker, int) and not 0 <= speaker < len(names)]:
        raise ValueError(f"speaker_id must lie in 0..{len(names) - 1}, got {wrong[0]}; config.speakers lists the names")
    return [names[speaker] if isinstance(speaker, int) else speaker for speaker in each]


VQAudioConfig.register_for_auto_class()
VQAudioFeatureExtractor.register_for_auto_class("AutoFeatureExtractor")
VQAudioModel.register_for_auto_class("AutoModelForAudioTokenization")
