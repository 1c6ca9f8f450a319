"""Windows of code sequences for training and evaluation.

Shapes: E episodes of T frames each, B windows, W frames of a window, h x w positions, K codes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vqaudio.data.sharding import part_slice, uniform_draws
from vqaudio.images.codes import CodeMaps
from vqaudio.video.recording import Ints, Recording

NOISE_STREAM = 1  # of the random numbers of a step; 0 chooses the windows


@dataclass(frozen=True, eq=False)
class CodeSequences:
    """Codes and actions of episodes, one after the other."""

    codes: Tensor
    """(sum of T, h, w) integers in [0, K)"""
    actions: tuple[Tensor, ...]
    """(T - 1,) int64 of each episode"""
    codebook_size: int
    """K"""

    @property
    def lengths(self) -> list[int]:
        """(E,) T of each episode."""
        return [len(each) + 1 for each in self.actions]

    def content_hash(self) -> str:
        """SHA-256 of codes and actions."""
        digest = hashlib.sha256(np.ascontiguousarray(self.codes.numpy()).tobytes())
        for each in self.actions:
            digest.update(np.array(len(each)).tobytes() + each.numpy().tobytes())
        return digest.hexdigest()

    def episodes(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Codes (T, h, w) int64 and actions (T - 1,) of each episode."""
        for codes, actions in zip(self.codes.split(self.lengths), self.actions, strict=True):
            yield codes.long(), actions

    def starts(self, frames: int) -> Ints:
        """First frame of every window of that many frames, which lies within an episode, in order."""
        ends = np.cumsum(self.lengths)
        rows = [np.arange(end - length, end - frames + 1) for end, length in zip(ends, self.lengths, strict=True)]
        return np.concatenate(rows) if rows else np.zeros(0, dtype=np.int64)

    def windows(self, starts: Ints, frames: int) -> dict[str, Tensor]:
        """First frames (B,) -> {"codes": (B, W, h, w), "actions": (B, W - 1)}."""
        rows = torch.from_numpy(starts)[:, None] + torch.arange(frames)
        return {"codes": self.codes[rows].long(), "actions": self._flat_actions()[rows[:, :-1]]}

    def _flat_actions(self) -> Tensor:
        """(sum of T,): the action after each frame; after the last one of an episode there is none (0)."""
        return torch.cat([torch.cat([each, each.new_zeros(1)]) for each in self.actions])


def code_sequences(recording: Recording, split: str, maps: CodeMaps) -> CodeSequences:
    """The codes (U, 1, h, w) of a split's frames, with its actions. Raises ValueError for several codes a place."""
    if maps.map_shape[0] != 1:
        raise ValueError(f"a video prior models one code per position, but the model has {maps.map_shape[0]}")
    actions = tuple(map(torch.from_numpy, recording.action_sequences(split)))
    return CodeSequences(maps.codes[:, 0], actions, maps.codebook_size)


@dataclass(frozen=True)
class VideoCropConfig:
    """Random windows for training."""

    batch_size: int = 16
    """global batch size: windows per optimizer step over all processes and accumulation steps"""
    targets: int = 1
    """frames of a window that are predicted, after the context"""
    noise: float = 0.1
    """largest fraction of the codes of the context that are replaced by random ones, so that the prior goes on from its
    own imperfect frames; each window has a fraction between 0 and this"""
    seed: int = 0
    """random seed; seed and step determine every window"""

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.targets < 1:
            raise ValueError(f"batch_size and targets must be at least 1, got {self.batch_size} and {self.targets}")
        if not 0 <= self.noise < 1:
            raise ValueError(f"noise must lie in 0 to 1, 1 excluded, got {self.noise}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must lie in 0 to 2**63 - 1, got {self.seed}")


class VideoCrops:
    """Windows for training: the global batch of a step is a pure function of (seed, step)."""

    seconds_per_step = 0.0  # not audio

    def __init__(self, sequences: CodeSequences, cfg: VideoCropConfig, context: int):
        """context: frames of a window before those that are predicted. Raises ValueError for too short episodes."""
        self.sequences, self.cfg, self.frames = sequences, cfg, context + cfg.targets
        self.starts = sequences.starts(self.frames)
        if not len(self.starts):
            raise ValueError(
                f"no episode has {self.frames} frames; record longer ones, or train with a shorter context"
            )

    def batch(self, step: int, part: int = 0, parts: int = 1) -> dict[str, Tensor]:
        """Slice `part` of `parts` of the global batch: {"codes": (B, W, h, w), "actions": (B, W - 1), "context_codes"}.

        context_codes: the codes with noise, (B, W, h, w). Raises ValueError if batch_size is smaller than `parts`.
        """
        mine = part_slice(self.cfg.batch_size, part, parts)
        draws = uniform_draws(self.cfg.seed, step, (self.cfg.batch_size,))[mine]
        batch = self.sequences.windows(self.starts[(draws * len(self.starts)).astype(np.int64)], self.frames)
        return {**batch, "context_codes": self._with_noise(batch["codes"], step, mine)}

    def _with_noise(self, codes: Tensor, step: int, mine: slice) -> Tensor:
        """(B, W, h, w) with a fraction of the codes of each window replaced by random ones."""
        places = codes[0].numel()
        draws = uniform_draws(self.cfg.seed, step, (self.cfg.batch_size, 1 + 2 * places), NOISE_STREAM)[mine]
        chosen = torch.from_numpy(draws[:, 1 : 1 + places] < draws[:, :1] * self.cfg.noise).view_as(codes)
        others = torch.from_numpy((draws[:, 1 + places :] * self.sequences.codebook_size).astype(np.int64))
        return torch.where(chosen, others.view_as(codes), codes)


def spaced_starts(sequences: CodeSequences, frames: int, count: int | None = None) -> Ints:
    """First frames of all windows of that many frames, in order; with `count`, only so many, evenly spaced."""
    starts = sequences.starts(frames)
    if count is not None and count < len(starts):
        starts = starts[np.arange(count) * len(starts) // count]
    return starts


def window_batches(
    sequences: CodeSequences, frames: int, batch_size: int, count: int | None = None
) -> Iterator[dict[str, Tensor]]:
    """The windows of `spaced_starts`, as {"codes", "actions"}."""
    starts = spaced_starts(sequences, frames, count)
    for first in range(0, len(starts), batch_size):
        yield sequences.windows(starts[first : first + batch_size], frames)


def unigram_probabilities(sequences: CodeSequences) -> Tensor:
    """(K,): relative frequency of each code, with add-one smoothing."""
    counts = torch.bincount(sequences.codes.flatten(), minlength=sequences.codebook_size) + 1
    return counts / counts.sum()
