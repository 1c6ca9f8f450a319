import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vqaudio.images.data import ImageCropConfig, ImageCrops, PackedImages, centre_batches, open_images

SIZES = [(40, 37), (12, 50), (9, 9), (33, 12)]  # height, width
CFG = ImageCropConfig(size=8, batch_size=8, seed=3)


def _noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng([height, width]).integers(0, 256, (height, width, 3), dtype=np.uint8)


SOURCES = [(f"{'cat' if i % 2 else 'ant'}/{i}.png", _noise(*size), i % 2) for i, size in enumerate(SIZES)]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, write_images: Callable[..., PackedImages]) -> PackedImages:
    return write_images(tmp_path_factory.mktemp("images") / "train", iter(SOURCES), ["ant", "cat"])


def _names(folder: Path) -> list[str]:
    """Everything in a folder, hidden files too."""
    return sorted(path.name for path in folder.iterdir())


def _assert_holds(images: PackedImages, sources: list) -> None:
    assert images.ids == tuple(id for id, _, _ in sources)
    assert images.labels.tolist() == [label for _, _, label in sources]
    assert len(images) == len(sources)
    for i, (_, pixels, _) in enumerate(sources):
        np.testing.assert_array_equal(images.image(i), pixels)
        assert (images.heights[i], images.widths[i]) == pixels.shape[:2]


def test_written_images_are_read_as_they_were(images) -> None:
    _assert_holds(images, SOURCES)
    assert images.classes == ("ant", "cat")
    assert not images.pixels.flags.writeable and np.shares_memory(images.image(1), images.pixels)


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2)), max_size=6),
    st.integers(0, 2**32),
)
@settings(max_examples=30, deadline=None)
def test_any_sizes_and_labels_survive(tmp_path_factory, write_images, shapes, seed) -> None:
    rng = np.random.default_rng(seed)
    sources = [
        (str(i), rng.integers(0, 256, (height, width, 3), dtype=np.uint8)[:, ::-1], label)
        for i, (height, width, label) in enumerate(shapes)
    ]
    folder = tmp_path_factory.mktemp("any") / "split"
    _assert_holds(write_images(folder, sources, ["a", "b", "c"]), sources)
    _assert_holds(open_images(folder), sources)


def test_images_are_streamed(tmp_path, write_images) -> None:
    """Each image is read after the previous one has been written, so that they do not accumulate in memory."""
    sizes = []

    def watched():
        for i in range(5):
            (temporary,) = tmp_path.iterdir()
            sizes.append((temporary / "pixels.u8").stat().st_size)
            yield f"{i}", np.zeros((256, 256, 3), np.uint8), 0

    write_images(tmp_path / "split", watched(), ["image"])
    assert sizes == [i * 256 * 256 * 3 for i in range(5)]


def test_existing_images_are_replaced_only_on_request(tmp_path, write_images) -> None:
    folder = tmp_path / "split"
    write_images(folder, SOURCES, ["ant", "cat"])
    with pytest.raises(FileExistsError, match="exists already; pass --overwrite"):
        write_images(folder, SOURCES[:1], ["ant"])
    _assert_holds(open_images(folder), SOURCES)
    _assert_holds(write_images(folder, SOURCES[:1], ["ant"], overwrite=True), SOURCES[:1])
    (folder / "thesis.tex").touch()
    with pytest.raises(FileExistsError, match=r"more than packed images \(thesis\.tex\)"):
        write_images(folder, SOURCES, ["ant", "cat"], overwrite=True)
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="it is a file"):
        write_images(tmp_path / "file", SOURCES, ["ant", "cat"], overwrite=True)
    assert _names(tmp_path) == ["file", "split"]


GREY = np.zeros((4, 4), np.uint8)


@pytest.mark.parametrize(
    ("image", "classes", "message"),
    [
        (("x", GREY, 0), ["a"], r"image 'x' must be \(H, W, 3\) uint8, got \(4, 4\) uint8"),
        (("x", _noise(4, 4).astype(np.float32), 0), ["a"], r"\(4, 4, 3\) float32; convert it"),
        (("x", _noise(4, 4)[:0], 0), ["a"], r"got \(0, 4, 3\) uint8"),
        (("x", _noise(4, 4), 1), ["a"], "label of image 'x' must lie in 0 to 0, got 1"),
        (("x", _noise(4, 4), -1), ["a"], "got -1"),
        (("", _noise(4, 4), 0), ["a"], "unique and not empty, got '' as number 2"),
        (("first", _noise(4, 4), 0), ["a"], "unique and not empty, got 'first' as number 2"),
        (("x", _noise(4, 4), 0), [], "at least one, got none"),
        (("x", _noise(4, 4), 0), ["a", "b", "a"], "unique and at least one, got a, b, a"),
    ],
)
def test_what_cannot_be_written_is_named_and_leaves_nothing(tmp_path, image, classes, message, write_images) -> None:
    with pytest.raises(ValueError, match=message):
        write_images(tmp_path / "split", [("first", _noise(3, 3), 0), image], classes)
    assert _names(tmp_path) == []


