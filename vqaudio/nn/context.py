"""Context network between codes and decoder, and the auxiliary log-mel prediction.

The context network is a convolutional network at the frame rate over the code vectors and the speaker embedding. It is
causal but for a fixed look-ahead. A linear head on top of it can be trained to predict the log-mel spectrum, which
trains the encoder much faster than the likelihood of samples does. The prediction can also be inverted by Griffin-Lim,
in place of the decoder. The vocoders that are conditioned on spectrum and pitch have a context network of their
own over these.

Shapes: B batch, N frames, D code dimension, H speaker embedding, C channels, F mel bands, R spectra per frame, L frames
of look-ahead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vqaudio.nn.conv import ResidualBlock1d
from vqaudio.nn.linear import Linear
from vqaudio.nn.log_mel import LogMel, LogMelConfig

CONTEXT_CHUNK = 16  # frames; all sequences are computed in such chunks, so that streaming is bit-identical


@dataclass(frozen=True)
class ContextConfig:
    """Options of Context. Without dilations there is no context network, and the other options have no effect."""

    dilations: tuple[int, ...] = ()
    """dilations of the residual blocks, one block per entry; empty: the decoder is conditioned on the code vectors"""
    channels: int = 256
    """C, channels of the blocks and of the conditioning of the decoder"""
    kernel_size: int = 3
    """kernel size of the blocks"""
    lookahead: int = 0
    """L, frames after each frame that its output depends on"""

    def __post_init__(self) -> None:
        if min((*self.dilations, self.channels, self.kernel_size)) < 1:
            raise ValueError(f"dilations, channels and kernel_size must all be at least 1, got {self}")
        if self.lookahead < 0:
            raise ValueError(f"lookahead must be 0 or more frames, got {self.lookahead}")


class ContextState(NamedTuple):
    """State of streaming computation."""

    pasts: tuple[Tensor | None, ...]  # one per block, (1, past_length, C), at the start of the current chunk
    pending: Tensor  # (1, D, P): the vectors of the current chunk and of its look-ahead so far
    num_returned: int = 0  # frames of the current chunk that were returned before


class Context(nn.Module):
    """Code vectors and speaker embedding -> conditioning of the decoder."""

    def __init__(self, cfg: ContextConfig, width: int, speaker_dim: int):
        """width: D of the code vectors; speaker_dim: H, 0 without speakers."""
        super().__init__()
        self.cfg = cfg
        self.code = Linear(width, cfg.channels)
        self.ahead = Linear(width * cfg.lookahead, cfg.channels, bias=False) if cfg.lookahead else None
        if self.ahead is not None:
            nn.init.zeros_(self.ahead.weight)  # starts as the network without look-ahead
        # the name is part of the parameter names in saved models
        self.voice = Linear(speaker_dim, cfg.channels, bias=False) if speaker_dim else None
        self.blocks = nn.ModuleList(ResidualBlock1d(cfg.channels, cfg.kernel_size, d) for d in cfg.dilations)

    def forward(self, z_q: Tensor, speaker: Tensor | None = None) -> Tensor:
        """Code vectors (B, D, N), speaker embeddings (B, H) -> (B, C, N); the last vector is repeated L times."""
        y, _ = self._run(F.pad(z_q, (0, self.cfg.lookahead), mode="replicate"), speaker, (None,) * len(self.blocks))
        return rearrange(y, "b n c -> b c n")

    def start(self, like: Tensor) -> ContextState:
        """Initial state, with the device and type of `like`."""
        return ContextState((None,) * len(self.blocks), like.new_zeros(1, self.code.in_features, 0))

    def extend(self, z_q: Tensor, speaker: Tensor | None, state: ContextState) -> tuple[Tensor, ContextState]:
        """The next code vectors of one sequence (1, D, N), (1, H) -> (1, C, M), next state.

        M is N but for the look-ahead: L fewer frames than vectors are returned in total, until `finish`. The result is
        bit-identical however the sequence is divided: it is computed in chunks of CONTEXT_CHUNK frames, and the last
        one is zero-padded and computed again when more frames arrive.
        """
        pasts, num_returned, whole = state.pasts, state.num_returned, CONTEXT_CHUNK + self.cfg.lookahead
        pending, outputs = torch.cat([state.pending, z_q], dim=2), [z_q.new_zeros(1, 0, self.cfg.channels)]
        with torch.autocast(z_q.device.type, enabled=False):
            while (ready := min(pending.shape[2] - self.cfg.lookahead, CONTEXT_CHUNK)) > num_returned:
                chunk = pending[:, :, :whole]
                y, later = self._run(F.pad(chunk, (0, whole - chunk.shape[2])), speaker, pasts)
                outputs.append(y[:, num_returned:ready])
                if (num_returned := ready) < CONTEXT_CHUNK:
                    break
                pending, pasts, num_returned = pending[:, :, CONTEXT_CHUNK:], later, 0
        return rearrange(torch.cat(outputs, dim=1), "1 n c -> 1 c n"), ContextState(pasts, pending, num_returned)

    def finish(self, speaker: Tensor | None, state: ContextState) -> Tensor:
        """End of the sequence -> the remaining frames (1, C, at most L), with the last vector repeated L times."""
        last = state.pending[:, :, -1:]  # there is none before the first vector
        return self.extend(last.repeat(1, 1, self.cfg.lookahead), speaker, state)[0]

    def _run(
        self, z_q: Tensor, speaker: Tensor | None, pasts: tuple[Tensor | None, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Vectors (B, D, N + L) -> (B, N, C), next states."""
        vectors = rearrange(z_q, "b d n -> b n d")
        num_frames = vectors.shape[1] - self.cfg.lookahead
        x = self.code(vectors[:, :num_frames])  # (B, N, C)
        if self.ahead is not None:
            following = vectors[:, 1:].unfold(1, self.cfg.lookahead, 1)  # (B, N, D, L)
            x = x + self.ahead(rearrange(following, "b n d l -> b n (d l)"))
        if self.voice is not None and speaker is not None:
            x = x + self.voice(speaker)[:, None]
        later = []
        for block, past in zip(self.blocks, pasts, strict=True):
            x, past = block(x, past)
            later.append(past)
        return F.relu(x), tuple(later)


