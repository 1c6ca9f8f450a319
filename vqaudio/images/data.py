"""Decoded images in a uint8 memory map with an index; random crops for training, centre crops for evaluation.

The folder contains `pixels.u8` (all images concatenated, each as H x W x 3) and `index.json`.
Shapes: U images, H and W pixels, B crops of S x S pixels. A batch is {"image": (B, 3, S, S) uint8}.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from einops import rearrange
from torch import Tensor

from vqaudio.data.sharding import part_slice, uniform_draws
from vqaudio.json_text import DAMAGED, read_index

VERSION = 1
PIXELS_FILE, INDEX_FILE = "pixels.u8", "index.json"
Pixels = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class PackedImages:
    """The decoded images of one split, which may have different sizes. U may be 0."""

    classes: tuple[str, ...]
    """class names, at least one; labels are indices into them. Images without classes have the class "image"."""
    ids: tuple[str, ...]
    """(U,) image ids"""
    heights: Ints
    """(U,) pixels, at least 1"""
    widths: Ints
    """(U,) pixels, at least 1"""
    labels: Ints
    """(U,) indices into classes"""
    pixels: Pixels
    """(sum of 3 H W,) read-only memory map"""

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def offsets(self) -> Ints:
        """(U + 1,) first byte of each image, and the end of the last one."""
        return np.append(0, np.cumsum(3 * self.heights * self.widths))

    def content_hash(self) -> str:
        """SHA-256 of what training uses: classes, ids, labels and pixels, wherever their files lie."""
        facts = [self.classes, self.ids, self.heights.tolist(), self.widths.tolist(), self.labels.tolist()]
        digest = hashlib.sha256(json.dumps(facts).encode())
        digest.update(np.ascontiguousarray(self.pixels).data)
        return digest.hexdigest()

    def image(self, index: int) -> Pixels:
        """(H, W, 3) of one image, a view into the memory map."""
        flat = self.pixels[self.offsets[index] : self.offsets[index + 1]]
        return flat.reshape(self.heights[index], self.widths[index], 3)


def check_target(folder: Path, *, overwrite: bool) -> None:
    """Raise the OSError that writing images to `folder` would raise, before any work is done."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise NotADirectoryError(
            f"cannot write {folder}: it is a file, and packed images are a folder; choose another name"
        )
    names = {path.name for path in folder.iterdir()}
    if unexpected := names - {PIXELS_FILE, INDEX_FILE}:
        raise FileExistsError(f"{folder} contains more than packed images ({min(unexpected)}); choose another folder")
    if names and not overwrite:
        raise FileExistsError(f"{folder} exists already; pass --overwrite to replace it")


def fill_folder(folder: Path, images: Iterable[tuple[str, Pixels, int]], classes: Sequence[str]) -> int:
    """Write pixels and index into an empty folder; returns the number of images.

    Raises ValueError for missing or duplicate classes, and, with the id of the image, for an empty or duplicate id,
    another shape or type of array, and a label out of range.
    """
    if not classes or len(set(classes)) != len(classes):
        raise ValueError(f"class names must be unique and at least one, got {', '.join(classes) or 'none'}")
    sizes: dict[str, tuple[int, int, int]] = {}
    with (folder / PIXELS_FILE).open("wb") as file:
        for id, image, label in images:
            if not id or id in sizes:
                raise ValueError(f"image ids must be unique and not empty, got {id!r} as number {len(sizes) + 1}")
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
                raise ValueError(f"image {id!r} must be (H, W, 3) uint8, got {image.shape} {image.dtype}; convert it")
            if not 0 <= label < len(classes):
                raise ValueError(f"the label of image {id!r} must lie in 0 to {len(classes) - 1}, got {label}")
            sizes[id] = (image.shape[0], image.shape[1], int(label))
            file.write(image.tobytes())
    heights, widths, labels = ([size[i] for size in sizes.values()] for i in range(3))
    index = {"version": VERSION, "classes": list(classes), "ids": list(sizes)}
    index |= {"heights": heights, "widths": widths, "labels": labels}
    (folder / INDEX_FILE).write_text(json.dumps(index), encoding="utf-8")
    return len(sizes)


def open_images(folder: str | Path) -> PackedImages:
    """Open a folder of `fill_folder`. Raises FileNotFoundError, or ValueError if it is damaged or outdated."""
    folder = Path(folder)
    index_path, pixels_path = folder / INDEX_FILE, folder / PIXELS_FILE
    if not index_path.is_file() or not pixels_path.is_file():
        raise FileNotFoundError(
            f"{folder} contains no packed images: it lacks {INDEX_FILE} or {PIXELS_FILE}; run vqaudio prepare"
        )
    advice = f"delete {folder} and prepare it again"
    index = read_index(index_path, VERSION, advice)
    try:
        heights, widths, labels = (np.array(index[key], dtype=np.int64) for key in ("heights", "widths", "labels"))
        classes, ids = tuple(index["classes"]), tuple(index["ids"])
        if not heights.shape == widths.shape == labels.shape == (len(ids),):
            raise ValueError("its lists have different lengths")
    except DAMAGED as error:
        raise ValueError(f"{index_path} is damaged ({error!r}); {advice}") from error
    num_bytes = int((3 * heights * widths).sum())
    if pixels_path.stat().st_size != num_bytes:
        raise ValueError(
            f"{pixels_path} has {pixels_path.stat().st_size} bytes, expected {num_bytes} from its index; {advice}"
        )
    # an empty file cannot be memory-mapped
    pixels = np.memmap(pixels_path, dtype=np.uint8, mode="r") if num_bytes else np.zeros(0, dtype=np.uint8)
    pixels = np.asarray(pixels)  # a plain view: slicing a np.memmap costs microseconds
    return PackedImages(classes=classes, ids=ids, heights=heights, widths=widths, labels=labels, pixels=pixels)


