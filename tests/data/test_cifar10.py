"""CIFAR-10 as an archive in its official layout, which the tests write, and as .npz; Pillow is not needed."""

import hashlib
import io
import os
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

import vqaudio.images.corpora as image_corpora
from vqaudio.images.corpora import prepare_images
from vqaudio.images.data import PackedImages, open_images

REPOSITORY = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("VQAUDIO_DATA", REPOSITORY.parent / "shared" / "data"))
SPLITS = ("train", "valid", "test")
CLASSES = ("airplane", "automobile", "bird")


def _names(folder: Path) -> list[str]:
    """Everything in a folder, hidden files too."""
    return sorted(path.name for path in folder.iterdir())


def _opened(out: Path) -> dict[str, PackedImages]:
    return {name: open_images(out / name) for name in SPLITS}


def _by_id(images: PackedImages) -> dict[str, tuple[bytes, int]]:
    return {id: (images.image(i).tobytes(), int(images.labels[i])) for i, id in enumerate(images.ids)}


def _same(left: Path, right: Path) -> bool:
    return all(
        (left / name / file).read_bytes() == (right / name / file).read_bytes()
        for name in SPLITS
        for file in ("index.json", "pixels.u8")
    )


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    """100 training and 13 test images of three classes."""
    rng = np.random.default_rng(0)
    return {
        "train_images": rng.integers(0, 256, (100, 32, 32, 3), dtype=np.uint8),
        "train_labels": rng.integers(0, 3, 100, dtype=np.uint8),
        "test_images": rng.integers(0, 256, (13, 32, 32, 3), dtype=np.uint8),
        "test_labels": rng.integers(0, 3, 13, dtype=np.uint8),
        "class_names": np.array(CLASSES),
    }


def _write_archive(path: Path, arrays: dict[str, np.ndarray]) -> str:
    """The official layout, with its members in no order and 20 records per batch. -> MD5"""
    contents = {"batches.meta.txt": "".join(f"{name}\n" for name in [*CLASSES, ""]).encode(), "readme.html": b"<html>"}
    for name, part, rows in [
        *((f"data_batch_{i + 1}.bin", "train", slice(20 * i, 20 * i + 20)) for i in (0, 2, 3, 4, 1)),
        ("test_batch.bin", "test", slice(None)),
    ]:
        records = zip(arrays[f"{part}_labels"][rows], arrays[f"{part}_images"][rows], strict=True)
        contents[name] = b"".join(bytes([label]) + image.transpose(2, 0, 1).tobytes() for label, image in records)
    with tarfile.open(path, "w:gz") as archive:
        archive.addfile(folder := tarfile.TarInfo("cifar-10-batches-bin"))
        assert folder.size == 0
        for name, content in contents.items():
            (member := tarfile.TarInfo(f"cifar-10-batches-bin/{name}")).size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture
def archive(tmp_path, arrays, monkeypatch) -> Path:
    path = tmp_path / "cifar-10-binary.tar.gz"
    monkeypatch.setattr(image_corpora, "CIFAR10_MD5", _write_archive(path, arrays))
    return path


def test_cifar10_survives_bit_for_bit(tmp_path, arrays, archive) -> None:
    prepared = prepare_images("cifar10", archive, tmp_path / "out", valid=0.2)
    splits = _opened(tmp_path / "out")
    assert prepared.out == tmp_path / "out"
    assert prepared.images == {name: len(images) for name, images in splits.items()}
    assert (prepared.classes, prepared.duplicates, prepared.failures) == (CLASSES, 0, ())
    assert {images.classes for images in splits.values()} == {CLASSES}
    np.testing.assert_array_equal(splits["test"].pixels, arrays["test_images"].ravel())
    assert splits["test"].labels.tolist() == arrays["test_labels"].tolist()
    train, valid = _by_id(splits["train"]), _by_id(splits["valid"])
    assert list(train) == sorted(train) and not train.keys() & valid.keys()
    expected = zip(arrays["train_images"], arrays["train_labels"], strict=True)
    assert train | valid == {f"train/{i:05d}": (image.tobytes(), label) for i, (image, label) in enumerate(expected)}
    for label in range(3):
        share = 0.2 * (arrays["train_labels"] == label).sum()
        assert abs((splits["valid"].labels == label).sum() - share) <= 0.5


