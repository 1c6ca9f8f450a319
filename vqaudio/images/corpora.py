"""Finding the images of CIFAR-10 or of a folder, and packing its splits."""

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

from vqaudio.atomic import atomic_folder, remove_leftovers
from vqaudio.data.splits import check_fractions, split_group
from vqaudio.images.data import Ints, Pixels, check_target, fill_folder
from vqaudio.images.files import IMAGE_SUFFIXES, ImageError, check_pillow, read_image
from vqaudio.images.kinds import ImageKind

SPLITS = ("train", "valid", "test")
NO_CLASSES = ("image",)

# The binary version: the Python one is a pickle, which runs whatever code is in it.
CIFAR10_ARCHIVE = "cifar-10-binary.tar.gz"
CIFAR10_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
CIFAR10_TRAIN = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
CIFAR10_TEST, CIFAR10_CLASSES = "test_batch.bin", "batches.meta.txt"
CIFAR10_RECORD = 1 + 3 * 32 * 32  # label, then the red, green and blue planes
NPZ_ARRAYS = ("train_images", "train_labels", "test_images", "test_labels", "class_names")


@dataclass(frozen=True)
class PreparedImages:
    out: Path
    """the folder with train, valid and test, each as `open_images` reads it"""
    classes: tuple[str, ...]
    """their names; ("image",) where there are none"""
    images: dict[str, int]
    """count per split: train, valid, test"""
    duplicates: int
    """files that were left out because an earlier one is the same, byte for byte"""
    failures: tuple[ImageError, ...]
    """files that cannot be used and were left out"""


