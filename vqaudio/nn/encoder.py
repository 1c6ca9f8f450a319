"""The speech encoder: strided and dilated causal convolutions with a fixed look-ahead, on samples or log-mel features.

Shapes: B batch, T samples, N frames (N = ceil(T / hop)), C channels, D code width.

All convolutions are causal. The future context of a frame comes from advancing the whole input by `lookahead` samples,
with zeros after the end. Later samples, including padding, therefore never change a frame, and whole, batched, chunked
and streamed encoding agree by construction.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import repeat
from typing import ClassVar, NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vqaudio.fingerprint import FingerprintFields
from vqaudio.nn.conv import CausalConv1d, ResidualBlock1d
from vqaudio.nn.frontend import FrontendConfig, FrontendState, build_frontend
from vqaudio.nn.linear import Linear
from vqaudio.nn.log_mel import LogMelConfig


@dataclass(frozen=True)
class EncoderConfig:
    """Architecture of the encoder. Channels grow as the frame rate falls, which keeps layers at high rates cheap."""

    FINGERPRINT: ClassVar = FingerprintFields(
        always={
            "strides": "strides",
            "channels": "channels",
            "dilations": "dilations",
            "kernel_size": "kernel_size",
            "dim": "width",
            "lookahead": "lookahead",
            "input_gain": "gain",
        },
        nested=("frontend",),
    )

    strides: tuple[int, ...] = (2, 2, 2, 2, 2, 2)
    """downsampling factor of each stage (kernel size 2 x stride); their product is the hop, in samples or mel frames"""
    channels: tuple[int, ...] = (32, 32, 64, 64, 128, 256)
    """output channels of each stage"""
    dilations: tuple[int, ...] = (1, 2, 4, 8)
    """dilations of the residual blocks at the frame rate, one block per entry"""
    kernel_size: int = 3
    """kernel size of the residual blocks"""
    dim: int = 64
    """D, dimension of the encoder output and of a code vector"""
    lookahead: int = 512
    """future context of a frame beyond its own end, in samples"""
    input_gain: float = 10.0
    """gain of waveform input (without front-end); scales speech, with an RMS of about 0.1, to the order of 1"""
    frontend: FrontendConfig = field(default_factory=LogMelConfig)
    """front-end, one of those in the union; `kind` chooses it. With n_mels 0 the convolutions work on the waveform"""

    def __post_init__(self) -> None:
        if not self.strides or min(self.strides) < 1:
            raise ValueError(f"strides must be one or more numbers, all at least 1, got {self.strides}")
        if len(self.channels) != len(self.strides):
            raise ValueError(f"channels must name as many stages as strides ({len(self.strides)}), got {self.channels}")
        if min((*self.channels, *self.dilations, self.kernel_size, self.dim)) < 1:
            raise ValueError(f"channels, dilations, kernel_size and dim must all be at least 1, got {self}")
        if self.lookahead < 0:
            raise ValueError(f"lookahead must be 0 or more samples, got {self.lookahead}")
        if not 0 < self.input_gain < math.inf:
            raise ValueError(f"input_gain must be a finite number above 0, got {self.input_gain}")

    @property
    def hop(self) -> int:
        """Samples per frame (code)."""
        return math.prod(self.strides) * (self.frontend.hop_length if self.frontend.n_mels else 1)

    @property
    def receptive_field(self) -> int:
        """Number of samples that a frame depends on; the last one lies `lookahead` samples after the frame.

        The running averages of a front-end, which forget exponentially, reach further back.
        """
        field = self.conv_field
        return (field - 1) * self.frontend.hop_length + self.frontend.win_length if self.frontend.n_mels else field

    @property
    def conv_field(self) -> int:
        """Number of inputs of the convolutions (frames of the front-end, or samples) that a frame depends on."""
        field = 1 + (self.kernel_size - 1) * sum(self.dilations)  # in frames
        for stride in reversed(self.strides):
            field = (field + 1) * stride  # (field - 1) steps and a window of 2 x stride
        return field


class EncoderState(NamedTuple):
    """State of B streams between two calls of the encoder."""

    pending: Tensor  # (B, 1, P): received samples that are not encoded yet
    to_skip: int  # samples still to drop before the first frame (look-ahead)
    num_samples: int  # received so far
    num_frames: int  # returned so far
    frontend: FrontendState  # of the front-end; empty without one
    pasts: tuple[Tensor, ...]  # of each convolution, (B, past_length, C)


class Encoder(nn.Module):
    """Waveform -> continuous frames of dimension D."""

    def __init__(self, cfg: EncoderConfig, sample_rate: int = 16000):
        """sample_rate: in Hz, for the front-end. Raises ValueError for a front-end that does not fit it."""
        super().__init__()
        self.cfg = cfg
        self.frontend = build_frontend(cfg.frontend, sample_rate) if cfg.frontend.n_mels else None
        widths = (cfg.frontend.n_mels or 1, *cfg.channels)
        self.stages = nn.ModuleList(
            CausalConv1d(before, after, kernel_size=2 * stride, stride=stride)
            for before, after, stride in zip(widths, widths[1:], cfg.strides, strict=False)
        )
        self.blocks = nn.ModuleList(ResidualBlock1d(widths[-1], cfg.kernel_size, d) for d in cfg.dilations)
        self.out = Linear(widths[-1], cfg.dim)
        nn.init.normal_(self.out.weight, std=math.sqrt(2 / widths[-1]))
        nn.init.zeros_(self.out.bias)

    def forward(self, wav: Tensor, state: EncoderState | None = None) -> tuple[Tensor, EncoderState | None]:
        """(B, 1, T) float32 in [-1, 1] -> (B, D, N), state.

        Without a state, the input is a whole utterance: N = ceil(T / hop), and no state is returned. With a state
        (from `start`), the input is the next chunk of a stream, of any length; N is the number of frames that are
        complete so far, and `finish` returns the remaining ones. Raises ValueError for another shape or an empty
        utterance.
        """
        if wav.ndim != 3 or wav.shape[1] != 1:
            raise ValueError(f"the encoder expects waveforms of shape (B, 1, T), got {tuple(wav.shape)}")
        if state is None:
            if not wav.shape[2]:
                raise ValueError("an utterance must have at least one sample, got none")
            wav = self.advance(wav)
            return self.frames(wav), None
        state = state._replace(num_samples=state.num_samples + wav.shape[2])
        return self._continue(wav, state)

    def start(self, batch_size: int = 1) -> EncoderState:
        """Initial state of `batch_size` streams."""
        like = self.out.weight
        convs = [*self.stages, *(block.conv for block in self.blocks)]
        pasts = tuple(like.new_zeros(batch_size, c.past_length, c.weight.shape[1]) for c in convs)
        frontend = () if self.frontend is None else self.frontend.start(batch_size)
        return EncoderState(like.new_zeros(batch_size, 1, 0), self.cfg.lookahead, 0, 0, frontend, pasts)

    def finish(self, state: EncoderState) -> tuple[Tensor, EncoderState]:
        """End the stream: remaining frames (B, D, N), so that ceil(T / hop) are returned in total, and the state."""
        missing = -(-state.num_samples // self.cfg.hop) - state.num_frames
        num_zeros = missing * self.cfg.hop + state.to_skip - state.pending.shape[2]
        z, state = self._continue(state.pending.new_zeros(state.pending.shape[0], 1, num_zeros), state)
        return z[:, :, :missing], state

    def advance(self, wav: Tensor) -> Tensor:
        """(B, 1, T) -> (B, 1, N * hop): shifted left by the look-ahead, zeros after the end."""
        num_frames = -(-wav.shape[2] // self.cfg.hop)
        wav = wav[:, :, self.cfg.lookahead :]
        return F.pad(wav, (0, num_frames * self.cfg.hop - wav.shape[2]))

    def frames(self, wav: Tensor) -> Tensor:
        """Advanced samples from the start of an utterance, (B, 1, N * hop) -> (B, D, N)."""
        x, _ = self._features(wav, None)
        return self._convolve(x, None)[0]

    def chunk(
        self, wav: Tensor, frontend: FrontendState, pasts: tuple[Tensor, ...]
    ) -> tuple[Tensor, FrontendState, tuple[Tensor, ...]]:
        """Advanced samples (B, 1, N * hop), both parts of the state before them -> (B, D, N), the state after them."""
        x, frontend = self._features(wav, frontend)
        z, pasts = self._convolve(x, pasts)
        return z, frontend, pasts

    def crop(self, wav: Tensor, past: Tensor, past_lengths: Tensor, future: Tensor) -> Tensor:
        """The frames of a crop as they are within its utterance: (B, 1, T), ... -> (B, D, N), N = ceil(T / hop).

        Args:
            wav: the samples of the crop
            past: the samples before it, (B, 1, P), P a multiple of the hop; zeros before the start of the utterance
            past_lengths: how many of them belong to the utterance, (B,)
            future: the samples after it, (B, 1, A), for the look-ahead; zeros after the end of the utterance

        The frames are exact if `past` reaches the start of the utterance and the crop begins at a multiple of the hop.
        Otherwise they are those of an utterance that starts where `past` does, or between two frames. Raises ValueError
        for another P.
        """
        hop, unit = self.cfg.hop, self.cfg.frontend.hop_length if self.frontend is not None else 1
        if past.shape[2] % hop:
            raise ValueError(f"the past of a crop must be a multiple of the hop ({hop}) samples, got {past.shape[2]}")
        whole = torch.cat([past, wav, future], dim=2)
        missing = past.shape[2] - past_lengths  # (B,) samples before the start
        # an utterance is advanced, too: its first samples are not encoded
        before = torch.arange(whole.shape[2], device=wav.device) < (missing + self.cfg.lookahead)[:, None]
        num_samples = past.shape[2] + -(-wav.shape[2] // hop) * hop
        advanced = whole.masked_fill(before[:, None], 0)[:, :, self.cfg.lookahead :][:, :, :num_samples]
        advanced = F.pad(advanced, (0, num_samples - advanced.shape[2]))
        x, _ = self._features(advanced, None, _started(missing, unit, num_samples // unit))
        # convolutions on no more than the frames of the crop depend on
        num_past = min(past.shape[2] // hop, -(-self.cfg.conv_field * unit // hop))  # in frames
        skipped = past.shape[2] // hop - num_past
        x = x[:, skipped * hop // unit :]
        return self._convolve(x, None, missing - skipped * hop)[0][:, :, num_past:]

    def _features(
        self, wav: Tensor, state: FrontendState | None, started: Tensor | None = None
    ) -> tuple[Tensor, FrontendState]:
        """(B, 1, T) -> what the first convolution reads, (B, T / front-end hop, mel bands or 1), next state."""
        x = rearrange(wav, "b 1 t -> b t 1")
        if self.frontend is None:
            return x * self.cfg.input_gain, ()
        return self.frontend(x, state, started)

    def _convolve(
        self, x: Tensor, pasts: tuple[Tensor, ...] | None, missing: Tensor | None = None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Features, convolution states -> (B, D, N), next states. missing: (B,) samples before an utterance's start.

        Before the start every layer has zeros, as a layer's past has at the start of an utterance.
        """
        earlier = iter(pasts) if pasts is not None else repeat(None)
        later, unit = [], self.cfg.frontend.hop_length if self.frontend is not None else 1

        def masked(x: Tensor) -> Tensor:
            if missing is None:
                return x
            return x * _started(missing, unit, x.shape[1])[..., None].to(x.dtype)

        x = masked(x)
        for stage, stride in zip(self.stages, self.cfg.strides, strict=True):
            x, past = stage(x, next(earlier))  # (B, T / strides so far, C)
            unit *= stride
            x = masked(F.relu(x))
            later.append(past)
        for block in self.blocks:
            x, past = block(x, next(earlier))
            x = masked(x)
            later.append(past)
        return rearrange(self.out(F.relu(x)), "b n d -> b d n"), tuple(later)

    def _continue(self, wav: Tensor, state: EncoderState) -> tuple[Tensor, EncoderState]:
        skipped = min(state.to_skip, wav.shape[2])
        wav = torch.cat([state.pending, wav[:, :, skipped:]], dim=2)
        num_new = wav.shape[2] // self.cfg.hop
        ready, pending = wav[:, :, : num_new * self.cfg.hop], wav[:, :, num_new * self.cfg.hop :]
        z, frontend, pasts = wav.new_zeros(wav.shape[0], self.cfg.dim, 0), state.frontend, state.pasts
        if num_new:
            z, frontend, pasts = self.chunk(ready, frontend, pasts)
        num_frames = state.num_frames + num_new
        return z, EncoderState(pending, state.to_skip - skipped, state.num_samples, num_frames, frontend, pasts)


def _started(missing: Tensor, unit: int, count: int) -> Tensor:
    """Samples before an utterance's start (B,) -> (B, count) bool: which frames of `unit` samples lie after it."""
    first = -(-missing.clamp(min=0) // unit)
    return torch.arange(count, device=missing.device) >= first[:, None]
