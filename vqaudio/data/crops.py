"""Batches of crops from packed speech: random crops for training, fixed ones for validation.

Shapes: B crops, T samples per crop, Q mu-law classes, U utterances.

A batch is a dictionary:
    wav      (B, 1, T) float32 in [-1, 1), larger after a random gain: encoder input
    target   (B, T) int64 in [0, Q): decoder target
    speaker  (B,) int64
    lengths  (B,) int64: number of valid samples
Utterances shorter than T are zero-padded at the end; the target of the padding is the class of silence.
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
    """Sampling and augmentation of training crops."""

    samples: int = 5120
    """length of a crop, in samples"""
    batch_size: int = 8
    """global batch size: crops per optimizer step over all processes and accumulation steps"""
    seed: int = 0
    """random seed; seed and step determine every crop"""
    speaker_balance: float = 0.5
    """0: speakers are sampled in proportion to their amount of speech; 1: uniformly"""
    target_shift: int = 0
    """maximum random offset between encoder input and decoder target, in samples"""
    gain_db: float = 0.0
    """maximum random gain of the encoder input relative to the decoder target, in dB"""

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
    """The fixed crops for validation."""

    samples: int = 8192
    """length of a crop"""
    batch_size: int = 8
    """crops per batch; codes and speakers are shuffled within a batch, so use at least one crop per speaker"""
    num_batches: int = 4
    """number of batches"""

    def __post_init__(self) -> None:
        if self.samples < 1 or self.num_batches < 1 or self.batch_size < 2:
            raise ValueError(f"samples and num_batches must be at least 1 and batch_size at least 2, got {self}")


class SpeechCrops:
    """Random crops for training. Example i of a step is a pure function of (seed, step, i): one process with
    8 crops, two with 4 each, and two accumulation steps of 4 use the same global batch."""

    def __init__(self, packed: PackedSpeech, cfg: CropConfig, num_classes: int = 256) -> None:
        self.packed = packed
        self.cfg = cfg
        self._classes = mulaw_table(num_classes)
        # utterances are grouped by speaker, so that each speaker is one range of crop positions
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
        """Seconds of audio in the global batch of a step."""
        return self.cfg.batch_size * self.cfg.samples / self.packed.sample_rate

    def batch(self, step: int, part: int = 0, parts: int = 1) -> Batch:
        """Slice `part` of `parts` of the global batch of a step; the sizes of slices differ by at most one.

        Raises ValueError if batch_size is smaller than `parts`.
        """
        mine = part_slice(self.cfg.batch_size, part, parts)
        utterances, starts = self._draw(step)
        shifts = self._draw_shifts(step)
        batch = _cut(self.packed, utterances[mine], starts[mine], self.cfg.samples, self._classes, shifts[mine])
        if self.cfg.gain_db:
            batch["wav"] *= self._draw_gains(step)[mine, None, None]
        return batch

    def _draw(self, step: int) -> tuple[Ints, Ints]:
        """Utterance indices (B,) and start samples (B,) of the global batch of a step."""
        draws = uniform_draws(self.cfg.seed, step, (self.cfg.batch_size, 2))
        speaker = np.searchsorted(self._speaker_cdf[:-1], draws[:, 0], side="right")
        within = (draws[:, 1] * self._speaker_positions[speaker]).astype(np.int64)
        position = self._speaker_starts[speaker] + within
        row = np.searchsorted(self._position_ends, position, side="right")
        starts = position - np.append(0, self._position_ends)[row]
        return self._order[row], starts

    def _draw_shifts(self, step: int) -> Ints:
        """Offsets (B,) of the encoder input, in samples."""
        most = self.cfg.target_shift
        draws = uniform_draws(self.cfg.seed, step, (self.cfg.batch_size,), stream=1)
        return np.floor(draws * (2 * most + 1)).astype(np.int64) - most

    def _draw_gains(self, step: int) -> Tensor:
        """Gain factors (B,) float32 of the encoder input."""
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

    Speakers alternate, so that their counts differ by at most one. Each speaker's utterances are used in
    random order, without repetition until all were used, and cropped at a random position.

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
    """A batch of crops of the utterances (B,) from `starts` (B,); the encoder input is read `shifts` (B,) later."""
    lengths = np.minimum(packed.lengths[utterances] - starts, samples)
    target = _pcm(packed, utterances, starts, lengths, samples)
    source = target
    if shifts is not None and shifts.any():
        source = _pcm(packed, utterances, starts + shifts, lengths, samples)
    return {
        "wav": source.float().div_(INT16_SCALE).unsqueeze(1),  # (B, 1, T)
        "target": classes[target.int() + INT16_SCALE],
        "speaker": torch.from_numpy(packed.speaker_ids[utterances]),
        "lengths": torch.from_numpy(lengths),
    }


def _pcm(packed: PackedSpeech, utterances: Ints, starts: Ints, lengths: Ints, samples: int) -> Tensor:
    """(B, samples) int16: `lengths` samples of each utterance from `starts` on, zero-padded outside the utterance."""
    pcm = np.zeros((len(utterances), samples), dtype=np.int16)
    for row, utterance, start, length in zip(pcm, utterances, starts, lengths, strict=True):
        before = max(0, -start)
        audio = packed.audio(utterance)[start + before : max(0, start + length)]
        row[before : before + len(audio)] = audio
    return torch.from_numpy(pcm)
