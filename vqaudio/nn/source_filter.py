"""The vocoder istft: log-mel spectrum, voicing and F0 of frames to a waveform, by filters that a network predicts.

The source of voiced sounds is a train of pulses at F0, that of breath and fricatives is white noise. A network at the
frame rate predicts the frequency response of a filter for each, as in the harmonic-plus-noise model of Engel et al.,
"DDSP" (ICLR 2020); both sources are filtered in the short-time Fourier domain, and the inverse transform makes the
samples, as in Siuzdak, "Vocos" (arXiv 2306.00814). So the phases are those of the sources, and the network has to
predict no phase.

Shapes: B batch, N frames, T samples (T = N * hop), F mel bands, C channels, P points of a frequency response, K FFT
bins.

The windows end at the end of their frame, so samples are complete DELAY_FRAMES frames later. In decoding, the spectrum
of the result is then corrected (`spectral_correction.py`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vqaudio.nn.acoustic import NUM_PITCH_FEATURES, AcousticFrames
from vqaudio.nn.context import CONTEXT_CHUNK, Context, ContextConfig, ContextState
from vqaudio.nn.linear import Linear
from vqaudio.nn.log_mel import LogMelConfig
from vqaudio.nn.pitch import MEAN_OCTAVES, Pitch
from vqaudio.nn.spectral_correction import CorrectionState, SpectralCorrection
from vqaudio.nn.stft_loss import MultiResolutionSTFT

OVERLAP = 4  # windows over each sample
DELAY_FRAMES = OVERLAP - 1  # frames after which the samples of a frame are complete
HIGHEST = 0.975  # highest harmonic, as a fraction of half the sample rate
LOG_RANGE = (-14.0, 5.0)  # nepers, of the frequency responses
LOG_START = -4.0  # of the untrained filters
MIN_PHASE = 1e-4  # radians from a pulse within which its shape is that at its centre


@dataclass(frozen=True)
class IstftConfig(ContextConfig):
    """Options of IstftVocoder. Without dilations there is none, and the other options have no effect."""

    channels: int = 192
    """C, channels of the blocks"""
    lookahead: int = 4
    """frames after each frame that its filters depend on, at least 1"""
    points: int = 129
    """P, frequencies from 0 to half the sample rate for which a filter is predicted; linear in between"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dilations and self.lookahead < 1:
            raise ValueError(f"istft.lookahead must be at least 1 frame, got {self.lookahead}")
        if self.points < 2:
            raise ValueError(f"istft.points must be at least 2, got {self.points}")


class RenderState(NamedTuple):
    """State between two blocks of frames."""

    pitch: Pitch  # (B, 1) of the frame before
    phase: Tensor  # (B, 1) float64, in periods: where the last pulse period stands
    sources: Tensor  # (B, 2, window - hop): the last samples of pulses and of noise
    tail: Tensor  # (B, FFT size - hop): responses so far that reach beyond the block


class VocoderState(NamedTuple):
    """State of streaming computation of one utterance."""

    context: ContextState
    hidden: Tensor  # (1, C, M): output of the network for frames that are not rendered
    frames: AcousticFrames  # (1, M + look-ahead) these frames and those after them
    render: RenderState
    spectra: Tensor | None  # (1, DELAY_FRAMES, F) of the frames before these; None: there were none
    correction: CorrectionState
    to_skip: int  # samples still to drop: the delay of the first ones