class _Corpus(NamedTuple):
    classes: tuple[str, ...]
    splits: dict[str, Iterator[tuple[str, Pixels, int]]]
    """(id, pixels, label), read as they are asked for"""
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

    cifar10: `root` is the binary archive, a .npz file with train_images, train_labels, test_images, test_labels and
    class_names, or a folder that holds either. The test split is the official one (`test` is not used); `valid` is
    a share of the training images.

    images: `root` holds PNG, JPEG, WebP and BMP files, all of them in one folder per class, at any depth below it, or
    all in `root` itself: then there is one class. `valid` and `test` are shares of all. With `side`, the shorter
    side is scaled to so many pixels. Hidden files are skipped; a file that equals an earlier one (by class and
    name) is left out, so that no image is on both sides of a split.

    All three are written before the first gets its name. Files that cannot be used are left out and listed in what
    is returned. Raises ValueError for a kind, a share or a side that cannot be, or a damaged archive;
    FileNotFoundError where no images are found, ImageError where not one can be used, ModuleNotFoundError where
    Pillow is missing, OSError where it cannot write.
    """
    out, root = Path(out).absolute(), Path(root)
    check_fractions(valid, test)
    for name in SPLITS:  # before the images are read, which takes a while
        check_target(out / name, overwrite=overwrite)
    if not root.exists():
        raise FileNotFoundError(f"{root} does not exist; give the folder or the archive of the images")
    failures: list[ImageError] = []
    if kind == "cifar10":
        if side is not None:
            raise ValueError(f"CIFAR-10 has 32 x 32 pixels and is not scaled: leave --side out, got {side}")
        corpus = _cifar10(root, valid, seed)
    elif kind == "images":
        if side is not None and side < 1:
            raise ValueError(f"side must be at least 1 pixel, got {side}")
        corpus = _folder(root, side, failures, valid=valid, test=test, seed=seed)
    else:
        raise ValueError(f"kind must be cifar10 or images, got {kind!r}")
    _make_folder(out)
    counts: dict[str, int] = {}
    with ExitStack() as folders:  # renames on leaving, all of them or (after an error) none
        for name, images in corpus.splits.items():
            remove_leftovers(out / name)
            new = folders.enter_context(atomic_folder(out / name))
            counts[name] = fill_folder(new, images, corpus.classes)
        if not any(counts.values()):
            raise ImageError(f"none of the {len(failures)} images in {root} can be used; the first: {failures[0]}")
    return PreparedImages(out, corpus.classes, counts, corpus.duplicates, tuple(failures))


def check_archive(path: Path, md5: str) -> None:
    """Raises ValueError, with both sums, where a file is not the one that it should be."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "md5").hexdigest()
    if found != md5:
        raise ValueError(
            f"{path} is damaged or another version: its MD5 is {found}, it should be {md5}; "
            "remove it and download it again"
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
    """Named by where they are in the official training or test images, from 0."""
    return ((f"{part}/{row:05d}", images[row], int(labels[row])) for row in chosen)


def _find_cifar10(root: Path) -> Path:
    if root.is_file():
        return root
    if (root / CIFAR10_ARCHIVE).is_file():
        return root / CIFAR10_ARCHIVE
    if len(subsets := list(root.glob("*.npz"))) == 1:
        return subsets[0]
    raise FileNotFoundError(
        f"no CIFAR-10 in {root}; looked for {CIFAR10_ARCHIVE} (egs/cifar10/download.py fetches it) and for a single "
        f".npz file, found {len(subsets)}; give the file itself"
    )


def _read_archive(path: Path) -> Sequence[np.ndarray]:
    """The arrays of NPZ_ARRAYS, read from the archive in one pass; all in memory, they are 184 MB."""
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
    """The arrays of NPZ_ARRAYS. Raises ValueError where they are missing, damaged or of another shape."""
    arrays: list[np.ndarray] = []
    try:
        with zipfile.ZipFile(path) as archive:
            for name in NPZ_ARRAYS:
                with archive.open(f"{name}.npy") as file:
                    arrays.append(np.lib.format.read_array(file, allow_pickle=False))
    except KeyError as error:
        raise ValueError(f"{path} lacks an array; it must have {', '.join(NPZ_ARRAYS)}: {error.args[0]}") from error
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} is not a .npz file that can be read ({error}); make it again") from error
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
    """The images below `root`, sorted by class and name in each split; what cannot be read goes to `failures`."""
    check_pillow()
    if not root.is_dir():
        raise NotADirectoryError(f"{root} is a file; give the folder of the images")
    paths = _images_below(root)
    if not paths:
        raise FileNotFoundError(
            f"no images in {root}; looked for CLASS/**/*.png, *.png and the suffixes "
            f"{' '.join(sorted(IMAGE_SUFFIXES - {'.png'}))}; give the folder of the classes"
        )
    strays = [path for path in paths if path.parent == root]
    if strays and len(strays) < len(paths):
        raise ValueError(
            f"{strays[0]} lies directly in {root}, others in folders there; put it into a folder named after its class"
        )
    distinct = _distinct(paths)
    folder_of = {path: NO_CLASSES[0] if strays else path.relative_to(root).parts[0] for path in paths}
    classes = tuple(sorted(set(folder_of.values())))
    splits: dict[str, list[_Source]] = {name: [] for name in SPLITS}
    for label, name in enumerate(classes):
        own = [_Source(p.relative_to(root).as_posix(), p, label) for p in distinct if folder_of[p] == name]
        shares = split_group(own, lambda source: source.id, valid=valid, test=test, seed=seed)
        for split, share in zip(SPLITS, shares, strict=True):
            splits[split] += sorted(share)
    decoded = {name: _decoded(name, sources, side, failures) for name, sources in splits.items()}
    return _Corpus(classes, decoded, len(paths) - len(distinct))


def _images_below(root: Path) -> list[Path]:
    """Visible image files by suffix at any depth, sorted; nothing in hidden folders."""

    def is_image(path: Path) -> bool:
        hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
        return path.suffix.lower() in IMAGE_SUFFIXES and not hidden and path.is_file()

    return sorted(path for path in root.rglob("*") if is_image(path))


def _distinct(paths: Sequence[Path]) -> list[Path]:
    """Without files that equal an earlier one byte for byte; empty ones stay, to be named as failures."""
    sizes = {path: path.stat().st_size for path in paths}
    shared = Counter(sizes.values())
    distinct: list[Path] = []
    seen: set[bytes] = set()
    for path in paths:
        if sizes[path] and shared[sizes[path]] > 1:  # only then can another be equal
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").digest()
            if digest in seen:
                continue
            seen.add(digest)
        distinct.append(path)
    return distinct


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


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise type(error)(f"cannot make {out}: {error.strerror}; choose a folder that you may write to") from error
