"""Context network between codes and decoder, and the auxiliary log-mel prediction.

The context network is a causal convolutional network at the frame rate over the code vectors and the speaker embedding.
A linear head on top of it can be trained to predict the log-mel spectrum, which trains the encoder much faster than the
likelihood of samples does. The prediction can also be inverted by Griffin-Lim, in place of the decoder.

Shapes: B batch, N frames, D code dimension, H speaker embedding, C channels, F mel bands, R spectra per frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vqaudio.nn.conv import ResidualBlock1d
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

    def __post_init__(self) -> None:
        if min((*self.dilations, self.channels, self.kernel_size)) < 1:
            raise ValueError(f"dilations, channels and kernel_size must all be at least 1, got {self}")


class ContextState(NamedTuple):
    """State of streaming computation."""

    pasts: tuple[Tensor | None, ...]  # one per block, (1, past_length, C), at the start of the current chunk
    pending: Tensor  # (1, D, P): the vectors of the current chunk so far


class Context(nn.Module):
    """Code vectors and speaker embedding -> conditioning of the decoder."""

    def __init__(self, cfg: ContextConfig, width: int, speaker_dim: int):
        """width: D of the code vectors; speaker_dim: H, 0 without speakers."""
        super().__init__()
        self.cfg = cfg
        self.code = nn.Linear(width, cfg.channels)
        # the name is part of the parameter names in saved models
        self.voice = nn.Linear(speaker_dim, cfg.channels, bias=False) if speaker_dim else None
        self.blocks = nn.ModuleList(ResidualBlock1d(cfg.channels, cfg.kernel_size, d) for d in cfg.dilations)

    def forward(self, z_q: Tensor, speaker: Tensor | None = None) -> Tensor:
        """Code vectors (B, D, N), speaker embeddings (B, H) -> (B, C, N); causal."""
        return rearrange(self._run(z_q, speaker, (None,) * len(self.blocks))[0], "b n c -> b c n")

    def start(self, like: Tensor) -> ContextState:
        """Initial state, with the device and type of `like`."""
        return ContextState((None,) * len(self.blocks), like.new_zeros(1, self.code.in_features, 0))

    def extend(self, z_q: Tensor, speaker: Tensor | None, state: ContextState) -> tuple[Tensor, ContextState]:
        """The next code vectors of one sequence (1, D, N), (1, H) -> (1, C, N), next state.

        The result is bit-identical however the sequence is divided: it is computed in chunks of CONTEXT_CHUNK frames,
        and the last one is zero-padded and computed again when more frames arrive.
        """
        num_returned = state.pending.shape[2]  # frames of the current chunk that were returned before
        pending, pasts, outputs = torch.cat([state.pending, z_q], dim=2), state.pasts, []
        with torch.autocast(z_q.device.type, enabled=False):
            while pending.shape[2]:
                chunk, rest = pending[:, :, :CONTEXT_CHUNK], pending[:, :, CONTEXT_CHUNK:]
                missing = CONTEXT_CHUNK - chunk.shape[2]
                y, later = self._run(F.pad(chunk, (0, missing)), speaker, pasts)
                outputs.append(y[:, : chunk.shape[2]])
                if missing:
                    break
                pending, pasts = rest, later
        y = torch.cat([*outputs, z_q.new_zeros(1, 0, self.cfg.channels)], dim=1)[:, num_returned:]
        return rearrange(y, "1 n c -> 1 c n"), ContextState(pasts, pending)

    def _run(
        self, z_q: Tensor, speaker: Tensor | None, pasts: tuple[Tensor | None, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        x = self.code(rearrange(z_q, "b d n -> b n d"))  # (B, N, C)
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
        self.out = nn.Linear(channels, hop // cfg.hop_length * cfg.n_mels)

    def forward(self, cond: Tensor) -> Tensor:
        """(B, C, N) -> (B, N * R, F), standardised as by `LogMel`."""
        return rearrange(self.out(cond.mT), "b n (r f) -> b (n r) f", f=self.log_mel.cfg.n_mels)

    def errors(self, cond: Tensor, wav: Tensor, mask: Tensor) -> Tensor:
        """(B, C, N), waveforms (B, T), mask (B, N) bool -> mean squared error of each frame (B, N), 0 in padding."""
        predicted = self(cond).float()
        target = self.log_mel.centred(wav, predicted.shape[1])
        return (predicted - target).square().mean(2).unflatten(1, (mask.shape[1], -1)).mean(2) * mask
