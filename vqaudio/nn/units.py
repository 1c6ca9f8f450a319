"""The unit objective: each code vector alone predicts the speech around it, without level and speaker.

The targets are clusters of speaker-normalised MFCC (as HuBERT's first iteration, arXiv 2106.07447), and
speaker-normalised cepstra. Both are computed before training, see `vqaudio.speech.unit_targets`.

Shapes: B batch, N codes, D code dimension, H speaker embedding, C channels, R target frames per code, K clusters, L
cepstral coefficients, M target frames: N * R, and a margin before and after them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vqaudio.nn.linear import Linear

NO_TARGET = -1  # cluster of a frame outside the utterance


@dataclass(frozen=True)
class UnitsConfig:
    """Options of the unit objective; without effect unless target: units."""

    num_clusters: int = 100
    """K, clusters of MFCC with first and second derivatives"""
    num_cepstra: int = 20
    """L, cepstral coefficients that are predicted; the clusters are of the first 13 of them at most"""
    n_mels: int = 80
    """mel bands that the cepstra are computed from"""
    hop_length: int = 160
    """samples per target frame; divides the hop of the encoder"""
    win_length: int = 400
    """window of a target frame, in samples"""
    f_min: float = 40.0
    """lower edge of the first mel band, in Hz"""
    f_max: float = 6600.0
    """upper edge of the last mel band, in Hz"""
    cluster_offsets: tuple[int, ...] = (-8, -4, 0, 4, 8)
    """target frames, relative to each frame of a code, whose clusters are predicted"""
    cepstrum_offsets: tuple[int, ...] = (-6, -3, 0, 3, 6)
    """target frames, relative to each frame of a code, whose cepstra are predicted"""
    cluster_weight: float = 1.0
    """weight of the cross-entropy of the clusters, in nats"""
    cepstrum_weight: float = 1.0
    """weight of the squared error of the cepstra, whose variance is 1; higher values preserve more acoustic detail"""
    channels: int = 256
    """C, hidden units between a code vector and the predictions"""

    def __post_init__(self) -> None:
        if min(self.num_clusters, self.num_cepstra, self.n_mels, self.hop_length, self.channels) < 1:
            raise ValueError(
                f"num_clusters, num_cepstra, n_mels, hop_length and channels must all be at least 1, got {self}"
            )
        if self.num_clusters >= 2**15 or self.num_cepstra > self.n_mels:
            raise ValueError(f"num_clusters must be below 32768 and num_cepstra at most n_mels, got {self}")
        if not self.cluster_offsets or not self.cepstrum_offsets:
            raise ValueError("cluster_offsets and cepstrum_offsets must name at least one frame each, for example 0")
        if not 0 <= self.f_min < self.f_max < math.inf:
            raise ValueError(
                f"f_min must be 0 or more and below f_max, which must be finite, got {self.f_min} and {self.f_max} Hz"
            )
        weights = (self.cluster_weight, self.cepstrum_weight)
        if not all(0 <= weight < math.inf for weight in weights) or not any(weights):
            raise ValueError(
                "cluster_weight and cepstrum_weight must be finite numbers, 0 or more, and not both 0, got "
                f"{self.cluster_weight} and {self.cepstrum_weight}"
            )

    @property
    def margin(self) -> int:
        """Target frames that are needed before and after a crop."""
        return max(map(abs, (*self.cluster_offsets, *self.cepstrum_offsets)))


class UnitLosses(NamedTuple):
    """Losses summed over the targets of each row, and the number of targets."""

    cross_entropy: Tensor  # (B,) nats
    squared_error: Tensor  # (B,) mean over the coefficients
    num_clusters: Tensor  # (B,)
    num_cepstra: Tensor  # (B,)


class UnitHead(nn.Module):
    """Code vectors and speaker embedding -> predictions of the clusters and cepstra around each code.

    Each code is used alone: a code cannot rely on those before it, and has to carry the speech around it by itself.
    """

    def __init__(self, cfg: UnitsConfig, width: int, speaker_dim: int, hop: int):
        """width: D; speaker_dim: H, 0 without speakers; hop: samples per code, a multiple of `cfg.hop_length`."""
        super().__init__()
        self.cfg = cfg
        self.frames_per_code = hop // cfg.hop_length
        self.code = Linear(width, cfg.channels)
        self.speaker = Linear(speaker_dim, cfg.channels, bias=False) if speaker_dim else None
        self.clusters = Linear(cfg.channels, self.frames_per_code * len(cfg.cluster_offsets) * cfg.num_clusters)
        self.cepstra = Linear(cfg.channels, self.frames_per_code * len(cfg.cepstrum_offsets) * cfg.num_cepstra)

    def forward(self, z_q: Tensor, speaker: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, D, N), (B, H) -> logits (B, N * R, cluster offsets, K), cepstra (B, N * R, cepstrum offsets, L)."""
        x = self.code(rearrange(z_q, "b d n -> b n d"))  # (B, N, C)
        if self.speaker is not None and speaker is not None:
            x = x + self.speaker(speaker)[:, None]
        x = F.relu(x)
        num_offsets = len(self.cfg.cluster_offsets), len(self.cfg.cepstrum_offsets)
        logits = rearrange(self.clusters(x), "b n (r o k) -> b (n r) o k", r=self.frames_per_code, o=num_offsets[0])
        cepstra = rearrange(self.cepstra(x), "b n (r o l) -> b (n r) o l", r=self.frames_per_code, o=num_offsets[1])
        return logits, cepstra

    def losses(self, z_q: Tensor, speaker: Tensor | None, mask: Tensor, units: Tensor, cepstra: Tensor) -> UnitLosses:
        """(B, D, N), (B, H), valid codes (B, N) bool, clusters (B, M) int64, cepstra (B, M, L) -> UnitLosses.

        Frames whose cluster is NO_TARGET, and codes that are padding, are ignored.
        """
        logits, predicted = self(z_q, speaker)
        valid = mask.repeat_interleave(self.frames_per_code, dim=1)[..., None]  # (B, N * R, 1)
        wanted = self._around(units, self.cfg.cluster_offsets)  # (B, N * R, cluster offsets)
        counted = valid & (wanted != NO_TARGET)
        nats = F.cross_entropy(logits.float().flatten(0, 2), wanted.clamp(min=0).flatten(), reduction="none")
        nats = nats.view(wanted.shape) * counted
        known = valid & (self._around(units, self.cfg.cepstrum_offsets) != NO_TARGET)
        targets = self._around(cepstra, self.cfg.cepstrum_offsets)
        errors = (predicted.float() - targets).square().mean(3) * known
        return UnitLosses(nats.sum((1, 2)), errors.sum((1, 2)), counted.sum((1, 2)), known.sum((1, 2)))

    def _around(self, targets: Tensor, offsets: tuple[int, ...]) -> Tensor:
        """(B, M, ...) -> (B, N * R, offsets, ...): the targets at these offsets from each frame of the codes."""
        margin, count = self.cfg.margin, targets.shape[1] - 2 * self.cfg.margin
        return torch.stack([targets[:, margin + o : margin + o + count] for o in offsets], dim=2)