def test_the_archive_its_folder_and_the_npz_give_the_same(tmp_path, arrays, archive) -> None:
    prepare_images("cifar10", archive, tmp_path / "a")
    prepare_images("cifar10", archive.parent, tmp_path / "b")
    (tmp_path / "subset").mkdir()
    np.savez_compressed(tmp_path / "subset" / "x.npz", **arrays)
    prepare_images("cifar10", tmp_path / "subset", tmp_path / "c")
    prepare_images("cifar10", tmp_path / "subset" / "x.npz", tmp_path / "d")
    assert all(_same(tmp_path / "a", tmp_path / name) for name in "bcd")
    prepare_images("cifar10", archive, tmp_path / "e", seed=1)
    assert not _same(tmp_path / "a", tmp_path / "e")
    assert _by_id(open_images(tmp_path / "a/test")) == _by_id(open_images(tmp_path / "e/test"))


@pytest.mark.parametrize("damage", ["another", "cut"])
def test_a_damaged_archive_is_refused_with_both_sums(tmp_path, archive, damage) -> None:
    content = archive.read_bytes()
    archive.write_bytes(content[:-100] if damage == "cut" else content + b"x")
    found = hashlib.md5(archive.read_bytes()).hexdigest()
    with pytest.raises(ValueError, match=rf"its MD5 is {found}, expected {image_corpora.CIFAR10_MD5}; .* again"):
        prepare_images("cifar10", archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test_labels": None}, r"x\.npz lacks an array; it must contain train_images, .*test_labels\.npy"),
        (
            {"test_labels": np.zeros(12, np.uint8)},
            r"test_images must be \(N, 32, 32, 3\) uint8 .* got \(13, 32, 32, 3\)",
        ),
        ({"train_images": np.zeros((100, 32, 32, 3))}, r"train_images must be .* got \(100, 32, 32, 3\) float64"),
        ({"train_labels": np.full(100, 3)}, r"label of image 'train/\d+' must lie in 0 to 2, got 3"),
        ({"class_names": np.array([{}, {}, {}])}, r"not a readable \.npz file \(Object arrays .*allow_pickle"),
    ],
)
def test_an_npz_that_cannot_be_used_is_explained(tmp_path, arrays, change, message) -> None:
    kept = {name: array for name, array in {**arrays, **change}.items() if array is not None}
    np.savez(tmp_path / "x.npz", allow_pickle=True, **kept)
    with pytest.raises(ValueError, match=message):
        prepare_images("cifar10", tmp_path / "x.npz", tmp_path / "out")
    assert not (tmp_path / "out").exists() or _names(tmp_path / "out") == []


def test_a_truncated_npz_is_refused(tmp_path, arrays) -> None:
    np.savez(tmp_path / "x.npz", **arrays)
    (tmp_path / "x.npz").write_bytes((tmp_path / "x.npz").read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"x\.npz is not a readable \.npz file"):
        prepare_images("cifar10", tmp_path / "x.npz", tmp_path / "out")


@pytest.mark.data
@pytest.mark.skipif(
    not (DATA / "cifar10_lossless.npz").is_file(),
    reason=f"{DATA} lacks cifar10_lossless.npz; set VQAUDIO_DATA to its folder",
)
def test_real_cifar10_images_survive_bit_for_bit(tmp_path) -> None:
    prepared = prepare_images("cifar10", DATA, tmp_path / "out", valid=0.1)
    assert prepared.classes[:2] == ("airplane", "automobile") and len(prepared.classes) == 10
    splits = _opened(tmp_path / "out")
    with np.load(DATA / "cifar10_lossless.npz", allow_pickle=False) as real:
        np.testing.assert_array_equal(splits["test"].pixels, real["test_images"].ravel())
        expected = zip(real["train_images"], real["train_labels"], strict=True)
        found = _by_id(splits["train"]) | _by_id(splits["valid"])
        assert found == {f"train/{i:05d}": (image.tobytes(), label) for i, (image, label) in enumerate(expected)}


def test_pillow_is_not_needed(tmp_path, archive, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert sum(prepare_images("cifar10", archive, tmp_path / "out").images.values()) == 113