class MelHead(nn.Module):
    """Linear prediction of the log-mel spectrum around each frame from the conditioning of the decoder."""

    def __init__(self, cfg: LogMelConfig, channels: int, hop: int, sample_rate: int):
        """channels: C; hop: samples per frame, a multiple of `cfg.hop_length`."""
        super().__init__()
        self.log_mel = LogMel(cfg, sample_rate)
        self.out = Linear(channels, hop // cfg.hop_length * cfg.n_mels)

    def forward(self, cond: Tensor) -> Tensor:
        """(B, C, N) -> (B, N * R, F), standardised as by `LogMel`."""
        return rearrange(self.out(cond.mT), "b n (r f) -> b (n r) f", f=self.log_mel.cfg.n_mels)

    def errors(self, cond: Tensor, wav: Tensor, mask: Tensor) -> Tensor:
        """(B, C, N), waveforms (B, T), mask (B, N) bool -> mean squared error of each frame (B, N), 0 in padding."""
        predicted, target = self.compared(cond, wav)
        return frame_means((predicted - target).square(), mask)

    def compared(self, cond: Tensor, wav: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, N), waveforms (B, T) -> the predicted spectra and those of the speech, (B, N * R, F) float32."""
        predicted = self(cond).float()
        return predicted, self.log_mel.centred(wav, predicted.shape[1])


def frame_means(values: Tensor, mask: Tensor) -> Tensor:
    """(B, N * R, F), mask (B, N) bool -> the mean over bands and spectra of each frame (B, N), 0 in padding."""
    return values.mean(2).unflatten(1, (mask.shape[1], -1)).mean(2) * mask