class IstftVocoder(nn.Module):
    """Acoustic frames -> waveform."""

    window: Tensor  # (window,)
    causal: Tensor  # (FFT size,) weights that make a cepstrum that of a minimum-phase response

    def __init__(self, cfg: IstftConfig, spectrum: LogMelConfig, sample_rate: int):
        """spectrum: of the acoustic frames. Raises ValueError as SpectralCorrection does."""
        super().__init__()
        self.cfg, self.hop, self.sample_rate = cfg, spectrum.hop_length, sample_rate
        hop = self.hop
        self.net = Context(cfg, spectrum.n_mels + NUM_PITCH_FEATURES, 0)
        self.correction = SpectralCorrection(spectrum, sample_rate)
        self.out = Linear(cfg.channels, 2 * cfg.points)
        nn.init.normal_(self.out.weight, std=0.01)
        nn.init.constant_(self.out.bias, LOG_START)
        self.loss = MultiResolutionSTFT()
        self.size = 2 ** math.ceil(math.log2(1.5 * OVERLAP * hop))  # FFT: room for responses of half a window
        with torch.device("cpu"):
            self.register_buffer("window", torch.hann_window(OVERLAP * hop), persistent=False)
            causal = torch.zeros(self.size)
            causal[[0, self.size // 2]], causal[1 : self.size // 2] = 1.0, 2.0
            self.register_buffer("causal", causal, persistent=False)

    # --- whole crops, in training ---

    def forward(self, frames: AcousticFrames) -> Tensor:
        """N frames -> samples of the first N - DELAY_FRAMES, (B, T); random noise and phase of the first pulse."""
        hidden = self.net(frames.features())
        state = self._start(len(hidden))
        state = state._replace(phase=torch.rand_like(state.phase))
        noise = torch.randn(len(hidden), hidden.shape[2] * self.hop, device=hidden.device)
        with torch.autocast(hidden.device.type, enabled=False):
            wav, _ = self._render(hidden.float(), frames.pitch.repeated(1), noise, state)
        return wav[:, DELAY_FRAMES * self.hop :]

    @torch.no_grad()
    def corrected(self, frames: AcousticFrames) -> Tensor:
        """N frames -> N * hop samples (B, T), corrected to their spectra, like decoding; noise and phase are random."""
        delay = self.correction.delay
        longer = frames.repeated(-(-delay // self.hop))
        wav = self(longer.repeated(DELAY_FRAMES))
        with torch.autocast(wav.device.type, enabled=False):
            wav, _ = self.correction(wav, longer.spectrum, self.correction.start(len(wav)))
        return wav[:, delay:][:, : frames.spectrum.shape[1] * self.hop]

    # --- one utterance in pieces ---

    def start(self) -> VocoderState:
        """The state before the first frame."""
        like = self.out.weight
        none = like.new_zeros(1, 0)
        frames = AcousticFrames(like.new_zeros(1, 0, self.correction.log_mel.cfg.n_mels), Pitch(none, none))
        hidden, delay = like.new_zeros(1, self.cfg.channels, 0), DELAY_FRAMES * self.hop + self.correction.delay
        return VocoderState(self.net.start(like), hidden, frames, self._start(1), None, self.correction.start(1), delay)

    def extend(
        self, frames: AcousticFrames, state: VocoderState, generator: torch.Generator
    ) -> tuple[Tensor, VocoderState]:
        """The next frames of an utterance (1, N) -> the samples that are complete, (T,), next state.

        Computed in blocks of CONTEXT_CHUNK frames, so the samples have the same bits however the utterance is divided.
        `generator` draws the noise.
        """
        hidden, context = self.net.extend(frames.features(), None, state.context)
        hidden = torch.cat([state.hidden, hidden], dim=2)
        frames = AcousticFrames.joined([state.frames, frames])
        return self._rendered(state._replace(context=context, hidden=hidden, frames=frames), generator)

    def finish(self, state: VocoderState, generator: torch.Generator) -> Tensor:
        """End of the utterance -> the remaining samples (T,), as many as its frames have in total."""
        missing = state.frames.spectrum.shape[1]  # frames that are not rendered
        if not missing:
            return state.hidden.new_zeros(0)
        hidden = torch.cat([state.hidden, self.net.finish(None, state.context)], dim=2)  # (1, C, missing)
        delay = DELAY_FRAMES * self.hop + self.correction.delay
        added = -(-delay // self.hop) + CONTEXT_CHUNK
        hidden = torch.cat([hidden, hidden[:, :, -1:].expand(-1, -1, added)], dim=2)
        samples = missing * self.hop + delay - state.to_skip
        state = state._replace(hidden=hidden, frames=state.frames.repeated(added + 1))
        return self._rendered(state, generator)[0][:samples]

    def _rendered(self, state: VocoderState, generator: torch.Generator) -> tuple[Tensor, VocoderState]:
        """Renders all whole blocks -> (T,), next state."""
        context, hidden, frames, render, spectra, correction, to_skip = state
        wavs = [self.window.new_zeros(0)]
        with torch.autocast(hidden.device.type, enabled=False):
            while hidden.shape[2] >= CONTEXT_CHUNK:
                noise = torch.randn(1, CONTEXT_CHUNK * self.hop, generator=generator).to(hidden)
                own = frames.part(0, CONTEXT_CHUNK + 1)
                wav, render = self._render(hidden[:, :, :CONTEXT_CHUNK].contiguous(), own.pitch, noise, render)
                # the samples that are rendered now are those of frames DELAY_FRAMES earlier
                before = own.spectrum[:, :1].expand(-1, DELAY_FRAMES, -1) if spectra is None else spectra
                known = torch.cat([before, own.spectrum[:, :CONTEXT_CHUNK]], dim=1)
                wav, correction = self.correction(wav, known[:, :CONTEXT_CHUNK], correction)
                spectra, hidden = known[:, CONTEXT_CHUNK:], hidden[:, :, CONTEXT_CHUNK:]
                frames = frames.part(CONTEXT_CHUNK, None)
                wavs.append(wav[0])
        wav = torch.cat(wavs)
        skipped = min(to_skip, len(wav))
        return wav[skipped:], VocoderState(context, hidden, frames, render, spectra, correction, to_skip - skipped)

    # --- frames to samples ---

    def _start(self, rows: int) -> RenderState:
        like, past = self.window, len(self.window) - self.hop
        unvoiced = Pitch(like.new_zeros(rows, 1), like.new_full((rows, 1), MEAN_OCTAVES))
        phase = torch.zeros(rows, 1, dtype=torch.float64, device=like.device)
        return RenderState(unvoiced, phase, like.new_zeros(rows, 2, past), like.new_zeros(rows, self.size - self.hop))

    def _render(self, hidden: Tensor, pitch: Pitch, noise: Tensor, state: RenderState) -> tuple[Tensor, RenderState]:
        """(B, C, N), pitch of these frames and of the next one (B, N + 1), noise (B, T) -> (B, T), next state."""
        pulses, phase = self._pulses(pitch, state)
        sources = torch.cat([state.sources, torch.stack([pulses, noise], dim=1)], dim=2)  # (B, 2, past + T)
        windows = sources.unfold(2, len(self.window), self.hop) * self.window  # (B, 2, N, window)
        spectra = torch.fft.rfft(windows, self.size) * self._responses(hidden)  # (B, 2, N, K)
        overlap = torch.fft.irfft(spectra.sum(1), self.size) / (OVERLAP / 2)  # (B, N, FFT size): Hann windows add to 2
        steps = noise.shape[1]
        added = F.fold(overlap.mT, (1, steps - self.hop + self.size), (1, self.size), stride=(1, self.hop))[:, 0, 0]
        added = added + F.pad(state.tail, (0, steps))
        last = Pitch(*(value[:, -2:-1] for value in pitch))
        return added[:, :steps], RenderState(last, phase, sources[:, :, steps:], added[:, steps:])

    def _responses(self, hidden: Tensor) -> Tensor:
        """(B, C, N) -> complex frequency responses of minimum phase of the two filters (B, 2, N, K)."""
        points = rearrange(self.out(hidden.mT), "b n (two p) -> (b n) two p", two=2).clamp(*LOG_RANGE)
        log_magnitude = F.interpolate(points, self.size // 2 + 1, mode="linear", align_corners=True)
        cepstrum = torch.fft.irfft(log_magnitude, self.size) * self.causal
        response = torch.exp(torch.fft.rfft(cepstrum, self.size))
        return rearrange(response, "(b n) two k -> b two n k", b=len(hidden))

    def _pulses(self, pitch: Pitch, state: RenderState) -> tuple[Tensor, Tensor]:
        """Pitch (B, N + 1) -> pulses (B, T) with a power of 1 in voiced frames and 0 in others, phase (B, 1)."""
        octaves = self._interpolated(torch.cat([state.pitch.octaves, pitch.octaves], dim=1))
        voicing = self._interpolated(torch.cat([state.pitch.voicing, pitch.voicing], dim=1))
        hertz = 2**octaves
        phase = state.phase + torch.cumsum(hertz.double() / self.sample_rate, dim=1)
        harmonics = torch.floor(HIGHEST * self.sample_rate / 2 / hertz).clamp(min=1)
        half = math.pi * (phase % 1).float()
        # the sum of so many cosines in closed form
        close = half.sin().abs() < MIN_PHASE
        ratio = ((2 * harmonics + 1) * half).sin() / half.sin().masked_fill(close, 1.0)
        cosines = (torch.where(close, 2 * harmonics + 1, ratio) - 1) / 2
        return voicing * cosines * torch.sqrt(2 / harmonics), phase[:, -1:] % 1

    def _interpolated(self, values: Tensor) -> Tensor:
        """Values at the centres of N + 2 frames (B, N + 2) -> at the samples of the N in the middle (B, T)."""
        times = (torch.arange(self.hop, device=values.device) + 0.5) / self.hop + 0.5  # in frames
        before, at, after = values[:, :-2, None], values[:, 1:-1, None], values[:, 2:, None]
        rising = torch.where(times < 1, before + times * (at - before), at + (times - 1) * (after - at))
        return rearrange(rising, "b n hop -> b (n hop)")
