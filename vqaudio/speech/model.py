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
from torch.nn import functional as F

from vqaudio.data.mulaw import mulaw_decode
from vqaudio.fingerprint import CachedFingerprint
from vqaudio.nn.acoustic import NUM_PITCH_FEATURES, AcousticFrames
from vqaudio.nn.context import Context, MelHead
from vqaudio.nn.encoder import Encoder
from vqaudio.nn.modes import check_evaluating, check_not_traced
from vqaudio.nn.normalizer import Normalizer
from vqaudio.nn.pitch import Pitch, PitchHead
from vqaudio.nn.quantizer import Quantized, build_quantizer
from vqaudio.nn.regularizers import jitter
from vqaudio.nn.source_filter import IstftVocoder
from vqaudio.nn.stft_loss import WINDOWS, MultiResolutionSTFT
from vqaudio.nn.units import UnitHead, UnitLosses
from vqaudio.nn.wavenet import WaveNet
from vqaudio.sampling.config import SamplingConfig, SamplingOptions
from vqaudio.speech import synthesis
from vqaudio.speech.config import CODE_PARTS, TRAINED_VOCODERS
from vqaudio.speech.config import SpeechVQVAEConfig as SpeechVQVAEConfig
from vqaudio.speech.griffin_lim import griffin_lim
from vqaudio.speech.speakers import speaker_id, speaker_ids
from vqaudio.speech.tokenizer import CHUNK_FRAMES, audio_pieces, encode_in_chunks
from vqaudio.speech.tokens import Tokens
from vqaudio.speech.vocoders import MISSING, NO_SPECTRUM, VOCODERS, PitchSource, Vocoder, check_streams
from vqaudio.torch_defaults import one_thread, with_own_defaults

