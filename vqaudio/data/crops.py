"""Batches of crops from packed speech: pure functions of (seed, step) for training, fixed ones for
validation.

Letters: B crops, T samples per crop, Q mu-law classes, U utterances.
A batch is {"wav": (B, 1, T) float32 in [-1, 1), beyond it where a gain is drawn, "target": (B, T) int64 in [0, Q),
"speaker": (B,) int64, "lengths": (B,) int64 valid samples}. Utterances shorter than T are padded
with zeros at the right; their target there is the class of silence.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vqaudio.data.audio import INT16_SCALE
from vqaudio.data.mulaw import mulaw_table
from vqaudio.data.packed import PackedSpeech
from vqaudio.data.sharding import part_slice, uniform_draws

Batch = dict[str, Tensor]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class CropConfig:
    samples: int = 5120
    """length of a crop, in samples"""
    batch_size: int = 8
    """crops per optimizer step, over all processes and accumulation steps together"""
    seed: int = 0
    """with the number of the step, it decides every crop"""
    speaker_balance: float = 0.5
    """0: speakers as often as they have speech; 1: all equally often"""
    target_shift: int = 0
    """most samples by which the encoder hears a crop earlier or later than the decoder is to say it"""
    gain_db: float = 0.0
    """most dB by which the encoder hears a crop louder or softer than the decoder is to say it"""

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ValueError(f"samples must be at least 1, got {self.samples}")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must lie in 0 to 2**63 - 1, got {self.seed}")
        if not 0 <= self.speaker_balance <= 1:
            raise ValueError(f"speaker_balance must lie in 0 to 1, got {self.speaker_balance}")
        if not 0 <= self.target_shift <= self.samples:
            raise ValueError(f"target_shift must lie in 0 to samples ({self.samples}), got {self.target_shift}")
        if not 0 <= self.gain_db <= 60:
            raise ValueError(f"gain_db must lie in 0 to 60 dB, got {self.gain_db}")


@dataclass(frozen=True)
class ValidationConfig:
    """The fixed crops on which a run is judged."""

    samples: int = 8192
    """length of a crop"""
    batch_size: int = 8
    """crops per batch, best one of each speaker: codes and speakers are exchanged inside a batch"""
    num_batches: int = 4
    """how many"""

    def __post_init__(self) -> None:
        if self.samples < 1 or self.num_batches < 1 or self.batch_size < 2:
            raise ValueError(f"samples and num_batches must be at least 1 and batch_size at least 2, got {self}")


class SpeechCrops:
    """Random crops. Example i of a step depends on (seed, step, i) and on nothing else, so one
    process with 8 crops, two with 4, and 2 accumulation steps of 4 see the same joint batch."""

    def __init__(self, packed: PackedSpeech, cfg: CropConfig, num_classes: int = 256) -> None:
        self.packed = packed
        self.cfg = cfg
        self._classes = mulaw_table(num_classes)
        # Utterances grouped by speaker, so that a speaker is one range of crop positions.
        self._order = np.argsort(packed.speaker_ids, kind="stable")
        positions = np.maximum(packed.lengths[self._order] - cfg.samples + 1, 1)
        self._position_ends = np.cumsum(positions)  # (U,)
        self._speakers, first = np.unique(packed.speaker_ids[self._order], return_index=True)
        ends = self._position_ends[np.append(first[1:], len(self._order)) - 1]
        self._speaker_starts = np.append(0, ends[:-1])
        self._speaker_positions = ends - self._speaker_starts
        seconds = np.bincount(packed.speaker_ids, weights=packed.lengths)[self._speakers]
        weights = seconds ** (1.0 - cfg.speaker_balance)
        self._speaker_cdf = np.cumsum(weights) / weights.sum()

    @property
    def seconds_per_step(self) -> float:
        """Audio seconds in the joint batch of a step."""
        return self.cfg.batch_size * self.cfg.samples / self.packed.sample_rate

    def batch(self, step: int, part: int = 0, parts: int = 1) -> Batch:
        """Crops of one step: the `part`-th of `parts` slices of its batch, whose sizes differ by at most one.

        Raises ValueError where batch_size is smaller than `parts`.
        """
        mine = part_slice(self.cfg.batch_size, part, parts)
        utterances, starts = self._draw(step)
        shifts = self._draw_shifts(step)
        batch = _cut(self.packed, utterances[mine], starts[mine], self.cfg.samples, self._classes, shifts[mine])
        if self.cfg.gain_db:
            batch["wav"] *= self._draw_gains(step)[mine, None, None]
        return batch

    def _draw(self, step: int) -> tuple[Ints, Ints]:
        """Utterances (B,) and first samples (B,) of the whole batch of a step."""
        draws = uniform_draws(self.cfg.seed, step, (self.cfg.batch_size, 2))
        speaker = np.searchsorted(self._speaker_cdf[:-1], draws[:, 0], side="right")
        within = (draws[:, 1] * self._speaker_positions[speaker]).astype(np.int64)
        position = self._speaker_starts[speaker] + within
        row = np.searchsorted(self._position_ends, position, side="right")
        starts = position - np.append(0, self._position_ends)[row]
        return self._order[row], starts

    def _draw_shifts(self, step: int) -> Ints:
        """Samples (B,) by which the encoder hears the crops of a step later."""
        most = self.cfg.target_shift
        draws = uniform_draws(self.cfg.seed, step, (self.cfg.batch_size,), stream=1)
        return np.floor(draws * (2 * most + 1)).astype(np.int64) - most

    def _draw_gains(self, step: int) -> Tensor:
        """Factors (B,) float32 by which the encoder hears the crops of a step louder."""
        draws = uniform_draws(self.cfg.seed, step, (self.cfg.batch_size,), stream=2)
        return torch.from_numpy(10 ** (self.cfg.gain_db * (2 * draws - 1) / 20)).float()


def validation_batches(
    packed: PackedSpeech,
    samples: int,
    batch_size: int,
    num_batches: int,
    seed: int = 0,
    num_classes: int = 256,
) -> list[Batch]:
    """Fixed batches for evaluation, a pure function of the arguments.

    The speakers take turns, so that their counts differ by at most one; each goes through all of
    its utterances in random order before one comes again, cropped at a random place.

    Raises ValueError for a size below 1 or a seed outside 0 to 2**63 - 1.
    """
    CropConfig(samples=samples, batch_size=batch_size, seed=seed)  # checks the three
    if num_batches < 1:
        raise ValueError(f"num_batches must be at least 1, got {num_batches}")
    rng = np.random.Generator(np.random.Philox(seed))
    speakers = rng.permutation(np.unique(packed.speaker_ids))
    queues: dict[int, list[int]] = {int(speaker): [] for speaker in speakers}
    utterances = np.empty(batch_size * num_batches, dtype=np.int64)
    for i in range(len(utterances)):
        speaker = int(speakers[i % len(speakers)])
        if not queues[speaker]:
            own = np.flatnonzero(packed.speaker_ids == speaker)
            queues[speaker] = rng.permutation(own).tolist()
        utterances[i] = queues[speaker].pop()
    positions = np.maximum(packed.lengths[utterances] - samples + 1, 1)
    starts = rng.integers(positions)
    classes = mulaw_table(num_classes)
    return [
        _cut(packed, utterances[i : i + batch_size], starts[i : i + batch_size], samples, classes)
        for i in range(0, len(utterances), batch_size)
    ]


def _cut(
    packed: PackedSpeech, utterances: Ints, starts: Ints, samples: int, classes: Tensor, shifts: Ints | None = None
) -> Batch:
    """Crops of `samples` from each utterance (B,) at its start (B,), as a batch; `wav` is heard `shifts` (B,) later."""
    lengths = np.minimum(packed.lengths[utterances] - starts, samples)
    said = _pcm(packed, utterances, starts, lengths, samples)
    heard = said if shifts is None or not shifts.any() else _pcm(packed, utterances, starts + shifts, lengths, samples)
    return {
        "wav": heard.float().div_(INT16_SCALE).unsqueeze(1),  # (B, 1, T)
        "target": classes[said.int() + INT16_SCALE],
        "speaker": torch.from_numpy(packed.speaker_ids[utterances]),
        "lengths": torch.from_numpy(lengths),
    }


def _pcm(packed: PackedSpeech, utterances: Ints, starts: Ints, lengths: Ints, samples: int) -> Tensor:
    """(B, samples) int16: `lengths` of each utterance from its start on, zeros before it and after it."""
    pcm = np.zeros((len(utterances), samples), dtype=np.int16)
    for row, utterance, start, length in zip(pcm, utterances, starts, lengths, strict=True):
        before = max(0, -start)
        audio = packed.audio(utterance)[start + before : max(0, start + length)]
        row[before : before + len(audio)] = audio
    return torch.from_numpy(pcm)
