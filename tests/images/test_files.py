import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("PIL", reason="images need Pillow: pip install 'vqaudio[images]'")
from PIL import Image, ImageOps

from vqaudio.images.files import ImageError, read_image

NOISE = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)


def _smooth(height: int, width: int) -> np.ndarray:
    """(height, width, 3) uint8: slow waves, which survive scaling and JPEG."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(y / height * 3 + c) + np.cos(x / width * 4 - c) for c in range(3)]
    return (127 + 60 * np.stack(waves, axis=-1)).astype(np.uint8)


@pytest.mark.parametrize("suffix", ["png", "bmp", "webp"])
def test_lossless_files_are_read_bit_for_bit(tmp_path, suffix) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(NOISE).save(path, lossless=True)  # required for WebP, ignored by the others
    pixels = read_image(path)
    np.testing.assert_array_equal(pixels, NOISE)
    assert pixels.dtype == np.uint8 and pixels.flags.c_contiguous


def test_jpeg_is_near(tmp_path) -> None:
    Image.fromarray(_smooth(40, 60)).save(tmp_path / "a.jpg", quality=95)
    assert np.abs(read_image(tmp_path / "a.jpg").astype(int) - _smooth(40, 60)).max() < 10


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation) -> None:
    """The same image stored in each orientation."""
    stored = {
        1: NOISE,
        2: NOISE[:, ::-1],
        3: NOISE[::-1, ::-1],
        4: NOISE[::-1],
        5: NOISE.swapaxes(0, 1),
        6: np.rot90(NOISE, 1),
        7: NOISE.swapaxes(0, 1)[::-1, ::-1],
        8: np.rot90(NOISE, -1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored[orientation])).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), NOISE)


def test_malformed_exif_data_is_tolerated(tmp_path) -> None:
    """Two entries, big-endian: orientation 6, and HostComputer as a rational number where it should be text."""
    entries = "0112 0003 00000001 0006 0000" + "013c 0005 00000001 00000026"
    exif = b"Exif\0\0MM\0*" + bytes.fromhex(f"00000008 0002 {entries} 00000000 00000048 00000001")
    Image.fromarray(np.ascontiguousarray(np.rot90(_smooth(40, 60)))).save(tmp_path / "a.jpg", quality=95, exif=exif)
    with pytest.raises((AttributeError, ValueError)):
        ImageOps.exif_transpose(Image.open(tmp_path / "a.jpg"))
    assert np.abs(read_image(tmp_path / "a.jpg").astype(int) - _smooth(40, 60)).max() < 10


def test_other_modes_become_rgb(tmp_path) -> None:
    grey = NOISE[..., 0]
    as_rgb = np.repeat(grey[..., None], 3, axis=2)
    cases = {
        "grey": (Image.fromarray(grey), as_rgb),
        "bits": (Image.fromarray(grey > 127), np.where(as_rgb > 127, 255, 0)),
        "grey16": (Image.fromarray(grey.astype(np.uint16) * 256 + 7), as_rgb),
        "palette": (Image.fromarray(grey).convert("P"), as_rgb),
    }
    for name, (image, expected) in cases.items():
        image.save(tmp_path / f"{name}.png")
        np.testing.assert_array_equal(read_image(tmp_path / f"{name}.png"), expected, err_msg=name)
    assert Image.open(tmp_path / "grey16.png").mode.startswith("I")
    assert Image.open(tmp_path / "palette.png").mode == "P"


def test_cmyk_is_converted(tmp_path) -> None:
    image = Image.fromarray(_smooth(40, 60)).convert("CMYK")
    image.save(tmp_path / "a.jpg", quality=95)
    assert Image.open(tmp_path / "a.jpg").mode == "CMYK"
    assert np.abs(read_image(tmp_path / "a.jpg").astype(int) - _smooth(40, 60)).max() < 12


def test_what_is_transparent_is_white_and_what_is_half_so_is_half_white(tmp_path) -> None:
    alpha = np.full((12, 20, 1), 255, np.uint8)
    alpha[:4], alpha[4:8] = 0, 51
    Image.fromarray(np.concatenate([NOISE, alpha], axis=2)).save(tmp_path / "a.png")
    pixels = read_image(tmp_path / "a.png").astype(int)
    assert (pixels[:4] == 255).all()
    assert np.abs(pixels[4:8] - (0.2 * NOISE[4:8] + 0.8 * 255)).max() <= 1
    np.testing.assert_array_equal(pixels[8:], NOISE[8:])
    Image.fromarray(NOISE[..., 0]).convert("P").save(tmp_path / "p.png", transparency=int(NOISE[0, 0, 0]))
    hidden = NOISE[..., 0] == NOISE[0, 0, 0]
    assert (read_image(tmp_path / "p.png")[hidden] == 255).all()


@pytest.mark.parametrize(("size", "side", "expected"), [((40, 60), 20, (20, 30)), ((61, 40), 20, (30, 20))])
def test_the_shorter_side_is_scaled(tmp_path, size, side, expected) -> None:
    Image.fromarray(_smooth(*size)).save(tmp_path / "a.png")
    pixels = read_image(tmp_path / "a.png", side)
    assert pixels.shape == (*expected, 3)
    assert np.abs(pixels.astype(int) - _smooth(*expected)).max() < 12


@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 20))
@settings(max_examples=40, deadline=None)
def test_scaled_images_have_the_requested_side(tmp_path_factory, height, width, side) -> None:
    path = tmp_path_factory.mktemp("scaled") / "a.bmp"
    Image.fromarray(np.full((height, width, 3), 77, np.uint8)).save(path)
    pixels = read_image(path, side)
    assert min(pixels.shape[:2]) == side and (pixels == 77).all()
    assert abs(max(pixels.shape[:2]) - side * max(height, width) / min(height, width)) <= 0.5
    if side == min(height, width):
        assert pixels.shape == (height, width, 3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist; leave it out"),
        (b"", "is not an image that Pillow reads"),
        (b"text", "is not an image that Pillow reads"),
    ],
)
def test_files_that_are_no_images_are_named(tmp_path, content, message) -> None:
    path = tmp_path / "a.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ImageError, match=message) as caught:
        read_image(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp"])
@settings(max_examples=60, deadline=None)
@given(cut=st.floats(0, 1), damage=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=4))
def test_damaged_files_are_read_or_refused(tmp_path_factory, suffix, cut, damage) -> None:
    buffer = BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(NOISE).save(
        buffer, {"jpg": "jpeg"}.get(suffix, suffix), **({"exif": exif} if suffix != "bmp" else {})
    )
    content = bytearray(buffer.getvalue()[: int(len(buffer.getvalue()) * cut)] if cut < 1 else buffer.getvalue())
    for place, value in damage:
        if content:
            content[int(place * len(content))] = value
    path = tmp_path_factory.mktemp("damaged") / f"a.{suffix}"
    path.write_bytes(content)
    try:
        assert read_image(path, 8).dtype == np.uint8
    except ImageError as error:
        assert str(path) in str(error)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp"])
def test_a_file_that_is_cut_off_is_refused(tmp_path, suffix) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(np.tile(NOISE, (10, 10, 1))).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ImageError, match=rf"a\.{suffix}"):
        read_image(path)


def test_a_side_must_be_at_least_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="side must be at least 1 pixel, got 0"):
        read_image(tmp_path / "a.png", 0)


def test_without_pillow_the_extra_is_named(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'vqaudio\[images\]'"):
        read_image(tmp_path / "a.png")
