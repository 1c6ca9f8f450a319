"""Prepares image corpora: reads CIFAR-10 or a folder of images, and packs its splits."""

from __future__ import annotations

import hashlib
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from vqaudio.atomic import atomic_folder, make_folder
from vqaudio.data.audio_folders import visible_files
from vqaudio.data.splits import check_fractions, split_group
from vqaudio.images.data import Ints, Pixels, check_target, fill_folder
from vqaudio.images.files import IMAGE_SUFFIXES, ImageError, check_pillow, check_side, read_image
from vqaudio.images.kinds import ImageKind

SPLITS = ("train", "valid", "test")
NO_CLASSES = ("image",)

# The binary version, because the Python version is a pickle, which can execute arbitrary code.
CIFAR10_ARCHIVE = "cifar-10-binary.tar.gz"
CIFAR10_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
CIFAR10_TRAIN = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
CIFAR10_TEST, CIFAR10_CLASSES = "test_batch.bin", "batches.meta.txt"
CIFAR10_RECORD = 1 + 3 * 32 * 32  # label, red plane, green plane, blue plane
NPZ_ARRAYS = ("train_images", "train_labels", "test_images", "test_labels", "class_names")


@dataclass(frozen=True)
class PreparedImages:
    """What `prepare_images` wrote."""

    out: Path
    """folder with train, valid and test, each readable with `open_images`"""
    classes: tuple[str, ...]
    """class names; ("image",) for images without classes"""
    images: dict[str, int]
    """number of images per split: train, valid, test"""
    duplicates: int
    """number of files left out as exact duplicates of an earlier one"""
    failures: tuple[ImageError, ...]
    """unusable files, which were left out"""


class _Corpus(NamedTuple):
    classes: tuple[str, ...]
    splits: dict[str, Iterator[tuple[str, Pixels, int]]]
    """split name -> iterator of (id, pixels, label), decoded lazily"""
    duplicates: int = 0


class _Source(NamedTuple):
    """An image file before it is read."""

    id: str
    path: Path
    label: int


