import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("PIL", reason="images need Pillow: pip install 'vqaudio[images]'")
from PIL import Image

import vqaudio.images.corpora as image_corpora
from vqaudio.images.corpora import prepare_images
from vqaudio.images.data import PackedImages, open_images
from vqaudio.images.files import ImageError, read_image

REPOSITORY = Path(__file__).resolve().parents[2]
SPLITS = ("train", "valid", "test")


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


@pytest.fixture
def pictures(tmp_path) -> Path:
    """20 ants, 12 bees in a folder below theirs, hidden files, a text."""
    root = tmp_path / "pictures"
    rng = np.random.default_rng(0)
    for name, count in (("ant", 20), ("bee/summer", 12)):
        (root / name).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 256, (30 + i, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i:02d}{('.png', '.JPG', '.webp', '.bmp')[i % 4]}")
    (root / "ant/._00.png").write_bytes(b"left by macOS")
    (root / "ant/notes.txt").touch()
    (root / ".cache").mkdir()
    (root / ".cache/thumbnail.png").touch()
    return root


@pytest.mark.parametrize("side", [None, 16])
def test_a_folder_of_classes(tmp_path, pictures, side) -> None:
    prepared = prepare_images("images", pictures, tmp_path / "out", valid=0.25, test=0.1, side=side)
    assert prepared.classes == ("ant", "bee")
    assert prepared.images == {"train": 13 + 8, "valid": 5 + 3, "test": 2 + 1}
    found = {id: value for images in _opened(tmp_path / "out").values() for id, value in _by_id(images).items()}
    paths = [*pictures.glob("ant/[0-9]*"), *pictures.glob("bee/summer/*")]
    assert found == {
        path.relative_to(pictures).as_posix(): (read_image(path, side).tobytes(), int("bee" in path.parts))
        for path in paths
    }
    for images in _opened(tmp_path / "out").values():
        assert list(images.ids) == sorted(images.ids)
        if side is not None:
            assert set(np.minimum(images.heights, images.widths)) == {16}


def test_the_split_depends_on_the_seed_and_on_nothing_else(tmp_path, pictures) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        prepare_images("images", pictures, tmp_path / name, valid=0.25, test=0.1, seed=seed)
    assert _same(tmp_path / "a", tmp_path / "b") and not _same(tmp_path / "a", tmp_path / "c")
    prepare_images("images", pictures / "bee", tmp_path / "bees", valid=0.25, test=0.1)
    assert open_images(tmp_path / "bees/train").classes == ("summer",)


def test_a_flat_folder_is_one_class(tmp_path, pictures) -> None:
    prepared = prepare_images("images", pictures / "ant", tmp_path / "out", valid=0, test=0)
    assert (prepared.classes, prepared.images) == (("image",), {"train": 20, "valid": 0, "test": 0})
    assert set(open_images(tmp_path / "out/train").labels) == {0}
    assert len(open_images(tmp_path / "out/valid")) == 0


def test_files_that_cannot_be_used_are_named_and_the_others_done(tmp_path, pictures) -> None:
    whole = prepare_images("images", pictures, tmp_path / "whole", valid=0.25, test=0.1)
    cut, text = pictures / "ant/05.JPG", pictures / "bee/summer/08.png"
    cut.write_bytes(cut.read_bytes()[:600])
    text.write_text("text, not an image")
    prepared = prepare_images("images", pictures, tmp_path / "out", valid=0.25, test=0.1)
    assert sorted(str(error).split(" ")[0] for error in prepared.failures) == [str(cut), str(text)]
    assert sum(prepared.images.values()) == sum(whole.images.values()) - 2 == 30
    for name, images in _opened(tmp_path / "out").items():
        expected = _by_id(open_images(tmp_path / "whole" / name))
        assert _by_id(images) == {i: v for i, v in expected.items() if i not in ("ant/05.JPG", "bee/summer/08.png")}


def test_an_image_is_never_on_both_sides(tmp_path, pictures) -> None:
    """A copy is left out, wherever it lies; a file of the same size is none, and empty files are failures."""
    prepare_images("images", pictures, tmp_path / "once", valid=0.25, test=0.1)
    for i, source in enumerate(sorted((pictures / "ant").glob("[0-9]*"))):
        (pictures / "bee" / f"copy{i}.png").write_bytes(source.read_bytes())
    prepared = prepare_images("images", pictures, tmp_path / "out", valid=0.25, test=0.1)
    assert prepared.duplicates == 20
    assert _same(tmp_path / "once", tmp_path / "out")
    for name in "xy":
        (pictures / f"bee/{name}.png").touch()
        Image.fromarray(np.full((9, 9, 3), ord(name), np.uint8)).save(pictures / f"bee/{name}.bmp")
    prepared = prepare_images("images", pictures, tmp_path / "more")
    assert (prepared.duplicates, len(prepared.failures), sum(prepared.images.values())) == (20, 2, 34)


def test_not_one_usable_image_writes_nothing(tmp_path) -> None:
    (tmp_path / "pictures").mkdir()
    for i in range(5):
        (tmp_path / f"pictures/{i}.png").write_text(f"text {i}")
    with pytest.raises(ImageError, match=r"none of the 5 images in .* the first: .*\d\.png is not an image"):
        prepare_images("images", tmp_path / "pictures", tmp_path / "out")
    assert _names(tmp_path / "out") == []