@pytest.mark.parametrize("had_one_before", [False, True])
def test_a_killed_writer_leaves_the_folder_as_it_was_and_the_next_one_cleans_up(
    tmp_path, had_one_before, write_images
) -> None:
    folder = tmp_path / "split"
    if had_one_before:
        write_images(folder, SOURCES[:1], ["ant"])
    script = (
        "import os, signal, sys\n"
        "import numpy as np\n"
        "from pathlib import Path\n"
        "from vqaudio.atomic import atomic_folder\n"
        "from vqaudio.images.data import fill_folder\n"
        "def images():\n"
        "    yield 'a', np.ones((500, 500, 3), np.uint8), 0\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "with atomic_folder(Path(sys.argv[1])) as new:\n"
        "    fill_folder(new, images(), ['a'])\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    run = subprocess.run([sys.executable, "-c", script, str(folder)], env=environment)
    assert run.returncode == -signal.SIGKILL
    assert len(_names(tmp_path)) == 1 + had_one_before
    assert folder.exists() == had_one_before
    if had_one_before:
        _assert_holds(open_images(folder), SOURCES[:1])
    _assert_holds(write_images(folder, SOURCES, ["ant", "cat"], overwrite=True), SOURCES)
    assert _names(tmp_path) == ["split"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("cut pixels", "has 2 bytes, expected"),
        ("other version", "version 0, this vqaudio reads version 1; delete"),
        ("no index", "contains no packed images: it lacks index.json"),
        ("{", "index.json is not JSON"),
        ("[]", "version None, this vqaudio reads version 1; delete"),
        ('{"version": 1, "heights": [1], "widths": [], "labels": [], "classes": [], "ids": []}', "different lengths"),
        ('{"version": 1}', r"index.json is damaged \(KeyError\('heights'\)\); delete"),
    ],
)
def test_damaged_folder(tmp_path, damage, message, write_images) -> None:
    folder = tmp_path / "split"
    write_images(folder, SOURCES, ["ant", "cat"])
    if damage == "cut pixels":
        (folder / "pixels.u8").write_bytes(b"12")
    elif damage == "other version":
        index = json.loads((folder / "index.json").read_text())
        (folder / "index.json").write_text(json.dumps({**index, "version": 0}))
    elif damage == "no index":
        (folder / "index.json").unlink()
    else:
        (folder / "index.json").write_text(damage)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        open_images(folder)


@settings(max_examples=25, deadline=None)
@given(step=st.integers(0, 2**40), seed=st.integers(0, 2**63 - 1), parts=st.sampled_from([2, 3, 4, 5, 8]))
def test_parts_joined_equal_the_whole(images, step, seed, parts) -> None:
    crops = ImageCrops(images, replace(CFG, seed=seed, pad=2))
    joined = torch.cat([crops.batch(step, part, parts)["image"] for part in range(parts)])
    assert torch.equal(joined, crops.batch(step)["image"])


def test_batch_is_a_pure_function_of_seed_and_step(images) -> None:
    crops, other = ImageCrops(images, CFG), ImageCrops(images, CFG)
    forwards = [crops.batch(step)["image"] for step in range(5)]
    backwards = [other.batch(step)["image"] for step in reversed(range(5))][::-1]
    assert all(torch.equal(left, right) for left, right in zip(forwards, backwards, strict=True))
    forwards.append(ImageCrops(images, replace(CFG, seed=4)).batch(0)["image"])
    assert not any(torch.equal(left, right) for i, left in enumerate(forwards) for right in forwards[i + 1 :])
    assert crops.seconds_per_step == 0.0


def test_example_does_not_depend_on_the_batch_size(images) -> None:
    large = ImageCrops(images, replace(CFG, batch_size=32)).batch(7)["image"]
    assert torch.equal(large[:4], ImageCrops(images, replace(CFG, batch_size=4)).batch(7)["image"])


def _pieces(images: PackedImages, size: int, pad: int, *, mirrored: bool) -> set[bytes]:
    """Every crop that there is, from images that numpy has padded, as (3, S, S) bytes."""
    pieces = set()
    for i in range(len(images)):
        wide = np.pad(images.image(i), ((pad, pad), (pad, pad), (0, 0)), mode="reflect")
        windows = np.lib.stride_tricks.sliding_window_view(wide, (size, size), axis=(0, 1))  # (Y, X, 3, S, S)
        windows = windows[..., ::-1] if mirrored else windows
        pieces |= {windows[y, x].tobytes() for y, x in np.ndindex(*windows.shape[:2])}
    return pieces


@pytest.mark.parametrize(("size", "pad"), [(1, 0), (8, 0), (9, 0), (8, 3), (8, 7), (13, 2), (20, 19)])
def test_every_crop_is_a_piece_of_a_reflected_image_or_its_mirror(images, size, pad) -> None:
    cfg = ImageCropConfig(size=size, batch_size=200, pad=pad, flip=False)
    plain = ImageCrops(images, cfg).batch(0)["image"]
    assert plain.shape == (200, 3, size, size) and plain.dtype == torch.uint8
    assert {crop.numpy().tobytes() for crop in plain} <= _pieces(images, size, pad, mirrored=False)
    flipped = ImageCrops(images, replace(cfg, flip=True)).batch(0)["image"]
    mirrored = (flipped != plain).flatten(1).any(1)  # flipping changes neither the images nor the places
    assert torch.equal(flipped, torch.where(mirrored[:, None, None, None], plain.flip(-1), plain))
    assert {crop.numpy().tobytes() for crop in flipped[mirrored]} <= _pieces(images, size, pad, mirrored=True)
    assert 65 < mirrored.sum() < 135 or size == 1  # five standard deviations


