"""SpeechVQVAE: raw waveform to discrete codes, and codes to any voice that it knows.

Letters: B batch, T samples, N frames (N = ceil(T / hop)), D code width, K codes, Q mu-law classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Unpack

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vqaudio.models.chunks import audio_pieces, encode_in_chunks
from vqaudio.models.fingerprint import fingerprint
from vqaudio.models.speaking import STREAM_FRAMES, SpeakOptions, check_codes, pieces, speak, speak_stream
from vqaudio.models.tokens import Tokens
from vqaudio.nn.encoder import Encoder, EncoderConfig
from vqaudio.nn.noise import jitter
from vqaudio.nn.normalizer import Normalizer, NormalizerKind
from vqaudio.nn.quantizer import Quantized, VectorQuantizer, VectorQuantizerConfig
from vqaudio.nn.wavenet import WaveNet, WaveNetConfig

# what decides the codes, by name: a field that a later version adds must not rename the models that are there
ENCODER_FACTS = ("strides", "channels", "dilations", "kernel_size", "width", "lookahead", "gain")


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
    quantizer: VectorQuantizerConfig = field(default_factory=VectorQuantizerConfig)
    decoder: WaveNetConfig = field(default_factory=WaveNetConfig)
    """its hop, condition and speakers follow from the rest"""
    jitter: float = 0.0
    """share of the frames that the decoder hears from a neighbour instead, in training"""

    def __post_init__(self) -> None:
        if len(set(self.speakers)) < len(self.speakers):
            raise ValueError(f"speakers must be different names, got {self.speakers}")
        if self.sample_rate < 1:
            raise ValueError(f"sample_rate must be at least 1 Hz, got {self.sample_rate}")
        if self.quantizer.width != self.encoder.width:
            raise ValueError(
                f"quantizer.width ({self.quantizer.width}) must be encoder.width ({self.encoder.width}); set both"
            )
        if not 0 <= self.jitter <= 1:
            raise ValueError(f"jitter must lie in [0, 1], a share of the frames, got {self.jitter}")
        follows = {"hop": self.encoder.hop, "condition": self.encoder.width, "speakers": len(self.speakers)}
        object.__setattr__(self, "decoder", replace(self.decoder, **follows))


class SpeechVQVAE(nn.Module):
    """The paper's speech model: encoder, one shared vector quantizer, speaker-conditioned WaveNet decoder."""

    def __init__(self, cfg: SpeechVQVAEConfig):
        super().__init__()
        self.cfg = cfg
        self.encoder = Encoder(cfg.encoder)
        self.normalizer = Normalizer(cfg.normalizer, cfg.encoder.width)
        self.quantizer = VectorQuantizer(cfg.quantizer)
        self.decoder = WaveNet(cfg.decoder)
        self._fingerprint: tuple[object, str] | None = None  # of which versions of the weights, and what it is

    # --- training ---

    def forward(
        self, wav: Tensor, target: Tensor, speaker: Tensor, lengths: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(B, 1, T) in [-1, 1], mu-law classes (B, T), (B,), valid samples (B,) -> loss () in nats, logs.

        Equation 3 of the paper, with the negative log-likelihood averaged over valid samples. Each mean is weighted
        with its share of valid samples or frames, so that the parts of a joint batch, averaged, make its loss.
        """
        z, q = self.quantize(wav, lengths)
        z_q = jitter(q.z_q, self.cfg.jitter) if self.training and self.cfg.jitter else q.z_q
        nll = self.nll(target, z_q, speaker, lengths)
        valid_samples = lengths.sum() / target.numel()
        mask = self.valid_frames(lengths, z.shape[2])
        valid_frames = mask.sum() / mask.numel()
        logs = {
            "bits_per_sample": nll.detach() / math.log(2),
            "encoder_norm": (z.detach().float().norm(dim=1) * mask).sum() / mask.sum().clamp(min=1),
            **self.quantizer.figures(q),
        }
        return nll * valid_samples + q.loss * valid_frames, logs

    def quantize(self, wav: Tensor, lengths: Tensor) -> tuple[Tensor, Quantized]:
        """(B, 1, T), valid samples (B,) -> the encoder's vectors (B, D, N), what the quantizer makes of them."""
        z, _ = self.encoder(wav)  # (B, D, N)
        mask = self.valid_frames(lengths, z.shape[2])
        return z, self.quantizer(self.normalizer(z, mask), mask)

    def num_frames(self, num_samples: Tensor) -> Tensor:
        """Codes of so many samples: one for each hop begun."""
        return -(-num_samples // self.hop)

    def valid_frames(self, lengths: Tensor, num_frames: int) -> Tensor:
        """Valid samples (B,) -> (B, N) bool, N = num_frames: which frames are no padding."""
        return torch.arange(num_frames, device=lengths.device) < self.num_frames(lengths)[:, None]

    def nll(self, target: Tensor, z_q: Tensor, speaker: Tensor, lengths: Tensor) -> Tensor:
        """Teacher-forced negative log-likelihood in nats, averaged over the valid samples: ()."""
        return self.nll_of_each(target, z_q, speaker, lengths).sum() / lengths.sum().clamp(min=1)

    def nll_of_each(self, target: Tensor, z_q: Tensor, speaker: Tensor, lengths: Tensor) -> Tensor:
        """Teacher-forced negative log-likelihood in nats, summed over the valid samples of each row: (B,)."""
        logits, _ = self.decoder(self.decoder.shift(target), z_q, speaker if self.speakers else None)
        flat = rearrange(logits, "b q t -> (b t) q")
        losses = F.cross_entropy(flat.float(), target.flatten(), reduction="none").view(target.shape)
        valid = torch.arange(target.shape[1], device=target.device) < lengths[:, None]
        return (losses * valid).sum(1)

    # --- facts ---

    @property
    def sample_rate(self) -> int:
        """In Hz."""
        return self.cfg.sample_rate

    @property
    def hop(self) -> int:
        """Samples per code."""
        return self.cfg.encoder.hop

    @property
    def frame_rate(self) -> float:
        """Codes per second."""
        return self.sample_rate / self.hop

    @property
    def codebook_size(self) -> int:
        """K."""
        return self.cfg.quantizer.codes

    @property
    def speakers(self) -> tuple[str, ...]:
        """Names of the voices that it speaks."""
        return self.cfg.speakers

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return self.quantizer.codebook.device

    @property
    def fingerprint(self) -> str:
        """12 hex digits that stand for everything that decides the codes; decoder and speakers have no part in it."""
        weights = {**self.encoder.state_dict(), **self.normalizer.state_dict(prefix="normalizer.")}
        weights["codebook"] = self.quantizer.codebook
        version = tuple((w.data_ptr(), 0 if w.is_inference() else w._version) for w in weights.values())
        if self._fingerprint is None or self._fingerprint[0] != version:  # hashing takes milliseconds
            c = self.cfg
            facts = {name: getattr(c.encoder, name) for name in ENCODER_FACTS}
            facts |= {"sample_rate": c.sample_rate, "normalizer": c.normalizer, "codes": c.quantizer.codes}
            facts |= {"unit_norm": True} if c.quantizer.unit_norm else {}  # a later field, as above
            self._fingerprint = version, fingerprint(facts, weights)
        return self._fingerprint[1]

    def speaker_id(self, name: str) -> int:
        """Index of a voice. Raises ValueError for a name that this model does not know."""
        if name not in self.speakers:
            shown = ", ".join(self.speakers[:12]) + (", ..." if len(self.speakers) > 12 else "")
            raise ValueError(
                f"speaker {name!r} is not in this model; it knows {len(self.speakers)}: {shown} "
                "(vqaudio info MODEL lists them)"
            )
        return self.speakers.index(name)

    # --- speech to codes ---

    def encode(self, wavs: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, 1, T) in [-1, 1], valid samples (B,) or None for T -> codes (B, N) int64, their numbers (B,).

        Codes behind an utterance's own end are 0. An utterance has the same codes, to the bit, alone, in any
        batch, with any padding, and streamed: the encoder always works on chunks of one shape.
        """
        if wavs.ndim != 3 or wavs.shape[1] != 1:
            raise ValueError(f"encode takes waveforms of shape (B, 1, T), got {tuple(wavs.shape)}")
        lengths = torch.full((wavs.shape[0],), wavs.shape[2]) if lengths is None else lengths.cpu()
        if lengths.shape != wavs.shape[:1] or (
            lengths.numel() and not 0 < lengths.min() <= lengths.max() <= wavs.shape[2]
        ):
            raise ValueError(f"lengths must be ({wavs.shape[0]},) with values in 1..{wavs.shape[2]}, got {lengths}")
        rows = [
            torch.cat(list(self.encode_stream([wav[0, :length]])))
            for wav, length in zip(wavs, lengths.tolist(), strict=True)
        ]
        codes = nn.utils.rnn.pad_sequence(rows, batch_first=True) if rows else wavs.new_zeros(0, 0, dtype=torch.long)
        return codes, self.num_frames(lengths.to(codes.device))

    @torch.inference_mode()
    def encode_stream(self, pieces: Iterable[Tensor]) -> Iterator[Tensor]:
        """Consecutive pieces (T,) of an utterance, of any lengths -> its codes (N,) int64, chunk by chunk.

        Memory does not grow with the length. The last codes come when the pieces end.
        """
        if self.training:
            raise RuntimeError("the model is in training mode; call model.eval() before it encodes")
        for z, num_frames in encode_in_chunks(self.encoder, pieces):
            yield self.quantizer.encode(self.normalizer(z))[0, :num_frames]

    def tokenize(self, audio: str | Path | np.ndarray | Tensor, sample_rate: int | None = None) -> Tokens:
        """A file, or a waveform (T,) in [-1, 1] at `sample_rate` (this model's, if left out) -> Tokens.

        Files of any rate and channel count are mixed to mono and resampled. Raises AudioError for a file that
        holds no usable audio, ValueError for such a waveform.
        """
        num_samples = 0

        def pieces() -> Iterator[Tensor]:
            nonlocal num_samples
            for piece in audio_pieces(audio, sample_rate, self.sample_rate):
                num_samples += len(piece)
                yield piece

        codes = bytearray()  # one block that grows: many small tensors that stay would scatter the memory between them
        for chunk in self.encode_stream(pieces()):
            codes += chunk.cpu().numpy().tobytes()
        return Tokens(
            torch.frombuffer(codes, dtype=torch.int64), num_samples, self.sample_rate, self.hop, self.fingerprint
        )

    # --- codes to speech ---

    def decode(self, tokens: Tokens, speaker: str | None = None, **options: Unpack[SpeakOptions]) -> Tensor:
        """Tokens -> (T,) float32 in [-1, 1], spoken freely by `speaker`; as `decode_batch`."""
        return self.decode_batch([tokens], speaker, **options)[0]

    def decode_batch(
        self, batch: Sequence[Tokens], speaker: str | Sequence[str] | None = None, **options: Unpack[SpeakOptions]
    ) -> list[Tensor]:
        """Utterances decoded together, by one speaker or one each -> list of (T,) float32 in [-1, 1].

        What an utterance becomes depends on its codes, the speaker and the options; with the compiled kernels on
        nothing else, otherwise on its neighbours through rounding. Raises ValueError for tokens of another model and
        for unknown speakers.
        """
        speaker_ids = self._speaker_ids(speaker, len(batch))
        for tokens in batch:
            self.check_tokens(tokens)
        if not batch:
            return []
        codes = nn.utils.rnn.pad_sequence([tokens.codes for tokens in batch], batch_first=True).to(self.device)
        cond = self.quantizer.decode(codes)
        return speak(self.decoder, cond, speaker_ids, [tokens.num_samples for tokens in batch], **options)

    def decode_stream(
        self, tokens: Tokens | Iterable[int | Tensor], speaker: str | None = None, **options: Unpack[SpeakOptions]
    ) -> Iterator[Tensor]:
        """An utterance in pieces, (T,) float32 in [-1, 1], which together equal `decode`.

        `tokens`: Tokens, or codes of this model as they arrive, one at a time or some (N,). Nothing is held back:
        the `hop` samples of a code come with the piece that brings it, and depend on no later code; Tokens are
        spoken 16 codes at a time. Raises as `decode` does, before the first piece where it can.
        """
        speaker_ids = self._speaker_ids(speaker, 1)
        if isinstance(tokens, Tokens):
            self.check_tokens(tokens)
            some, num_samples = tokens.codes.split(STREAM_FRAMES), tokens.num_samples
        else:
            some, num_samples = tokens, None
        return speak_stream(self.decoder, pieces(self.quantizer, some, self.hop, num_samples), speaker_ids, **options)

    def convert(
        self,
        audio: str | Path | np.ndarray | Tensor,
        speaker: str,
        sample_rate: int | None = None,
        **options: Unpack[SpeakOptions],
    ) -> Tensor:
        """What was said in a file or waveform, said by `speaker`: (T,) float32 in [-1, 1]."""
        self.speaker_id(speaker)  # before the work
        return self.decode(self.tokenize(audio, sample_rate), speaker, **options)

    def check_tokens(self, tokens: Tokens) -> None:
        """Raises ValueError for tokens that this model cannot speak."""
        if tokens.model != self.fingerprint:
            raise ValueError(
                f"these tokens were made by model {tokens.model}, this is model {self.fingerprint}; "
                "decode them with the model that made them"
            )
        if (tokens.sample_rate, tokens.hop) != (self.sample_rate, self.hop):
            raise ValueError(
                f"sample_rate and hop must be those of the model, {self.sample_rate} and {self.hop}, "
                f"got {tokens.sample_rate} and {tokens.hop}"
            )
        check_codes(tokens.codes, self.codebook_size)

    def _speaker_ids(self, speaker: str | Sequence[str] | None, count: int) -> Tensor | None:
        if not self.speakers:
            if speaker is not None:
                raise ValueError(f"this model has no speakers, got {speaker!r}; leave speaker out")
            return None
        if speaker is None:
            raise ValueError(f"name a speaker; this model knows {len(self.speakers)}: {', '.join(self.speakers[:12])}")
        names = [speaker] * count if isinstance(speaker, str) else list(speaker)
        if len(names) != count:
            raise ValueError(f"{count} utterances need as many speakers (or a single name), got {len(names)}")
        return torch.tensor([self.speaker_id(name) for name in names], device=self.device)