def test_existing_splits_are_replaced_only_on_request_and_all_at_once(tmp_path, pictures, monkeypatch) -> None:
    out = tmp_path / "out"
    before = prepare_images("images", pictures, out)
    (out / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"out/train exists already; pass --overwrite"):
        prepare_images("images", pictures, out)
    read = image_corpora.read_image

    def fails_at_the_last(path: Path, side: int | None) -> np.ndarray:
        if "test" in {name.split(".")[1] for name in _names(out) if name.startswith(".")}:
            raise OSError("broken disk")
        return read(path, side)

    monkeypatch.setattr(image_corpora, "read_image", fails_at_the_last)
    with pytest.raises(OSError, match="broken disk"):
        prepare_images("images", pictures, out, seed=1, overwrite=True)
    monkeypatch.undo()
    assert _names(out) == ["notes.txt", "test", "train", "valid"]
    prepare_images("images", pictures, tmp_path / "fresh")
    assert _same(out, tmp_path / "fresh")
    after = prepare_images("images", pictures / "ant", out, overwrite=True)
    assert sum(after.images.values()) == 20 < sum(before.images.values())
    assert _names(out) == ["notes.txt", "test", "train", "valid"]


def test_a_killed_run_leaves_no_split_and_the_next_one_cleans_up(tmp_path, pictures) -> None:
    script = (
        "import os, pathlib, signal, sys\n"
        "import vqaudio.images.corpora as image_corpora\n"
        "read, out = image_corpora.read_image, pathlib.Path(sys.argv[2])\n"
        "def killed(path, side):\n"
        "    if list(out.glob('.test.*')):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return read(path, side)\n"
        "image_corpora.read_image = killed\n"
        "image_corpora.prepare_images('images', sys.argv[1], out)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, str(pictures), str(tmp_path / "out")],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert run.returncode == -signal.SIGKILL
    assert [name.split(".")[1] for name in _names(tmp_path / "out")] == ["test", "train", "valid"]
    prepare_images("images", pictures, tmp_path / "out")
    prepare_images("images", pictures, tmp_path / "fresh")
    assert _names(tmp_path / "out") == ["test", "train", "valid"]
    assert _same(tmp_path / "out", tmp_path / "fresh")


@pytest.mark.parametrize(
    ("kind", "root", "flags", "error", "message"),
    [
        ("cifar", "pictures", {}, ValueError, "kind must be cifar10 or images, got 'cifar'"),
        ("images", "pictures", {"valid": 0.5, "test": 0.5}, ValueError, "below 1 together, got 0.5 and 0.5"),
        ("images", "pictures", {"side": 0}, ValueError, "side must be at least 1 pixel, got 0"),
        ("images", "nowhere", {}, FileNotFoundError, "nowhere does not exist"),
        ("images", "pictures/ant/00.png", {}, NotADirectoryError, r"00\.png is a file; give the folder"),
        ("images", "empty", {}, FileNotFoundError, r"no images in .*CLASS/\*\*/\*\.png.*\.avif \.bmp \.gif \.heic"),
        ("images", "mixed", {}, ValueError, r"mixed/b\.png lies directly in .* named after its class"),
        ("cifar10", "pictures", {"side": 16}, ValueError, "leave --side out, got 16"),
        ("cifar10", "empty", {}, FileNotFoundError, r"no CIFAR-10 in .*download\.py.* \.npz file, found 0"),
    ],
)
def test_what_cannot_be_prepared_is_explained(tmp_path, pictures, kind, root, flags, error, message) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("mixed/a/a.png", "mixed/b.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(error, match=message):
        prepare_images(kind, tmp_path / root, tmp_path / "out", **flags)
    assert not (tmp_path / "out").exists()


def test_places_that_cannot_be_written_are_explained(tmp_path, pictures) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError, match=r"cannot make .*/file: .* choose a folder"):
        prepare_images("images", pictures, tmp_path / "file")
    (tmp_path / "out/valid").mkdir(parents=True)
    (tmp_path / "out/valid/thesis.tex").touch()
    with pytest.raises(FileExistsError, match=r"out/valid contains more than packed images \(thesis\.tex\)"):
        prepare_images("images", pictures, tmp_path / "out", overwrite=True)


def test_without_pillow_the_extra_is_named_before_anything_is_made(tmp_path, pictures, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'vqaudio\[images\]'"):
        prepare_images("images", pictures, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_broken_link_is_named_and_the_others_done(tmp_path, pictures) -> None:
    link = pictures / "ant/broken.png"
    link.symlink_to("nowhere.png")
    summary = prepare_images("images", pictures, tmp_path / "out")
    assert sum("broken.png does not exist" in str(failure) for failure in summary.failures) == 1


def test_a_side_beyond_every_image_is_refused(tmp_path, pictures) -> None:
    with pytest.raises(ValueError, match="side must be at most 16384 pixels, got 99999999999999999999"):
        prepare_images("images", pictures, tmp_path / "out", side=99999999999999999999)