def test_all_images_and_places_are_equally_likely(tmp_path, write_images) -> None:
    """4 x 5 pixels with crops of 3: 2 x 3 positions, and every pixel encodes its position."""
    pixels = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    images = write_images(tmp_path / "split", [("a", pixels, 0), ("b", pixels + 100, 0)], ["image"])
    batch = ImageCrops(images, ImageCropConfig(size=3, batch_size=12000, flip=False)).batch(0)["image"]
    corners = Counter(batch[:, 0, 0, 0].tolist())
    assert set(corners) == {base + 15 * y + 3 * x for base in (0, 100) for y in range(2) for x in range(3)}
    assert all(abs(count - 1000) < 160 for count in corners.values())
    padded = ImageCrops(images, ImageCropConfig(size=3, batch_size=20000, pad=1, flip=False)).batch(0)["image"]
    pieces = Counter(crop.numpy().tobytes() for crop in padded)
    assert set(pieces) == _pieces(images, 3, 1, mirrored=False)
    assert len(pieces) == 2 * 4 * 5 and all(abs(count - 500) < 112 for count in pieces.values())


def test_centre_batches_are_the_middles_in_order(images) -> None:
    batches = list(centre_batches(images, 9, batch_size=3))
    assert [len(batch["label"]) for batch in batches] == [3, 1]
    crops = torch.cat([batch["image"] for batch in batches])
    assert crops.dtype == torch.uint8
    for crop, (_, pixels, _) in zip(crops, SOURCES, strict=True):
        top, left = (pixels.shape[0] - 9) // 2, (pixels.shape[1] - 9) // 2
        np.testing.assert_array_equal(crop.permute(1, 2, 0), pixels[top : top + 9, left : left + 9])
    assert torch.cat([batch["label"] for batch in batches]).tolist() == [0, 1, 0, 1]


def test_a_count_of_centre_crops_is_spread_over_all_images(images) -> None:
    everything = next(centre_batches(images, 9, batch_size=9))["image"]
    assert torch.equal(next(centre_batches(images, 9, 9, count=2))["image"], everything[::2])
    assert torch.equal(next(centre_batches(images, 9, 9, count=3))["image"], everything[:3])


@pytest.mark.parametrize("numbers", [(0, 1, 1), (9, 0, 1), (9, 1, 0), (9, 1, 5)])
def test_centre_batches_check_their_numbers(images, numbers) -> None:
    with pytest.raises(ValueError, match=r"at least 1 and count must lie in 1 to 4, got"):
        centre_batches(images, *numbers)


def test_images_too_small_for_a_crop_are_refused(images) -> None:
    message = r"3 of 4 images .* crops of 15 .* pad of 1, the first is 'cat/1.png' with 50 x 12: .* with --side 15"
    with pytest.raises(ValueError, match=message):
        ImageCrops(images, replace(CFG, size=15, pad=1))
    ImageCrops(images, replace(CFG, size=11, pad=1)).batch(0)
    with pytest.raises(ValueError, match=r"with 9 x 9: prepare them again with --side 10 or more"):
        centre_batches(images, 10, 4)


def test_a_split_without_images_opens_and_is_not_cropped(tmp_path, write_images) -> None:
    empty = write_images(tmp_path / "valid", [], ["image"])
    assert len(empty) == len(open_images(tmp_path / "valid")) == 0
    with pytest.raises(ValueError, match="no images to crop; prepare the split again with a larger fraction"):
        ImageCrops(empty, CFG)
    with pytest.raises(ValueError, match="no images to crop"):
        centre_batches(empty, 8, 8)


def test_every_part_has_a_crop(images) -> None:
    crops = ImageCrops(images, CFG)
    with pytest.raises(ValueError, match=r"batch_size 8 cannot be divided into 9 slices .* choose at least 9"):
        crops.batch(0, 0, 9)
    with pytest.raises(ValueError, match="part must lie in 0 to 1, got 2"):
        crops.batch(0, 2, 2)


def test_a_pad_as_large_as_the_crop_is_refused(images) -> None:
    with pytest.raises(ValueError, match=r"pad must be below the size of a crop \(8\), got 8"):
        ImageCrops(images, ImageCropConfig(size=8, pad=8))


@pytest.mark.parametrize(
    ("field", "value"), [("size", 0), ("batch_size", 0), ("pad", -1), ("seed", -1), ("seed", 2**63)]
)
def test_config_checks_itself(field, value) -> None:
    with pytest.raises(ValueError, match=rf"{field} must .* got {value}"):
        ImageCropConfig(**{field: value})
