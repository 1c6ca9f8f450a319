"""Training targets of the frames of packed speech: a cluster and a vector per frame, in memory maps.

Shapes: U utterances, N frames in total, L numbers per vector, B crops.

The folder contains `clusters.i16`, `vectors.f16` (little-endian, all utterances concatenated) and `targets.json`.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from filelock import FileLock
from torch import Tensor

from vqaudio.atomic import atomic_folder
from vqaudio.data.packed import PackedSpeech
from vqaudio.json_text import DAMAGED, parse_json
from vqaudio.nn.units import NO_TARGET

CLUSTERS_FILE, VECTORS_FILE, INDEX_FILE = "clusters.i16", "vectors.f16", "targets.json"

Ints = npt.NDArray[np.int64]
Targets = tuple[npt.NDArray[np.int16], npt.NDArray[np.float16]]  # clusters (N,) and vectors (N, L) of an utterance


@dataclass(frozen=True, eq=False)
class FrameTargets:
    """Targets of all frames of a packed corpus."""

    clusters: npt.NDArray[np.int16]
    """(N,) at least 0"""
    vectors: npt.NDArray[np.float16]
    """(N, L)"""
    offsets: Ints
    """(U,) first frame of each utterance"""
    lengths: Ints
    """(U,) frames of each utterance"""
    hop: int
    """samples per frame"""

    def of_crops(self, utterances: Ints, starts: Ints, count: int, margin: int) -> tuple[Tensor, Tensor]:
        """Crops of the utterances (B,) from `starts` (B,), in samples, multiples of the hop -> clusters, vectors.

        (B, margin + count + margin) int64, NO_TARGET outside the utterance, and (B, margin + count + margin, L)
        float32, 0 there.
        """
        width = margin + count + margin
        at = starts[:, None] // self.hop - margin + np.arange(width)  # (B, width) frame of the utterance
        inside = (at >= 0) & (at < self.lengths[utterances][:, None])
        rows = self.offsets[utterances][:, None] + np.where(inside, at, 0)
        clusters = np.where(inside, self.clusters[rows], NO_TARGET).astype(np.int64)
        vectors = self.vectors[rows].astype(np.float32) * inside[..., None]
        return torch.from_numpy(clusters), torch.from_numpy(vectors)


def cached_targets(
    folder: Path, speech: PackedSpeech, hop: int, key: str, make: Callable[[], Iterable[Targets]]
) -> FrameTargets:
    """The targets in `folder` if they were made with this `key`; otherwise those of `make`, one pair per utterance.

    `key` identifies all that determines them. Concurrent processes wait for the first one and reuse its result. The
    folder is written atomically. Raises OSError if it cannot be written or is not a folder of targets.
    """
    if (found := _open_if_same(folder, key)) is not None:
        return found
    if folder.exists() and not (folder / INDEX_FILE).is_file():
        raise FileExistsError(f"{folder} exists and holds no frame targets; choose another folder, or remove it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        # another process may have made them while this one waited for the lock
        if (found := _open_if_same(folder, key)) is None:
            with atomic_folder(folder) as partial:
                _write(partial, speech, hop, key, make())
            found = _open_if_same(folder, key)
    assert found is not None
    return found


def num_target_frames(num_samples: int, hop: int) -> int:
    """ceil(num_samples / hop)."""
    return -(-num_samples // hop)


def _write(folder: Path, speech: PackedSpeech, hop: int, key: str, targets: Iterable[Targets]) -> None:
    lengths: list[int] = []
    width = 0
    with (folder / CLUSTERS_FILE).open("wb") as clusters_file, (folder / VECTORS_FILE).open("wb") as vectors_file:
        for (clusters, vectors), num_samples in zip(targets, speech.lengths.tolist(), strict=True):
            assert len(clusters) == len(vectors) == num_target_frames(num_samples, hop)
            clusters_file.write(clusters.astype("<i2").tobytes())
            vectors_file.write(vectors.astype("<f2").tobytes())
            lengths.append(len(clusters))
            width = vectors.shape[1]
    index = {"key": key, "hop": hop, "lengths": lengths, "width": width}
    (folder / INDEX_FILE).write_text(json.dumps(index), encoding="utf-8")


def _open_if_same(folder: Path, key: str) -> FrameTargets | None:
    """The targets in `folder` if they were made with this key and are complete, else None."""
    try:
        index = parse_json((folder / INDEX_FILE).read_bytes())
        if index["key"] != key:
            return None
        lengths, width, hop = np.array(index["lengths"], dtype=np.int64), int(index["width"]), int(index["hop"])
    except (FileNotFoundError, NotADirectoryError, *DAMAGED):
        return None
    total = int(lengths.sum())
    if not _has_size(folder / CLUSTERS_FILE, 2 * total) or not _has_size(folder / VECTORS_FILE, 2 * total * width):
        return None
    clusters = np.memmap(folder / CLUSTERS_FILE, dtype="<i2", mode="r", shape=(total,))
    vectors = np.memmap(folder / VECTORS_FILE, dtype="<f2", mode="r", shape=(total, width))
    offsets = _offsets(lengths.tolist())
    return FrameTargets(np.asarray(clusters), np.asarray(vectors), offsets, lengths, hop)


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _offsets(lengths: Sequence[int]) -> Ints:
    return np.cumsum([0, *lengths[:-1]], dtype=np.int64)