@dataclass(frozen=True)
class ImageCropConfig:
    """Random crops for training."""

    size: int = 32
    """side of the square crop, in pixels"""
    batch_size: int = 128
    """global batch size: crops per optimizer step over all processes and accumulation steps"""
    pad: int = 0
    """reflection padding of the image before cropping, in pixels"""
    flip: bool = True
    """random horizontal flips"""
    seed: int = 0
    """random seed; seed and step determine every crop"""

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size must be at least 1, got {self.size}")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")
        if self.pad < 0:
            raise ValueError(f"pad must be 0 or more, got {self.pad}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must lie in 0 to 2**63 - 1, got {self.seed}")


class ImageCrops:
    """Random crops for training, uniform over images and positions. Example i of a step is a pure function of
    (seed, step, i), so that the global batch does not depend on the number of processes."""

    seconds_per_step = 0.0
    """not audio"""

    def __init__(self, images: PackedImages, cfg: ImageCropConfig) -> None:
        """Raises ValueError if there are no images, an image is too small, or `pad` is not smaller than `size`."""
        if cfg.pad >= cfg.size:
            raise ValueError(f"pad must be below the size of a crop ({cfg.size}), got {cfg.pad}")
        _check_sizes(images, cfg.size, cfg.pad)
        self.images = images
        self.cfg = cfg

    def batch(self, step: int, part: int = 0, parts: int = 1) -> dict[str, Tensor]:
        """{"image": (B, 3, S, S) uint8}: slice `part` of `parts` of the global batch of a step.

        The sizes of slices differ by at most one. Raises ValueError if batch_size is smaller than `parts`.
        """
        mine = part_slice(self.cfg.batch_size, part, parts)
        draws = uniform_draws(self.cfg.seed, step, (self.cfg.batch_size, 4))[mine]
        size, pad = self.cfg.size, self.cfg.pad
        chosen = (draws[:, 0] * len(self.images)).astype(np.int64)
        tops = (draws[:, 1] * (self.images.heights[chosen] + 2 * pad - size + 1)).astype(np.int64) - pad
        lefts = (draws[:, 2] * (self.images.widths[chosen] + 2 * pad - size + 1)).astype(np.int64) - pad
        flips = (draws[:, 3] < 0.5) & self.cfg.flip
        return {"image": _cut(self.images, chosen, tops, lefts, size, flips)}


def centre_batches(
    images: PackedImages, size: int, batch_size: int, count: int | None = None
) -> Iterator[dict[str, Tensor]]:
    """Centre crops of all images in order: {"image": (B, 3, S, S) uint8, "label": (B,) int64}.

    With `count`, only that many images, evenly spaced, because images are often sorted by class. The last batch may be
    smaller. Raises ValueError immediately for a size, batch size or count out of range and for images that are too
    small.
    """
    count = len(images) if count is None else count
    _check_sizes(images, size, 0)
    if size < 1 or batch_size < 1 or not 1 <= count <= len(images):
        raise ValueError(
            f"size and batch_size must be at least 1 and count must lie in 1 to {len(images)}, "
            f"got {size}, {batch_size} and {count}"
        )
    chosen = np.arange(count) * len(images) // count
    tops, lefts = (images.heights - size) // 2, (images.widths - size) // 2
    rows = (chosen[start : start + batch_size] for start in range(0, count, batch_size))
    return (
        {
            "image": _cut(images, own, tops[own], lefts[own], size, np.zeros(len(own), dtype=bool)),
            "label": torch.from_numpy(images.labels[own]),
        }
        for own in rows
    )


def _check_sizes(images: PackedImages, size: int, pad: int) -> None:
    if len(images) == 0:
        raise ValueError("there are no images to crop; prepare the split again with a larger fraction")
    small = np.flatnonzero(np.minimum(images.heights, images.widths) + 2 * pad < size)
    if len(small):
        first = small[0]
        raise ValueError(
            f"{len(small)} of {len(images)} images are too small for crops of {size} pixels with a pad of {pad}, the "
            f"first is {images.ids[first]!r} with {images.widths[first]} x {images.heights[first]}: prepare them again "
            f"with --side {size} or more, or train a model of a smaller size"
        )


def _cut(
    images: PackedImages, chosen: Ints, tops: Ints, lefts: Ints, size: int, flips: npt.NDArray[np.bool_]
) -> Tensor:
    """(B, 3, S, S) uint8: the square at (top, left) of each chosen image (B,), flipped where `flips` is true."""
    crops = np.empty((len(chosen), size, size, 3), dtype=np.uint8)
    within = np.arange(size)
    for crop, index, top, left, flip in zip(crops, chosen, tops, lefts, flips, strict=True):
        rows = _reflected(top + within, int(images.heights[index]))
        columns = _reflected(left + within, int(images.widths[index]))
        crop[:] = images.image(index)[rows[:, None], columns[::-1] if flip else columns]
    return torch.from_numpy(np.ascontiguousarray(rearrange(crops, "b h w c -> b c h w")))


def _reflected(places: Ints, length: int) -> Ints:
    """Reflection padding: indices outside 0 to length - 1 are mirrored, without repeating the border pixel."""
    period = max(2 * (length - 1), 1)
    return length - 1 - np.abs(length - 1 - places % period)