def prepare_images(
    kind: ImageKind,
    root: str | Path,
    out: str | Path,
    *,
    valid: float = 0.05,
    test: float = 0.05,
    side: int | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> PreparedImages:
    """Find images, split them within each class by `seed`, and pack them into OUT/train, OUT/valid and OUT/test.

    All three splits are replaced together. Unusable files are left out and listed in the result.

    Args:
        kind: cifar10 or images
        root: for cifar10 the binary archive, a .npz file with train_images, train_labels, test_images, test_labels and
            class_names, or a folder with one of these. For images a folder of PNG, JPEG, WebP and BMP files, with one
            folder per class (files at any depth below it), or with all files directly in `root` (one class). Hidden
            files are skipped, and exact duplicates are left out, so that no image is in two splits
        out: output folder
        valid: fraction for validation, of the training images of CIFAR-10 or of all images
        test: fraction for testing; not used for CIFAR-10, which has an official test set
        side: scale the shorter side to this many pixels (images only)
        seed: of the split
        overwrite: replace existing splits

    Raises:
        ValueError: an unknown kind, invalid fractions or side, or a damaged archive
        FileNotFoundError: no images are found
        ImageError: no image is usable
        ModuleNotFoundError: Pillow is not installed
        OSError: a file cannot be written
    """
    out, root = Path(out).absolute(), Path(root)
    check_fractions(valid, test)
    for name in SPLITS:  # checked before the images are read, which takes a while
        check_target(out / name, overwrite=overwrite)
    if not root.exists():
        raise FileNotFoundError(f"{root} does not exist; give the folder or the archive of the images")
    failures: list[ImageError] = []
    if kind == "cifar10":
        if side is not None:
            raise ValueError(f"CIFAR-10 has 32 x 32 pixels and is not scaled; leave --side out, got {side}")
        corpus = _cifar10(root, valid, seed)
    elif kind == "images":
        check_side(side)
        corpus = _folder(root, side, failures, valid=valid, test=test, seed=seed)
    else:
        raise ValueError(f"kind must be cifar10 or images, got {kind!r}")
    make_folder(out)
    counts: dict[str, int] = {}
    with ExitStack() as folders:  # all folders are renamed on exit, or, after an error, none
        for name, images in corpus.splits.items():
            new = folders.enter_context(atomic_folder(out / name))
            counts[name] = fill_folder(new, images, corpus.classes)
        if not any(counts.values()):
            if not failures:
                raise ImageError(f"{root} contains no images")
            raise ImageError(f"none of the {len(failures)} images in {root} is usable; the first: {failures[0]}")
    return PreparedImages(out, corpus.classes, counts, corpus.duplicates, tuple(failures))


def check_archive(path: Path, md5: str) -> None:
    """Raise ValueError, with both checksums, if the MD5 of a file is wrong."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "md5").hexdigest()
    if found != md5:
        raise ValueError(
            f"{path} is damaged or another version: its MD5 is {found}, expected {md5}; delete it and download it again"
        )


def _cifar10(root: Path, valid: float, seed: int) -> _Corpus:
    path = _find_cifar10(root)
    arrays = _read_npz(path) if path.suffix == ".npz" else _read_archive(path)
    train, train_labels, test, test_labels, names = arrays
    held_out = np.zeros(len(train), dtype=bool)
    for label in range(len(names)):
        own = np.flatnonzero(train_labels == label).tolist()
        held_out[split_group(own, str, valid=valid, test=0.0, seed=seed)[1]] = True
    splits = {
        "train": _rows("train", train, train_labels, np.flatnonzero(~held_out)),
        "valid": _rows("train", train, train_labels, np.flatnonzero(held_out)),
        "test": _rows("test", test, test_labels, np.arange(len(test))),
    }
    return _Corpus(tuple(map(str, names)), splits)


def _rows(part: str, images: Pixels, labels: Ints, chosen: Ints) -> Iterator[tuple[str, Pixels, int]]:
    """Rows as (id, pixels, label); the id is the position in the official training or test set, from 0."""
    return ((f"{part}/{row:05d}", images[row], int(labels[row])) for row in chosen)


def _find_cifar10(root: Path) -> Path:
    if root.is_file():
        return root
    if (root / CIFAR10_ARCHIVE).is_file():
        return root / CIFAR10_ARCHIVE
    if len(subsets := list(root.glob("*.npz"))) == 1:
        return subsets[0]
    raise FileNotFoundError(
        f"no CIFAR-10 in {root}; searched for {CIFAR10_ARCHIVE} (see egs/cifar10/download.py) and for a single "
        f".npz file, found {len(subsets)}; give the file itself"
    )


def _read_archive(path: Path) -> Sequence[np.ndarray]:
    """The arrays of NPZ_ARRAYS, read from the archive in one pass (184 MB in memory)."""
    check_archive(path, CIFAR10_MD5)
    contents: dict[str, bytes] = {}
    with tarfile.open(path, "r|gz") as archive:
        for member in archive:
            if (file := archive.extractfile(member)) is not None:
                contents[Path(member.name).name] = file.read()
    arrays: list[np.ndarray] = []
    for names in (CIFAR10_TRAIN, (CIFAR10_TEST,)):
        joined = np.frombuffer(b"".join(contents[name] for name in names), dtype=np.uint8)
        records = joined.reshape(-1, CIFAR10_RECORD)
        planes = records[:, 1:].reshape(-1, 3, 32, 32)
        arrays += [planes.transpose(0, 2, 3, 1), records[:, 0]]  # (N, 32, 32, 3), (N,)
    return [*arrays, np.array(contents[CIFAR10_CLASSES].decode().split())]


def _read_npz(path: Path) -> Sequence[np.ndarray]:
    """The arrays of NPZ_ARRAYS. Raises ValueError if they are missing, damaged or have another shape."""
    arrays: list[np.ndarray] = []
    try:
        with zipfile.ZipFile(path) as archive:
            for name in NPZ_ARRAYS:
                with archive.open(f"{name}.npy") as file:
                    arrays.append(np.lib.format.read_array(file, allow_pickle=False))
    except KeyError as error:
        raise ValueError(f"{path} lacks an array; it must contain {', '.join(NPZ_ARRAYS)}: {error.args[0]}") from error
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} is not a readable .npz file ({error}); create it again") from error
    for name, images, labels in (("train", *arrays[:2]), ("test", *arrays[2:4])):
        right = images.shape == (len(labels), 32, 32, 3) and images.dtype == np.uint8 and labels.dtype.kind in "iu"
        if not right or labels.ndim != 1:
            raise ValueError(
                f"{path}: {name}_images must be (N, 32, 32, 3) uint8 and {name}_labels (N,) integers, got "
                f"{images.shape} {images.dtype} and {labels.shape} {labels.dtype}"
            )
    return arrays


def _folder(
    root: Path, side: int | None, failures: list[ImageError], *, valid: float, test: float, seed: int
) -> _Corpus:
    """Split the images below `root`, sorted by class and name in each split; unusable files go to `failures`."""
    check_pillow()
    if not root.is_dir():
        raise NotADirectoryError(f"{root} is a file; give the folder of the images")
    paths = _images_below(root)
    if not paths:
        raise FileNotFoundError(
            f"no images in {root}; searched for CLASS/**/*.png, *.png and the suffixes "
            f"{' '.join(sorted(IMAGE_SUFFIXES - {'.png'}))}; give the folder that contains the class folders"
        )
    strays = [path for path in paths if path.parent == root]
    if strays and len(strays) < len(paths):
        raise ValueError(
            f"{strays[0]} lies directly in {root}, others in subfolders; move it into a folder named after its class"
        )
    distinct = _distinct(paths)
    folder_of = {path: NO_CLASSES[0] if strays else path.relative_to(root).parts[0] for path in paths}
    classes = tuple(sorted(set(folder_of.values())))
    splits: dict[str, list[_Source]] = {name: [] for name in SPLITS}
    for label, name in enumerate(classes):
        own = [_Source(p.relative_to(root).as_posix(), p, label) for p in distinct if folder_of[p] == name]
        groups = split_group(own, lambda source: source.id, valid=valid, test=test, seed=seed)
        for split, group in zip(SPLITS, groups, strict=True):
            splits[split] += sorted(group)
    decoded = {name: _decoded(name, sources, side, failures) for name, sources in splits.items()}
    return _Corpus(classes, decoded, len(paths) - len(distinct))


def _images_below(root: Path) -> list[Path]:
    """Image files by suffix at any depth, sorted, as `visible_files` finds them."""
    return [path for path in visible_files(root).files if path.suffix.lower() in IMAGE_SUFFIXES]


def _distinct(paths: Sequence[Path]) -> list[Path]:
    """Without exact duplicates of an earlier file; empty files are kept, so that they are reported as failures."""
    sizes = {path: _size(path) for path in paths}
    shared = Counter(sizes.values())
    distinct: list[Path] = []
    seen: set[bytes] = set()
    for path in paths:
        if sizes[path] and shared[sizes[path]] > 1:  # only files of equal size can be equal
            try:
                with path.open("rb") as file:
                    digest = hashlib.file_digest(file, "sha256").digest()
            except OSError:  # reported when it is decoded
                distinct.append(path)
                continue
            if digest in seen:
                continue
            seen.add(digest)
        distinct.append(path)
    return distinct


def _size(path: Path) -> int:
    """Bytes of a file; 0 if it cannot be reached, as behind a broken link."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _decoded(
    name: str, sources: Iterable[_Source], side: int | None, failures: list[ImageError]
) -> Iterator[tuple[str, Pixels, int]]:
    for source in tqdm(sources, desc=f"decoding {name}", unit="image", disable=None):
        try:
            pixels = read_image(source.path, side)
        except ImageError as error:
            failures.append(error)
            continue
        yield source.id, pixels, source.label
