"""SpeechVQVAE: waveform to discrete codes, and codes to the waveform of any of its speakers.

Shapes: B batch, T samples, N frames (ceil(T / hop)), D code dimension, K codebook size, Q classes of
mu-law samples, C conditioning channels, F mel bands, R spectra per frame.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Unpack

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from vqaudio.fingerprint import CachedFingerprint
from vqaudio.nn.acoustic import NUM_PITCH_FEATURES
from vqaudio.nn.context import Context, MelHead
from vqaudio.nn.cross_entropy import cross_entropy_of_each
from vqaudio.nn.encoder import Encoder
from vqaudio.nn.harmonics import Harmonics
from vqaudio.nn.normalizer import Normalizer
from vqaudio.nn.pitch import Pitch, PitchHead
from vqaudio.nn.pitch_quantizer import PitchQuantizer
from vqaudio.nn.quantizer import Quantized, build_quantizer
from vqaudio.nn.regularizers import jitter
from vqaudio.nn.source_filter import IstftVocoder
from vqaudio.nn.spectral_correction import SpectralCorrection
from vqaudio.nn.units import UnitHead, UnitLosses
from vqaudio.nn.wavenet import WaveNet
from vqaudio.sampling.config import SamplingConfig, SamplingOptions
from vqaudio.speech import losses, synthesis, tokenizer, vocoding
from vqaudio.speech.acoustic import decoded_target, decoder_conditioning, true_conditioning, with_conversions
from vqaudio.speech.config import TRAINED_VOCODERS
from vqaudio.speech.config import SpeechVQVAEConfig as SpeechVQVAEConfig
from vqaudio.speech.speakers import SPEAKER_WEIGHT, speaker_id, speaker_ids
from vqaudio.speech.tokens import Tokens, check_pitch_tokens, check_tokens, checked_codes
from vqaudio.speech.vocoders import (
    NO_SPECTRUM,
    VOCODERS,
    PitchSource,
    Vocoder,
    check_pitch_source,
    check_streams,
    chosen_vocoder,
)
from vqaudio.torch_defaults import one_thread, with_own_defaults


class SpeechVQVAE(nn.Module):
    """The paper's speech model: encoder, one shared vector quantizer, speaker-conditioned WaveNet decoder."""

    def __init__(self, cfg: SpeechVQVAEConfig):
        super().__init__()
        self.cfg = cfg
        self.encoder = Encoder(cfg.encoder, cfg.sample_rate)
        self.normalizer = Normalizer(cfg.normalizer, cfg.encoder.dim)
        self.quantizer = build_quantizer(cfg.quantizer)
        speaker_dim = cfg.decoder.cond_hidden_channels if cfg.speakers else 0
        self.context = Context(cfg.context, cfg.encoder.dim, speaker_dim) if cfg.context.dilations else None
        mel, width, rate = cfg.spectrum, cfg.context.channels, cfg.sample_rate
        self.spectrum = MelHead(mel, width, self.hop, rate) if mel.n_mels else None
        of_pitch = (cfg.pitch, width, self.hop, mel.hop_length, len(cfg.speakers), rate)
        self.pitch = PitchHead(*of_pitch) if cfg.pitch.win_length else None
        of_tokens = cfg.pitch_tokens if cfg.pitch_tokens.frames else None
        self.pitch_quantizer = PitchQuantizer(of_tokens, self.pitch.tracker) if of_tokens and self.pitch else None
        self.acoustic = Context(cfg.acoustic, mel.n_mels + NUM_PITCH_FEATURES, 0) if cfg.acoustic.dilations else None
        self.correction = SpectralCorrection(mel, rate) if cfg.acoustic.dilations and cfg.acoustic.correction else None
        self.harmonics = Harmonics(mel, cfg.pitch, rate) if cfg.acoustic.dilations and cfg.acoustic.harmonics else None
        self.istft = IstftVocoder(cfg.istft, mel, rate) if cfg.istft.dilations else None
        self.units = UnitHead(cfg.units, cfg.encoder.dim, speaker_dim, self.hop) if cfg.predicts_units else None
        self.decoder = WaveNet(cfg.decoder)
        self.conversion_teacher: tuple[nn.Module, ...] = ()  # a ConversionTeacher; not a submodule
        self._fingerprint = CachedFingerprint()
        nn.ModuleList(self._frozen()).requires_grad_(False)
        if self.decoder.speaker is not None:  # the context network and the unit head use the speaker embedding too
            kept = cfg.stage == "istft" or (cfg.stage == "decoder" and self.acoustic is not None)
            self.decoder.speaker.requires_grad_(not kept)

    # --- training ---

    def _frozen(self) -> tuple[nn.Module, ...]:
        """The modules that are not trained in this stage."""
        return tuple(part for name in self.cfg.frozen_parts if (part := getattr(self, name)) is not None)

    def train(self, mode: bool = True) -> SpeechVQVAE:
        """Frozen modules stay in evaluation mode, so that their codebook is neither updated nor restarted."""
        super().train(mode)
        nn.ModuleList(self._frozen()).eval()
        return self

    def forward(
        self,
        wav: Tensor,
        target: Tensor,
        speaker: Tensor,
        lengths: Tensor,
        past: Tensor | None = None,
        past_lengths: Tensor | None = None,
        future: Tensor | None = None,
        units: Tensor | None = None,
        cepstra: Tensor | None = None,
        audio: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Waveforms (B, 1, T) in [-1, 1], mu-law classes (B, T), speakers (B,), valid samples (B,) -> loss (), logs.

        past, past_lengths, future: samples around each crop for the encoder, as `Encoder.crop` takes them; None: the
        crop is encoded as an utterance. units, cepstra: the targets of target: units, as `UnitHead.losses` takes them.
        audio: (B, T) the speech of `target` before mu-law, whose spectrum and pitch are predicted; None: as decoded.

        Equation 3 of the paper: the negative log-likelihood in nats, averaged over valid samples, and the loss of the
        quantizer; with `spectrum`, also the squared errors of the log-mel spectrum; with target: units its losses, and
        the spectrum is predicted from codes without gradient; with `pitch`, the cross-entropy of voicing and the
        squared error of F0; with `istft`, the multi-resolution STFT loss of its resynthesis of `wav`, the only loss of
        stage: istft. In training, `conversions` converts crops to another speaker before encoding, and
        `conversion_loss_weight` adds the error of conversions against the teacher's. Means are weighted with the
        fraction of valid samples or frames, so that the mean loss of the parts of a global batch is that of the batch.
        """
        if self.cfg.stage == "istft":
            return losses.istft_loss(self, wav[:, 0], lengths, speaker)
        if self.cfg.conversions and self.training:
            if past is not None:
                raise ValueError("conversions are of crops alone: set crops.past and crops.future to 0")
            wav = with_conversions(self, wav, speaker, lengths)
        z, q = self.quantize(wav, lengths, past, past_lengths, future)
        z_q = jitter(q.z_q, self.cfg.time_jitter) if self.training and self.cfg.time_jitter else q.z_q
        mask = self.valid_frames(lengths, z.shape[2])
        valid_frames = mask.sum() / mask.numel()
        loss = q.loss * valid_frames * (not self.cfg.freezes_codes)
        logs = {
            "encoder_norm": (z.detach().float().norm(dim=1) * mask).sum() / mask.sum().clamp(min=1),
            **self.quantizer.metrics(q),
        }
        if self.units is not None:
            if units is None or cepstra is None:
                raise ValueError("target: units needs the targets units and cepstra in every batch")
            found = self.unit_losses(z_q, speaker, mask, units, cepstra)
            own, own_logs = losses.unit_loss(self.cfg.units, found, units)
            loss, logs, z_q = loss + own, logs | own_logs, z_q.detach()
        cond = self.conditioned(z_q, speaker)
        audio = decoded_target(self, target, lengths) if audio is None else audio
        if "wavenet" in TRAINED_VOCODERS[self.cfg.stage]:
            read = true_conditioning(self, cond, audio)
            nll = self._nll_of_each(target, read, speaker, lengths).sum() / lengths.sum().clamp(min=1)
            loss = loss + nll * (lengths.sum() / target.numel())
            logs["bits_per_sample"] = nll.detach() / math.log(2)
        if self.spectrum is not None:
            own, own_logs = losses.spectrum_loss(self, audio, cond, mask)
            loss, logs = loss + own * valid_frames, logs | own_logs
        if self.cfg.conversion_loss_weight and self.training:
            own, own_logs = losses.conversion_loss(self, z_q, speaker, mask)
            loss, logs = loss + own * valid_frames, logs | own_logs
        if self.pitch is not None:
            own, own_logs = losses.pitch_loss(self.pitch.losses(cond, self.known(speaker), audio, mask))
            loss, logs = loss + own * valid_frames, logs | own_logs
        if self.istft is not None and "istft" in TRAINED_VOCODERS[self.cfg.stage]:
            own, own_logs = losses.istft_loss(self, wav[:, 0], lengths, speaker)
            loss, logs = loss + own, logs | own_logs
        return loss, logs

    def quantize(
        self,
        wav: Tensor,
        lengths: Tensor,
        past: Tensor | None = None,
        past_lengths: Tensor | None = None,
        future: Tensor | None = None,
    ) -> tuple[Tensor, Quantized]:
        """Waveforms (B, 1, T), valid samples (B,), what is around them -> encoder output (B, D, N), Quantized."""
        frozen = self.cfg.freezes_codes  # then the codes must be those of evaluation, in float32
        with torch.autocast(wav.device.type, enabled=False) if frozen else nullcontext():
            if past is None or past_lengths is None or future is None:
                z, _ = self.encoder(wav)  # (B, D, N)
            else:
                z = self.encoder.crop(wav, past, past_lengths, future)
            mask = self.valid_frames(lengths, z.shape[2])
            return z, self.quantizer(self.normalizer(z, mask), mask)

    def unit_losses(self, z_q: Tensor, speaker: Tensor, mask: Tensor, units: Tensor, cepstra: Tensor) -> UnitLosses:
        """Code vectors (B, D, N), speakers (B,), and as `UnitHead.losses` takes it."""
        assert self.units is not None
        embed = self.decoder.speaker
        return self.units.losses(z_q, None if embed is None else embed(speaker), mask, units, cepstra)

    def num_frames(self, num_samples: Tensor) -> Tensor:
        """Number of codes of so many samples: ceil(num_samples / hop)."""
        return -(-num_samples // self.hop)

    def valid_frames(self, lengths: Tensor, num_frames: int) -> Tensor:
        """Valid samples (B,) -> mask (B, N) bool, N = num_frames; False for padding."""
        return torch.arange(num_frames, device=lengths.device) < self.num_frames(lengths)[:, None]

    def nll(self, target: Tensor, z_q: Tensor, speaker: Tensor, lengths: Tensor) -> Tensor:
        """Teacher-forced negative log-likelihood in nats, averaged over the valid samples, ()."""
        return self.nll_of_each(target, z_q, speaker, lengths).sum() / lengths.sum().clamp(min=1)

    def nll_of_each(self, target: Tensor, z_q: Tensor, speaker: Tensor, lengths: Tensor) -> Tensor:
        """Teacher-forced negative log-likelihood in nats, summed over the valid samples of each utterance, (B,).

        A WaveNet that is conditioned on acoustic frames is given those that the codes predict.
        """
        read = decoder_conditioning(self, z_q, speaker, target.shape[1])
        return self._nll_of_each(target, read, speaker, lengths)

    def spectrum_error_of_each(self, audio: Tensor, cond: Tensor, lengths: Tensor) -> Tensor:
        """Speech (B, T), conditioning (B, C, N), valid samples (B,) -> (B,).

        The mean squared error of the log-mel spectrum, summed over the valid frames of each utterance.
        """
        assert self.spectrum is not None
        return self.spectrum.errors(cond, audio, self.valid_frames(lengths, cond.shape[2])).sum(1)

    def known(self, speaker: Tensor | None) -> Tensor | None:
        """The speakers of a batch (B,); None for a model without speakers."""
        return speaker if self.speakers else None

    def conditioned(self, z_q: Tensor, speaker: Tensor | None, decoder: WaveNet | None = None) -> Tensor:
        """Code vectors (B, D, N), speakers (B,) -> conditioning (B, C, N) of `decoder` (None: the model's own)."""
        embed = (decoder or self.decoder).speaker
        embedding = None if embed is None or speaker is None else embed(speaker)
        return z_q if self.context is None else self.context(z_q, embedding)

    def _nll_of_each(self, target: Tensor, cond: Tensor, speaker: Tensor, lengths: Tensor) -> Tensor:
        logits, _ = self.decoder(self.decoder.shift(target), cond, self.known(speaker))
        flat = rearrange(logits, "b q t -> (b t) q")
        losses = cross_entropy_of_each(flat, target.flatten()).view(target.shape)
        valid = torch.arange(target.shape[1], device=target.device) < lengths[:, None]
        return (losses * valid).sum(1)

    # --- properties ---

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
        return self.quantizer.codebook_size

    @property
    def speakers(self) -> tuple[str, ...]:
        """Names of the speakers, in the order of their embeddings."""
        return self.cfg.speakers

    @property
    def vocoders(self) -> tuple[Vocoder, ...]:
        """Those that the model has: Griffin-Lim needs a spectrum head, the others trained weights."""
        trained = self.cfg.trained_vocoders
        return tuple(n for n in VOCODERS if n in trained or (n == "griffin-lim" and self.spectrum is not None))

    @property
    def untrained_weights(self) -> tuple[str, ...]:
        """Names of the weights of a WaveNet that was never trained; the speaker embedding is not one of them."""
        parts = () if "wavenet" in self.vocoders else ("decoder.", "acoustic.")
        return tuple(key for key in self.state_dict() if key.startswith(parts) and key != SPEAKER_WEIGHT)

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.quantizer.device

    @property
    def fingerprint(self) -> str:
        """12 hex digits: a hash of everything that determines the codes. Decoder and speakers are not part of it."""
        weights = {**self.encoder.state_dict(), **self.normalizer.state_dict(prefix="normalizer.")}
        return self._fingerprint.of(self.cfg.facts_of_codes(), weights | self.quantizer.code_weights())

    def speaker_id(self, name: str) -> int:
        """Index of a speaker. Raises ValueError for an unknown name."""
        return speaker_id(self.speakers, name)

    # --- speech to codes ---

    @with_own_defaults
    def encode(self, wavs: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Waveforms (B, 1, T) in [-1, 1], valid samples (B,) (None: T) -> codes (B, N) int64, number of codes (B,).

        Padding codes are 0. An utterance has bit-identical codes alone, in any batch, with any padding, and streamed,
        because the encoder always computes chunks of one shape. Raises ValueError for other shapes and lengths.
        """
        utterances, lengths = tokenizer.checked_batch(wavs, lengths)
        rows = list(self.encode_each(utterances))
        codes = nn.utils.rnn.pad_sequence(rows, batch_first=True) if rows else torch.zeros(0, 0, dtype=torch.long)
        return codes.to(self.device), self.num_frames(lengths.to(self.device))

    @with_own_defaults
    @torch.inference_mode()
    def encode_each(self, utterances: Iterable[Iterable[Tensor]]) -> Iterator[Tensor]:
        """Utterances, each as consecutive pieces (T,) of any length -> the codes (N,) int64 of each, on the CPU.

        They come in the order of the utterances, of which it takes some ahead: on a GPU it encodes many at once. The
        samples are taken as they are, for `data.audio.blocks` has checked those of files. Raises RuntimeError in
        training mode.
        """
        tokenizer.check_encoding(self)
        yield from tokenizer.encode_each(self.encoder, self._nearest, utterances)

    @with_own_defaults
    @torch.inference_mode()
    def encode_stream(self, pieces: Iterable[Tensor]) -> Iterator[Tensor]:
        """Consecutive pieces (T,) of an utterance, of any length -> its codes (N,) int64, chunk by chunk.

        Memory does not grow with the length of the utterance. The last codes follow when the pieces end. Raises
        RuntimeError in training mode.
        """
        tokenizer.check_encoding(self)
        for z, parts in tokenizer.encode_batches(self.encoder, [tokenizer.checked_pieces(pieces)]):
            yield self._nearest(z)[0, : parts[0].num_frames]  # of all rows and frames: always one shape

    def _nearest(self, z: Tensor) -> Tensor:
        """Encoder output (R, D, N) -> codes (R, N) int64."""
        return self.quantizer.encode(self.normalizer(z))

    @with_own_defaults
    def tokenize(
        self,
        audio: str | Path | np.ndarray | Tensor,
        sample_rate: int | None = None,
        *,
        fingerprint: str | None = None,
        pitch: bool = False,
    ) -> Tokens:
        """A file, or a waveform (T,) in [-1, 1] at `sample_rate` (this model's, if left out) -> Tokens.

        Files of any rate and channel count are mixed to mono and resampled. `fingerprint`, this model's, saves loops
        over many files from comparing all weights for each. `pitch`: with pitch tokens. Raises AudioError for a file
        that holds no usable audio, ValueError for such a waveform, and for a model without pitch tokens.
        """
        quantizer = tokenizer.check_pitch_quantizer(self.pitch_quantizer) if pitch else None
        counted = tokenizer.CountedPieces(tokenizer.audio_pieces(audio, sample_rate, self.sample_rate), quantizer)
        codes = bytearray()  # one growing block: many small tensors would fragment the memory
        for chunk in self.encode_stream(counted):
            codes += chunk.cpu().numpy().tobytes()
        whole, model = torch.frombuffer(codes, dtype=torch.int64), fingerprint or self.fingerprint
        return Tokens(whole, counted.num_samples, self.sample_rate, self.hop, model, counted.pitch())

    # --- codes to speech ---

    def decode(
        self,
        tokens: Tokens,
        speaker: str | None = None,
        sampling: SamplingConfig = SamplingConfig(),
        vocoder: Vocoder | None = None,
        pitch: Pitch | None = None,
        source_speaker: str | None = None,
        **options: Unpack[SamplingOptions],
    ) -> Tensor:
        """Tokens -> waveform (T,) float32 in [-1, 1] of `speaker`; as `decode_batch`."""
        return self.decode_batch([tokens], speaker, sampling, vocoder, [pitch], [source_speaker], **options)[0]

    @with_own_defaults
    def decode_batch(
        self,
        batch: Sequence[Tokens],
        speaker: str | Sequence[str] | None = None,
        sampling: SamplingConfig = SamplingConfig(),
        vocoder: Vocoder | None = None,
        pitch: Sequence[Pitch | None] | None = None,
        source_speaker: Sequence[str | None] | None = None,
        **options: Unpack[SamplingOptions],
    ) -> list[Tensor]:
        """Tokens of several utterances, one speaker for all or one for each -> waveforms (T,) float32 in [-1, 1].

        `vocoder`: one of `vocoders`; None: the model's default. `sampling`, or its fields as keyword arguments
        (`temperature=0.8`): how the WaveNet draws samples. The other vocoders use its seed only: Griffin-Lim for
        initial phases, istft for noise. `pitch`: of each utterance, as `pitch_of` finds it; None: that of its pitch
        tokens, without them as the codes predict it. It gets median and range of `speaker`, unless that is the
        `source_speaker`. A waveform depends on the rest of the batch only through rounding, of a WaveNet without the
        compiled kernels. Raises ValueError for tokens of another model, unknown speakers and vocoders, and bad options.
        """
        sampling = sampling.override(**options)
        vocoder = self.check_vocoder(vocoder)
        speakers = self._speaker_ids(speaker, len(batch))
        self.check_tokens(*batch)
        pitch = vocoding.checked_pitch(self, pitch, len(batch), vocoder)
        sources = vocoding.checked_sources(source_speaker, len(batch))
        each = [None] * len(batch) if speakers is None or not batch else speakers.split(1)
        parts = zip(batch, each, pitch, sources, strict=True)
        requests = [vocoding.decode_request(self, *one, vocoder=vocoder) for one in parts]
        return vocoding.decode(self, requests, vocoder, sampling)

    @with_own_defaults
    def predict_spectrum(self, tokens: Tokens, speaker: str | None = None) -> Tensor:
        """Tokens -> the log-mel spectra (N * R, F) that the model predicts for `speaker`, standardised as by `LogMel`.

        Spectrum n is centred in its hop, as of `LogMel.centred`; `vqaudio.speech.griffin_lim` inverts them. Raises
        ValueError as `decode` does, and for models without a spectrum head.
        """
        if self.spectrum is None:
            raise ValueError(NO_SPECTRUM)
        speakers = self._speaker_ids(speaker, 1)
        self.check_tokens(tokens)
        return vocoding.predicted_spectrum(self, vocoding.decode_request(self, tokens, speakers, vocoder="griffin-lim"))

    @property
    def vocoders_with_pitch(self) -> tuple[Vocoder, ...]:
        """Those of `vocoders` that are conditioned on the pitch."""
        return tuple(n for n in self.vocoders if n == "istft" or (n == "wavenet" and self.acoustic is not None))

    @with_own_defaults
    def pitch_of(self, audio: str | Path | np.ndarray | Tensor, sample_rate: int | None = None) -> Pitch:
        """Voicing and F0 of speech, for `decode_batch`; the arguments are those of `tokenize`.

        Raises AudioError and ValueError as `tokenize` does, and ValueError for a model that predicts no pitch.
        """
        if self.pitch is None:
            raise ValueError("this model has no vocoder that is conditioned on pitch (pitch.win_length)")
        wav = tokenizer.whole_audio(audio, sample_rate, self.sample_rate)
        with one_thread():
            return self.pitch.tracker(wav[None], -(-len(wav) // self.cfg.spectrum.hop_length))

    @with_own_defaults
    def decode_stream(
        self,
        tokens: Tokens | Iterable[int | Tensor],
        speaker: str | None = None,
        sampling: SamplingConfig = SamplingConfig(),
        vocoder: Vocoder | None = None,
        pitch: Pitch | None = None,
        source_speaker: str | None = None,
        **options: Unpack[SamplingOptions],
    ) -> Iterator[Tensor]:
        """The waveform of an utterance in pieces, (T,) float32 in [-1, 1], which concatenated equal `decode`.

        `tokens`: Tokens, or codes of this model as they arrive, one at a time or several (N,); Tokens are decoded 16
        codes at a time. Without look-ahead of the context network, a WaveNet conditioned on codes returns the `hop`
        samples of a code at once; otherwise samples come later by the look-ahead, from the vocoder istft in blocks of
        16 frames, from a WaveNet conditioned on acoustic frames two frames later, in blocks of four. `pitch`: as of
        `decode_batch`, for Tokens only. Raises as `decode` does, if possible before the first piece, and ValueError for
        "griffin-lim", whose phases depend on the whole utterance.
        """
        vocoder = self.check_vocoder(vocoder)
        check_streams(vocoder)
        sampling = sampling.override(**options)
        who = self._speaker_ids(speaker, 1)
        vocoding.checked_pitch(self, [pitch], 1, vocoder)
        if isinstance(tokens, Tokens):
            self.check_tokens(tokens)
            whole, piece = (tokens, who, pitch, source_speaker), synthesis.STREAM_FRAMES
            utterance = vocoding.decode_request(self, *whole, vocoder=vocoder, piece=piece)
        elif pitch is not None:
            raise ValueError("pitch is for whole Tokens, got codes as they arrive; leave it out")
        else:
            arriving = (checked_codes(part, self.codebook_size) for part in tokens)
            utterance = vocoding.DecodeRequest(arriving, None, who, None)
        return vocoding.decode_stream(self, utterance, vocoder, sampling)

    def convert(
        self,
        audio: str | Path | np.ndarray | Tensor,
        speaker: str,
        sample_rate: int | None = None,
        sampling: SamplingConfig = SamplingConfig(),
        vocoder: Vocoder | None = None,
        pitch: PitchSource = "source",
        **options: Unpack[SamplingOptions],
    ) -> Tensor:
        """Voice conversion of a file or waveform: the same content by `speaker`, (T,) float32 in [-1, 1].

        `pitch`, for vocoders conditioned on it: "source", that of the audio, moved to median and range of `speaker`;
        "codes", as the codes predict it. The other arguments are those of `tokenize` and `decode_batch`.
        """
        vocoder = self.check_vocoder(vocoder)
        self._speaker_ids(speaker, 1)  # refuse an unknown speaker before the audio is encoded
        sampling = sampling.override(**options)
        if check_pitch_source(pitch) == "codes" or vocoder not in self.vocoders_with_pitch:
            return self.decode(self.tokenize(audio, sample_rate), speaker, sampling, vocoder)
        # read once: it may be a stream
        wav = tokenizer.whole_audio(audio, sample_rate, self.sample_rate)
        return self.decode(self.tokenize(wav), speaker, sampling, vocoder, self.pitch_of(wav))

    def check_tokens(self, *batch: Tokens) -> None:
        """Raises ValueError for tokens that this model cannot decode."""
        check_tokens(batch, self.fingerprint, self.sample_rate, self.hop, self.codebook_size)
        check_pitch_tokens(batch, self.pitch_quantizer)

    def check_vocoder(self, vocoder: Vocoder | None = None) -> Vocoder:
        """The vocoder to use, None: the model's default. Raises ValueError for one that is not among `vocoders`."""
        return chosen_vocoder(vocoder or self.cfg.vocoder, self.vocoders)

    def _speaker_ids(self, speaker: str | Sequence[str] | None, count: int) -> Tensor | None:
        ids = speaker_ids(self.speakers, speaker, count)
        return None if ids is None else torch.tensor(ids, device=self.device)
