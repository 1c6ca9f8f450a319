"""Batches of crops from packed speech: random crops for training, fixed ones for validation.

Shapes: B crops, T samples per crop, Q mu-law classes, U utterances.

A batch is a dictionary:
    wav      (B, 1, T) float32 in [-1, 1), larger after a random gain: encoder input
    target   (B, T) int64 in [0, Q): decoder target
    audio    (B, T) float32 in [-1, 1): the same before mu-law
    speaker  (B,) int64
    lengths  (B,) int64: number of valid samples
and, if the encoder gets the samples around a crop (CropConfig.past and future, P and A samples):
    past          (B, 1, P) float32: encoder input before the crop, zeros before the start of the utterance
    past_lengths  (B,) int64: how many of these samples belong to the utterance
    future        (B, 1, A) float32: encoder input after the crop, zeros after the end of the utterance
and, with targets of the frames (FrameTargets, of a margin before the crop to the same margin after it):
    units    (B, M) int64: clusters, -1 outside the utterance
    cepstra  (B, M, L) float32
Utterances shorter than T are zero-padded at the end; the target of the padding is the class of silence.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vqaudio.data.audio import INT16_SCALE
from vqaudio.data.frame_targets import FrameTargets
from vqaudio.data.mulaw import mulaw_table
from vqaudio.data.packed import PackedSpeech
from vqaudio.data.sharding import part_slice, uniform_draws

Batch = dict[str, Tensor]
INPUTS = {"wav", "past", "future"}  # what the encoder reads
Ints = npt.NDArray[np.int64]
MAX_CROP = 2**30  # samples of a crop, crops of a batch: more is a mistake
MAX_PRELOAD_FRACTION = 0.25  # of the free memory of a GPU, at most for speech
COPIED_SAMPLES = 2**24  # at a time


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
    past: int = 0
    """samples before a crop that only the encoder reads, a multiple of its hop: they fill the memory of a front-end
    with running averages. Best as long as that memory; costs a fraction of as much speech in the crop"""
    future: int = 0
    """samples after a crop that only the encoder reads: its look-ahead, encoder.lookahead"""
    device: Literal["auto", "cpu"] = "auto"
    """where crops are cut. auto: on the GPU that trains, if all speech fits into a quarter of its free memory; cpu:
    from the decoded corpus on disk. They are the same crops"""

    def __post_init__(self) -> None:
        if self.device not in ("auto", "cpu"):
            raise ValueError(f"device must be 'auto' or 'cpu', got {self.device!r}")
        for name in ("samples", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
            if getattr(self, name) > MAX_CROP:
                raise ValueError(f"{name} must be at most {MAX_CROP}, got {getattr(self, name)}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must lie in 0 to 2**63 - 1, got {self.seed}")
        if not 0 <= self.speaker_balance <= 1:
            raise ValueError(f"speaker_balance must lie in 0 to 1, got {self.speaker_balance}")
        if not 0 <= self.target_shift <= self.samples:
            raise ValueError(f"target_shift must lie in 0 to samples ({self.samples}), got {self.target_shift}")
        if not 0 <= self.gain_db <= 60:
            raise ValueError(f"gain_db must lie in 0 to 60 dB, got {self.gain_db}")
        if min(self.past, self.future) < 0:
            raise ValueError(f"past and future must be 0 or more samples, got {self.past} and {self.future}")


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


class CropTargets(NamedTuple):
    """Which targets of frames belong to a crop."""

    frames: FrameTargets
    margin: int  # frames before and after the crop
    samples_per_code: int  # crops have the frames of whole codes; a multiple of the hop of the frames

    def of_crops(self, utterances: Ints, starts: Ints, samples: int) -> Batch:
        """Crops of the utterances (B,) from `starts` (B,) -> units, cepstra."""
        count = -(-samples // self.samples_per_code) * (self.samples_per_code // self.frames.hop)
        units, cepstra = self.frames.of_crops(utterances, starts, count, self.margin)
        return {"units": units, "cepstra": cepstra}


class SpeechCrops:
    """Random crops for training. Example i of a step is a pure function of (seed, step, i): one process with
    8 crops, two with 4 each, and two accumulation steps of 4 use the same global batch."""

    def __init__(
        self,
        packed: PackedSpeech,
        cfg: CropConfig,
        num_classes: int = 256,
        targets: CropTargets | None = None,
        preload_to: torch.device | None = None,
    ) -> None:
        """targets: of the frames of `packed`; crops then start at a multiple of their hop.

        preload_to: a device that all samples are copied to; crops are cut there, without an effect on their values.
        """
        self.packed = packed
        self.cfg = cfg
        self.targets = targets
        self._source = _Source(packed, mulaw_table(num_classes), preload_to)
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
        if self.targets is not None:
            starts -= starts % self.targets.frames.hop
        cut = utterances[mine], starts[mine], shifts[mine]
        batch = _cut(self._source, *cut, self.cfg, self.targets)
        if self.cfg.gain_db:
            gains = self._draw_gains(step)[mine, None, None].to(batch["wav"].device, non_blocking=True)
            for name in INPUTS & batch.keys():
                batch[name] *= gains
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
    past: int = 0,
    future: int = 0,
    targets: CropTargets | None = None,
) -> list[Batch]:
    """Fixed batches for evaluation, a pure function of the arguments. past, future: as in CropConfig.

    Speakers alternate, so that their counts differ by at most one. Each speaker's utterances are used in
    random order, without repetition until all were used, and cropped at a random position.

    Raises ValueError for a size below 1 or a seed outside 0 to 2**63 - 1.
    """
    cfg = CropConfig(samples=samples, batch_size=batch_size, seed=seed, past=past, future=future)  # checks them
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
    if targets is not None:
        starts -= starts % targets.frames.hop
    source, shifts = _Source(packed, mulaw_table(num_classes)), np.zeros_like(starts)
    parts = [slice(i, i + batch_size) for i in range(0, len(utterances), batch_size)]
    return [_cut(source, utterances[part], starts[part], shifts[part], cfg, targets) for part in parts]


def preload_device(
    wanted: Literal["auto", "cpu"], packed: PackedSpeech, device: torch.device | None
) -> torch.device | None:
    """The device of a training process if it is to hold all speech, else None; `wanted` is CropConfig.device."""
    if wanted == "cpu" or device is None or device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return device if packed.samples.nbytes <= MAX_PRELOAD_FRACTION * free else None


class _Source:
    """Samples to cut from: in the memory map, or all of them on a device."""

    def __init__(self, packed: PackedSpeech, classes: Tensor, preload_to: torch.device | None = None):
        """classes: (65536,) of all sample values."""
        self.packed, self.classes = packed, classes
        self._preloaded: Tensor | None = None  # (T,) int16
        if preload_to is not None:
            self.classes = classes.to(preload_to)
            self._preloaded = torch.empty(len(packed.samples), dtype=torch.int16, device=preload_to)
            for first in range(0, len(packed.samples), COPIED_SAMPLES):
                piece = packed.samples[first : first + COPIED_SAMPLES].astype(np.int16)  # a copy, which is writable
                self._preloaded[first : first + len(piece)] = torch.from_numpy(piece)

    def pcm(self, utterances: Ints, starts: Ints, lengths: Ints, samples: int) -> Tensor:
        """(B, samples) int16: `lengths` samples of each utterance from `starts` on, zero-padded outside of it."""
        begin = np.maximum(0, -starts)  # the part of the crop that is within the utterance
        end = np.minimum(lengths, self.packed.lengths[utterances] - starts)
        first = self.packed.offsets[utterances] + starts
        if self._preloaded is not None:
            return _gathered(self._preloaded, first, begin, end, samples)
        pcm = np.zeros((len(utterances), samples), dtype=np.int16)
        for row, low, high, at in zip(pcm, begin.tolist(), end.tolist(), first.tolist(), strict=True):
            if low < high:
                row[low:high] = self.packed.samples[at + low : at + high]
        return torch.from_numpy(pcm)


def _gathered(pcm: Tensor, first: Ints, begin: Ints, end: Ints, samples: int) -> Tensor:
    """(B, samples): from pcm[first] on, zeros before `begin` and from `end` on, all (B,)."""
    at, low, high = torch.from_numpy(np.stack([first, begin, end])).to(pcm.device, non_blocking=True)[..., None]
    steps = torch.arange(samples, device=pcm.device)
    inside = (steps >= low) & (steps < high)  # (B, samples)
    return torch.where(inside, pcm[torch.where(inside, at + steps, 0)], 0)


def _cut(
    source: _Source,
    utterances: Ints,
    starts: Ints,
    shifts: Ints,
    cfg: CropConfig,
    targets: CropTargets | None,
) -> Batch:
    """A batch of crops of the utterances (B,) from `starts` (B,); the encoder input is read `shifts` (B,) later."""
    packed = source.packed
    lengths = np.minimum(packed.lengths[utterances] - starts, cfg.samples)
    target = source.pcm(utterances, starts, lengths, cfg.samples)
    read = target if not shifts.any() else source.pcm(utterances, starts + shifts, lengths, cfg.samples)
    batch = {
        "wav": _waveform(read),
        "target": source.classes[target.int() + INT16_SCALE],
        "audio": _waveform(target)[:, 0],
        "speaker": torch.from_numpy(packed.speaker_ids[utterances]),
        "lengths": torch.from_numpy(lengths),
    }
    if cfg.past or cfg.future:
        begin, end = starts + shifts - cfg.past, starts + shifts + cfg.samples
        batch["past"] = _waveform(source.pcm(utterances, begin, np.full_like(begin, cfg.past), cfg.past))
        batch["past_lengths"] = torch.from_numpy(np.clip(starts + shifts, 0, cfg.past))
        batch["future"] = _waveform(source.pcm(utterances, end, np.full_like(end, cfg.future), cfg.future))
    if targets is not None:
        batch |= targets.of_crops(utterances, starts, cfg.samples)
    return batch


def _waveform(pcm: Tensor) -> Tensor:
    """(B, T) int16 -> (B, 1, T) float32 in [-1, 1)."""
    return pcm.float().div_(INT16_SCALE).unsqueeze(1)