VOICING_WEIGHT, PITCH_WEIGHT = 0.3, 1.0  # of the losses of voicing (nats) and F0 (octaves squared)
EDGE_FRAMES = 8  # at both ends of a crop that the loss of the vocoder istft leaves out


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
        self.spectrum = (
            MelHead(cfg.spectrum, cfg.context.channels, cfg.encoder.hop, cfg.sample_rate)
            if cfg.spectrum.n_mels
            else None
        )
        frame_hop, num_speakers = cfg.spectrum.hop_length, len(cfg.speakers)
        self.pitch = (
            PitchHead(cfg.pitch, cfg.context.channels, self.hop, frame_hop, num_speakers, cfg.sample_rate)
            if cfg.pitch.win_length
            else None
        )
        features = cfg.spectrum.n_mels + NUM_PITCH_FEATURES
        self.acoustic = Context(cfg.acoustic, features, 0) if cfg.acoustic.dilations else None
        self.istft = (
            IstftVocoder(cfg.istft, cfg.spectrum.n_mels, frame_hop, cfg.sample_rate) if cfg.istft.dilations else None
        )
        self.stft_loss = MultiResolutionSTFT() if cfg.istft.dilations else None
        self.units = UnitHead(cfg.units, cfg.encoder.dim, speaker_dim, self.hop) if cfg.predicts_units else None
        self.decoder = WaveNet(cfg.decoder)
        self._fingerprint = CachedFingerprint()
        nn.ModuleList(self._frozen()).requires_grad_(False)
        if self.decoder.speaker is not None:  # the context network and the unit head use the speaker embedding too
            kept = cfg.stage == "istft" or (cfg.stage == "decoder" and self.acoustic is not None)
            self.decoder.speaker.requires_grad_(not kept)

    # --- training ---

    def _frozen(self) -> tuple[nn.Module, ...]:
        """The modules that are not trained in this stage."""
        context, vocoders = ("context", "spectrum", "pitch"), ("decoder", "acoustic", "istft")
        names = {
            "joint": (),
            "codes": vocoders,
            "context": (*CODE_PARTS, *vocoders),
            "decoder": (*CODE_PARTS, "istft", *(context if self.acoustic is not None else ())),
            "istft": (*CODE_PARTS, *context, "decoder", "acoustic"),
        }[self.cfg.stage]
        if self.cfg.predicts_units and self.spectrum is None:
            names = (*names, "context")  # no loss depends on it
        return tuple(part for name in names if (part := getattr(self, name)) is not None)

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
        audio: (B, T) the speech of `target` before mu-law, whose spectrum and pitch are predicted; None: `target` is
        decoded, with its quantization noise. In stage: context `wav` takes its place.

        Equation 3 of the paper: the negative log-likelihood in nats, averaged over valid samples, and the loss of the
        quantizer; with `spectrum`, also the squared error of the log-mel spectrum; with target: units its losses, and
        the spectrum is predicted from codes without gradient; with `pitch`, the cross-entropy of voicing and the
        squared error of F0; with `istft`, the multi-resolution STFT loss of its resynthesis of `wav`, the only loss of
        stage: istft. Each mean is weighted with the fraction of valid samples or frames, so that the mean loss of the
        parts of a global batch is the loss of the global batch.
        """
        if self.cfg.stage == "istft":
            return self._istft_loss(wav[:, 0], lengths)
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
            own, own_logs = self._unit_loss(self.unit_losses(z_q, speaker, mask, units, cepstra), units)
            loss, logs, z_q = loss + own, logs | own_logs, z_q.detach()
        cond = self.conditioned(z_q, speaker)
        if self.cfg.stage == "context":
            audio = wav[:, 0]  # at the level of the encoder input: codes that tell the level can be decoded at it
        audio = self._audio(target, lengths) if audio is None else audio
        if "wavenet" in TRAINED_VOCODERS[self.cfg.stage]:
            before = cond if self.acoustic is None else self.acoustic(self._true_frames(audio, z.shape[2]).features())
            nll = self._nll_of_each(target, before, speaker, lengths).sum() / lengths.sum().clamp(min=1)
            loss = loss + nll * (lengths.sum() / target.numel())
            logs["bits_per_sample"] = nll.detach() / math.log(2)
        if self.spectrum is not None:
            error = self._spectrum_error_of_each(audio, cond, lengths).sum() / mask.sum().clamp(min=1)
            loss = loss + self.cfg.spectrum_loss_weight * error * valid_frames
            logs["spectrum_error"] = error.detach()
        if self.pitch is not None:
            own, own_logs = self._pitch_loss(self._known(speaker), cond, audio, mask)
            loss, logs = loss + own * valid_frames, logs | own_logs
        if self.istft is not None and "istft" in TRAINED_VOCODERS[self.cfg.stage]:
            own, own_logs = self._istft_loss(wav[:, 0], lengths)
            loss, logs = loss + own, logs | own_logs
        return loss, logs

    def _pitch_loss(
        self, speaker: Tensor | None, cond: Tensor, audio: Tensor, mask: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Speakers (B,), conditioning (B, C, N), audio (B, T), mask (B, N) -> loss () of a mean frame, logs."""
        assert self.pitch is not None
        found, frames = self.pitch.losses(cond, speaker, audio, mask), mask.sum().clamp(min=1) * self._frames_per_code
        nats, error = found.cross_entropy.sum() / frames, found.squared_error.sum() / frames
        logs = {
            "voicing_bits": nats.detach() / math.log(2),
            "pitch_error": found.squared_error.detach().sum() / found.num_voiced.sum().clamp(min=1),
        }
        return VOICING_WEIGHT * nats + PITCH_WEIGHT * error, logs

    def _istft_loss(self, wav: Tensor, lengths: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Waveforms (B, T), valid samples (B,) -> loss (), logs. Crops shorter than T count whole, their padding too."""
        convergence, distance = self.resynthesis_losses(wav)
        logs = {"spectral_convergence": convergence.detach(), "log_stft_error": distance.detach()}
        return (convergence + distance) * (lengths.sum() / wav.numel()), logs

    def resynthesis_losses(self, wav: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T) -> STFT losses (), () of the vocoder istft, given the spectrum and pitch of the speech itself.

        EDGE_FRAMES at both ends, whose windows are not within the crop, do not count. Raises ValueError for crops that
        are too short for the longest window.
        """
        assert self.istft is not None and self.stft_loss is not None
        hop = self.istft.hop
        edge = EDGE_FRAMES * hop
        if wav.shape[1] < 2 * edge + max(WINDOWS):
            raise ValueError(
                f"the vocoder istft is trained on crops of at least {2 * edge + max(WINDOWS)} samples, got "
                f"{wav.shape[1]}; set crops.samples and validation.samples"
            )
        with torch.autocast(wav.device.type, enabled=False):
            resynthesis = self.istft(self._true_frames(wav, wav.shape[1] // self.hop))[:, edge:-edge]
            return self.stft_loss(resynthesis, wav[:, edge:][:, : resynthesis.shape[1]])

    def _true_frames(self, audio: Tensor, num_codes: int) -> AcousticFrames:
        """(B, T) -> the frames of the speech itself, (B, num_codes * R), with noise on the spectrum in training."""
        assert self.spectrum is not None and self.pitch is not None
        num_frames = num_codes * self._frames_per_code
        spectrum = self.spectrum.log_mel.centred(audio, num_frames)
        if self.training:
            spectrum = spectrum + self.cfg.frame_noise * torch.randn_like(spectrum)
        return AcousticFrames(spectrum, self.pitch.tracker(audio, num_frames))

    @property
    def _frames_per_code(self) -> int:
        """R, of spectra."""
        return self.hop // self.cfg.spectrum.hop_length

    def _audio(self, target: Tensor, lengths: Tensor) -> Tensor:
        """Mu-law classes (B, T), valid samples (B,) -> waveforms (B, T), zero in padding."""
        levels = mulaw_decode(torch.arange(self.cfg.decoder.num_classes), self.cfg.decoder.num_classes)
        wav = levels.to(target.device)[target]
        return wav * (torch.arange(target.shape[1], device=wav.device) < lengths[:, None])

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

    def _unit_loss(self, found: UnitLosses, units: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted losses, () and logs; sums divided by what they are for a batch without padding."""
        c, frames = self.cfg.units, units.shape[0] * (units.shape[1] - 2 * self.cfg.units.margin)
        cross_entropy = found.cross_entropy.sum() / (frames * len(c.cluster_offsets))
        squared_error = found.squared_error.sum() / (frames * len(c.cepstrum_offsets))
        logs = {
            "cluster_bits": found.cross_entropy.detach().sum() / found.num_clusters.sum().clamp(min=1) / math.log(2),
            "cepstrum_error": found.squared_error.detach().sum() / found.num_cepstra.sum().clamp(min=1),
        }
        return c.cluster_weight * cross_entropy + c.cepstrum_weight * squared_error, logs

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

        A WaveNet that reads acoustic frames is given those that the codes predict.
        """
        cond = self.conditioned(z_q, speaker)
        if self.acoustic is not None:
            cond = self.acoustic(self._predicted_frames(cond, self._known(speaker)).features())
        return self._nll_of_each(target, cond, speaker, lengths)

    @torch.no_grad()
    def pitch_errors(self, batch: dict[str, Tensor], cond: Tensor) -> Tensor:
        """A batch as in training, conditioning (B, C, N) -> (3,) float64 on the CPU, sums over its valid frames.

        Frames with the wrong voicing, squared error of F0 in octaves squared over voiced frames, voiced frames.
        """
        assert self.pitch is not None
        lengths, target = batch["lengths"], batch["target"]
        audio = batch["audio"] if "audio" in batch else self._audio(target, lengths)
        predicted = self.pitch.predict(cond, self._known(batch["speaker"]))
        true = self.pitch.tracker(audio, predicted.voicing.shape[1])
        valid = self.valid_frames(lengths, cond.shape[2]).repeat_interleave(self._frames_per_code, dim=1)
        wrong = (predicted.voicing != true.voicing) * valid
        voiced = true.voicing * valid
        squared = (predicted.octaves - true.octaves).square() * voiced
        return torch.stack([wrong.sum(), squared.sum(), voiced.sum()]).double().cpu()

    def _predicted_frames(self, cond: Tensor, speaker: Tensor | None) -> AcousticFrames:
        """(B, C, N), (B,) -> (B, N * R)."""
        assert self.spectrum is not None and self.pitch is not None
        return AcousticFrames(self.spectrum(cond), self.pitch.predict(cond, speaker))

    def _known(self, speaker: Tensor) -> Tensor | None:
        """The speakers of a batch (B,); None for a model without speakers."""
        return speaker if self.speakers else None

    def spectrum_error_of_each(
        self, target: Tensor, cond: Tensor, lengths: Tensor, audio: Tensor | None = None
    ) -> Tensor:
        """Mean squared error of the log-mel spectrum, summed over the valid frames of each utterance, (B,).

        audio: as of `forward`.
        """
        return self._spectrum_error_of_each(self._audio(target, lengths) if audio is None else audio, cond, lengths)

    def _spectrum_error_of_each(self, audio: Tensor, cond: Tensor, lengths: Tensor) -> Tensor:
        assert self.spectrum is not None
        return self.spectrum.errors(cond, audio, self.valid_frames(lengths, cond.shape[2])).sum(1)

    def conditioned(self, z_q: Tensor, speaker: Tensor | None, decoder: WaveNet | None = None) -> Tensor:
        """Code vectors (B, D, N), speakers (B,) -> conditioning (B, C, N) of `decoder` (None: the model's own)."""
        embed = (decoder or self.decoder).speaker
        embedding = None if embed is None or speaker is None else embed(speaker)
        return z_q if self.context is None else self.context(z_q, embedding)

    def _nll_of_each(self, target: Tensor, cond: Tensor, speaker: Tensor, lengths: Tensor) -> Tensor:
        logits, _ = self.decoder(self.decoder.shift(target), cond, self._known(speaker))
        flat = rearrange(logits, "b q t -> (b t) q")
        losses = F.cross_entropy(flat.float(), target.flatten(), reduction="none").view(target.shape)
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

    @with_own_defaults
    @torch.inference_mode()
    def encode_stream(self, pieces: Iterable[Tensor]) -> Iterator[Tensor]:
        """Consecutive pieces (T,) of an utterance, of any length -> its codes (N,) int64, chunk by chunk.

        Memory does not grow with the length of the utterance. The last codes follow when the pieces end. Raises
        RuntimeError in training mode.
        """
        check_evaluating(self)
        check_not_traced("encoding in chunks")
        for z in encode_in_chunks(self.encoder, pieces):
            # always one shape, as in the encoder: the last chunk is padded with its last frame
            whole = F.pad(z, (0, CHUNK_FRAMES - z.shape[2]), mode="replicate")
            yield self.quantizer.encode(self.normalizer(whole))[0, : z.shape[2]]

    @with_own_defaults
    def tokenize(
        self,
        audio: str | Path | np.ndarray | Tensor,
        sample_rate: int | None = None,
        *,
        fingerprint: str | None = None,
    ) -> Tokens:
        """A file, or a waveform (T,) in [-1, 1] at `sample_rate` (this model's, if left out) -> Tokens.

        Files of any rate and channel count are mixed to mono and resampled. `fingerprint`, this model's, saves loops
        over many files from comparing all weights for each. Raises AudioError for a file that holds no usable audio,
        ValueError for such a waveform.
        """
        num_samples = 0

        def pieces() -> Iterator[Tensor]:
            nonlocal num_samples
            for piece in audio_pieces(audio, sample_rate, self.sample_rate):
                num_samples += len(piece)
                yield piece

        codes = bytearray()  # one growing block: many small tensors would fragment the memory
        for chunk in self.encode_stream(pieces()):
            codes += chunk.cpu().numpy().tobytes()
        whole = torch.frombuffer(codes, dtype=torch.int64)
        return Tokens(whole, num_samples, self.sample_rate, self.hop, fingerprint or self.fingerprint)

    # --- codes to speech ---

    def decode(
        self,
        tokens: Tokens,
        speaker: str | None = None,
        sampling: SamplingConfig = SamplingConfig(),
        vocoder: Vocoder | None = None,
        pitch: Pitch | None = None,
        **options: Unpack[SamplingOptions],
    ) -> Tensor:
        """Tokens -> waveform (T,) float32 in [-1, 1] of `speaker`; as `decode_batch`."""
        return self.decode_batch([tokens], speaker, sampling, vocoder, [pitch], **options)[0]

    @with_own_defaults
    def decode_batch(
        self,
        batch: Sequence[Tokens],
        speaker: str | Sequence[str] | None = None,
        sampling: SamplingConfig = SamplingConfig(),
        vocoder: Vocoder | None = None,
        pitch: Sequence[Pitch | None] | None = None,
        **options: Unpack[SamplingOptions],
    ) -> list[Tensor]:
        """Tokens of several utterances, one speaker for all or one for each -> waveforms (T,) float32 in [-1, 1].

        `vocoder`: one of `vocoders`; None: the model's default. `sampling` defines how the WaveNet draws samples;
        single fields of it can be given as keyword arguments instead (`temperature=0.8, top_p=0.9`). Of it, the other
        vocoders use the seed only: Griffin-Lim for its initial phases, istft for its noise. `pitch`: of each utterance,
        as `pitch_of` finds it, moved to the voice of its speaker; None: as the codes predict it. Griffin-Lim needs
        none. The waveform of an utterance depends on its codes, the speaker, the vocoder, the pitch and `sampling`;
        with the compiled kernels and without the WaveNet on nothing else, otherwise on the rest of the batch through
        rounding. Raises ValueError for tokens of another model, unknown speakers, options out of range and a vocoder
        that the model does not have.
        """
        sampling = sampling.override(**options)
        vocoder = self.check_vocoder(vocoder)
        speakers = self._speaker_ids(speaker, len(batch))
        self.check_tokens(*batch)
        if not batch:
            return []
        lengths = [tokens.num_samples for tokens in batch]
        each = [None if speakers is None else speakers[row : row + 1] for row in range(len(batch))]
        if vocoder == "griffin-lim":
            assert self.spectrum is not None
            spectra = map(self._predicted_spectrum, batch, each)
            log_mel, seed = self.spectrum.log_mel, sampling.seed
            return [griffin_lim(log_mel, *pair, seed) for pair in zip(spectra, lengths, strict=True)]
        moved = [self._moved(own, *pair) for own, *pair in zip(pitch or [None] * len(batch), batch, each, strict=True)]
        if vocoder == "istft":
            streams = [
                self._vocoder_stream(self._contextualized([tokens.codes], tokens.num_samples, who), who, own, sampling)
                for tokens, who, own in zip(batch, each, moved, strict=True)
            ]
            return [torch.cat(list(stream)) for stream in streams]
        rows = map(self._conditioning, batch, each, moved)
        cond = nn.utils.rnn.pad_sequence([row.T for row in rows], batch_first=True).mT  # (B, C, N)
        return synthesis.synthesize(self.decoder, cond, speakers, lengths, sampling)

    def _contextualized(
        self, codes: Iterable[Tensor], num_samples: int | None, speaker: Tensor | None
    ) -> Iterator[synthesis.Piece]:
        """Consecutive codes (N,), speaker (1,) -> pieces after the context network, (C, N)."""
        pieces = synthesis.pieces(self.quantizer, codes, self.hop, num_samples)
        return synthesis.contextualize(self.context, self.decoder, pieces, speaker, self.hop)

    def _frames(
        self, pieces: Iterable[synthesis.Piece], speaker: Tensor | None, pitch: Pitch | None
    ) -> Iterator[synthesis.FramePiece]:
        """Pieces after the context network, speaker (1,), pitch (1, N * R) or None -> acoustic frames."""
        assert self.spectrum is not None and self.pitch is not None
        return synthesis.predict_frames(self.spectrum, self.pitch, pieces, speaker, pitch)

    def _vocoder_stream(
        self, pieces: Iterable[synthesis.Piece], speaker: Tensor | None, pitch: Pitch | None, sampling: SamplingConfig
    ) -> Iterator[Tensor]:
        """Pieces after the context network -> waveform by the vocoder istft, in pieces (T,)."""
        assert self.istft is not None
        return synthesis.render_stream(self.istft, self._frames(pieces, speaker, pitch), sampling.seed)

    def _decoder_pieces(
        self, pieces: Iterable[synthesis.Piece], speaker: Tensor | None, pitch: Pitch | None
    ) -> Iterator[synthesis.Piece]:
        """Pieces after the context network -> pieces with what the WaveNet is conditioned on."""
        if self.acoustic is None:
            return iter(pieces)
        frames = self._frames(pieces, speaker, pitch)
        return synthesis.encode_frames(self.acoustic, frames, self.cfg.spectrum.hop_length)

    def _conditioning(self, tokens: Tokens, speaker: Tensor | None, pitch: Pitch | None = None) -> Tensor:
        """Tokens, speaker (1,) -> what the WaveNet is conditioned on, (C, N)."""
        whole = self._contextualized([tokens.codes], tokens.num_samples, speaker)
        return torch.cat([piece.cond for piece in self._decoder_pieces(whole, speaker, pitch)], dim=1)

    def _moved(self, pitch: Pitch | None, tokens: Tokens, speaker: Tensor | None) -> Pitch | None:
        """The pitch of an utterance, in the voice of `speaker` (1,), for all frames of its codes."""
        if pitch is None or self.pitch is None:
            return None
        own = self.pitch.moved(Pitch(*(value.cpu() for value in pitch)), None if speaker is None else speaker.cpu())
        return own.frames(len(tokens.codes) * self._frames_per_code)

    @torch.no_grad()
    def _predicted_spectrum(self, tokens: Tokens, speaker: Tensor | None) -> Tensor:
        """Tokens, speaker (1,) -> (N * R, F)."""
        assert self.spectrum is not None
        with one_thread(), torch.autocast(self.device.type, enabled=False):
            pieces = self._contextualized([tokens.codes], None, speaker)
            return self.spectrum(torch.cat([piece.cond for piece in pieces], dim=1)[None])[0]

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
        return self._predicted_spectrum(tokens, speakers)

    @property
    def vocoders_with_pitch(self) -> tuple[Vocoder, ...]:
        """Those of `vocoders` that are told the pitch."""
        return tuple(n for n in self.vocoders if n == "istft" or (n == "wavenet" and self.acoustic is not None))

    @with_own_defaults
    def pitch_of(self, audio: str | Path | np.ndarray | Tensor, sample_rate: int | None = None) -> Pitch:
        """Voicing and F0 of speech, for `decode_batch`; the arguments are those of `tokenize`.

        Raises AudioError and ValueError as `tokenize` does, and ValueError for a model that predicts no pitch.
        """
        if self.pitch is None:
            raise ValueError("this model has no vocoder that is told the pitch (pitch.win_length)")
        wav = torch.cat(list(audio_pieces(audio, sample_rate, self.sample_rate)))
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
        **options: Unpack[SamplingOptions],
    ) -> Iterator[Tensor]:
        """The waveform of an utterance in pieces, (T,) float32 in [-1, 1], which concatenated equal `decode`.

        `tokens`: Tokens, or codes of this model as they arrive, one at a time or several (N,); Tokens are decoded 16
        codes at a time. Samples are returned as soon as the codes that they depend on have arrived: with a WaveNet
        that is conditioned on the codes and no look-ahead of the context network, the `hop` samples of a code at once,
        otherwise later by the look-ahead of the networks; the vocoder istft works in blocks of 16 frames. `pitch`: as
        of `decode_batch`, for Tokens only. Raises as `decode` does, before the first piece where possible, and
        ValueError for the vocoder "griffin-lim", whose phases depend on the whole utterance.
        """
        vocoder = self.check_vocoder(vocoder)
        check_streams(vocoder)
        sampling = sampling.override(**options)
        who = self._speaker_ids(speaker, 1)
        if isinstance(tokens, Tokens):
            self.check_tokens(tokens)
            codes, num_samples = tokens.codes.split(synthesis.STREAM_FRAMES), tokens.num_samples
            pitch = self._moved(pitch, tokens, who)
        elif pitch is not None:
            raise ValueError("pitch is for whole Tokens, got codes as they arrive; leave it out")
        else:
            codes, num_samples = (synthesis.checked_codes(part, self.codebook_size) for part in tokens), None
        pieces = self._contextualized(codes, num_samples, who)
        if vocoder == "istft":
            return self._vocoder_stream(pieces, who, pitch, sampling)
        return synthesis.synthesize_stream(self.decoder, self._decoder_pieces(pieces, who, pitch), who, sampling)

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

        `pitch`, for vocoders that are told it: "source", that of the audio, moved to the voice of `speaker`; "codes",
        as the codes predict it. The other arguments are those of `tokenize` and `decode_batch`.
        """
        vocoder = self.check_vocoder(vocoder)
        self._speaker_ids(speaker, 1)  # refuse an unknown speaker before the audio is encoded
        sampling = sampling.override(**options)
        tokens = self.tokenize(audio, sample_rate)
        told = pitch == "source" and vocoder in self.vocoders_with_pitch
        return self.decode(tokens, speaker, sampling, vocoder, self.pitch_of(audio, sample_rate) if told else None)

    def check_tokens(self, *batch: Tokens) -> None:
        """Raises ValueError for tokens that this model cannot decode."""
        fingerprint = self.fingerprint  # once: it compares all weights
        for tokens in batch:
            if tokens.model != fingerprint:
                raise ValueError(
                    f"these tokens were made by model {tokens.model}, this is model {fingerprint}; "
                    "decode them with the model that made them"
                )
            if (tokens.sample_rate, tokens.hop) != (self.sample_rate, self.hop):
                raise ValueError(
                    f"sample_rate and hop must be those of the model, {self.sample_rate} and {self.hop}, "
                    f"got {tokens.sample_rate} and {tokens.hop}"
                )
            synthesis.checked_codes(tokens.codes, self.codebook_size)

    def check_vocoder(self, vocoder: Vocoder | None = None) -> Vocoder:
        """The vocoder to use, None: the model's default. Raises ValueError for one that is not among `vocoders`."""
        chosen = vocoder or self.cfg.vocoder
        if chosen not in VOCODERS:
            raise ValueError(f"vocoder must be {' or '.join(map(repr, VOCODERS))}, got {chosen!r}")
        if chosen not in self.vocoders:
            raise ValueError(MISSING[chosen])
        return chosen

    def _speaker_ids(self, speaker: str | Sequence[str] | None, count: int) -> Tensor | None:
        ids = speaker_ids(self.speakers, speaker, count)
        return None if ids is None else torch.tensor(ids, device=self.device)
