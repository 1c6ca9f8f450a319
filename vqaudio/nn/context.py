"""What lies between the codes and the WaveNet: a causal network at the frame rate that knows the codes before, and the
speaker. It may be asked for the spectrum too, which teaches the encoder in minutes what samples teach it in days.

Letters: B batch, N frames, D code width, H width of a voice, C channels, F mel bands, R spectra per frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vqaudio.nn.conv import ResidualBlock1d
from vqaudio.nn.frontend import LogMel, LogMelConfig

CONTEXT_CHUNK = 16  # in which a sequence is computed, so that it has the same bits whole and as its codes arrive


@dataclass(frozen=True)
class ContextConfig:
    """Of a Context. Without dilations there is none, and the rest has no effect."""

    dilations: tuple[int, ...] = ()
    """one residual block for each; frames between its taps. None: the decoder hears the code vectors themselves"""
    channels: int = 256
    """C, of the blocks and of what the decoder hears"""
    kernel_size: int = 3
    """taps of the blocks' convolutions"""

    def __post_init__(self) -> None:
        if min((*self.dilations, self.channels, self.kernel_size)) < 1:
            raise ValueError(f"dilations, channels and kernel_size must all be at least 1, got {self}")


class ContextState(NamedTuple):
    """All that is remembered between two pieces of a sequence."""

    pasts: tuple[Tensor | None, ...]  # one per block, (1, past_length, C), where the present chunk began
    pending: Tensor  # (1, D, P): the vectors of that chunk so far


class Context(nn.Module):
    """Code vectors and a voice to what the decoder is conditioned on."""

    def __init__(self, cfg: ContextConfig, width: int, voice: int):
        """width: D of the code vectors; voice: H, 0 without speakers."""
        super().__init__()
        self.cfg = cfg
        self.code = nn.Linear(width, cfg.channels)
        self.voice = nn.Linear(voice, cfg.channels, bias=False) if voice else None
        self.blocks = nn.ModuleList(ResidualBlock1d(cfg.channels, cfg.kernel_size, d) for d in cfg.dilations)

    def forward(self, z_q: Tensor, voice: Tensor | None = None) -> Tensor:
        """(B, D, N), (B, H) -> (B, C, N); a frame depends on no later one."""
        return rearrange(self._run(z_q, voice, (None,) * len(self.blocks))[0], "b n c -> b c n")

    def start(self, like: Tensor) -> ContextState:
        """Of a sequence of which no code has come; `like` says where it is computed."""
        return ContextState((None,) * len(self.blocks), like.new_zeros(1, self.code.in_features, 0))

    def extend(self, z_q: Tensor, voice: Tensor | None, state: ContextState) -> tuple[Tensor, ContextState]:
        """The next vectors of one sequence (1, D, N), (1, H) -> (1, C, N), state.

        The same bits however the sequence is cut: it is always computed in chunks of CONTEXT_CHUNK, the last of which
        is filled up with zeros and computed again when it has grown.
        """
        told = state.pending.shape[2]  # frames of the chunk that were handed out already
        pending, pasts, found = torch.cat([state.pending, z_q], dim=2), state.pasts, []
        with torch.autocast(z_q.device.type, enabled=False):
            while pending.shape[2]:
                chunk, rest = pending[:, :, :CONTEXT_CHUNK], pending[:, :, CONTEXT_CHUNK:]
                missing = CONTEXT_CHUNK - chunk.shape[2]
                y, later = self._run(F.pad(chunk, (0, missing)), voice, pasts)
                found.append(y[:, : chunk.shape[2]])
                if missing:
                    break
                pending, pasts = rest, later
        y = torch.cat([*found, z_q.new_zeros(1, 0, self.cfg.channels)], dim=1)[:, told:]
        return rearrange(y, "1 n c -> 1 c n"), ContextState(pasts, pending)

    def _run(
        self, z_q: Tensor, voice: Tensor | None, pasts: tuple[Tensor | None, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        x = self.code(rearrange(z_q, "b d n -> b n d"))  # (B, N, C)
        if self.voice is not None and voice is not None:
            x = x + self.voice(voice)[:, None]
        later = []
        for block, past in zip(self.blocks, pasts, strict=True):
            x, past = block(x, past)
            later.append(past)
        return F.relu(x), tuple(later)


class MelHead(nn.Module):
    """What the decoder is conditioned on, asked for the log-mel spectrum around each frame."""

    def __init__(self, cfg: LogMelConfig, channels: int, hop: int, sample_rate: int):
        """channels: C; hop: samples per frame, a multiple of `cfg.hop`."""
        super().__init__()
        self.log_mel = LogMel(cfg, sample_rate)
        self.out = nn.Linear(channels, hop // cfg.hop_length * cfg.n_mels)

    def forward(self, cond: Tensor) -> Tensor:
        """(B, C, N) -> (B, N * R, F), standardised as `LogMel` does it."""
        return rearrange(self.out(cond.mT), "b n (r f) -> b (n r) f", f=self.log_mel.cfg.n_mels)

    def errors(self, cond: Tensor, wav: Tensor, mask: Tensor) -> Tensor:
        """(B, C, N), (B, T), (B, N) bool -> mean squared error of each frame's spectra (B, N), 0 in padding."""
        found = self(cond).float()
        said = self.log_mel.centred(wav, found.shape[1])
        return (found - said).square().mean(2).unflatten(1, (mask.shape[1], -1)).mean(2) * mask
