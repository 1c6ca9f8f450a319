"""Reads image files as 8-bit RGB, with EXIF orientation applied, optionally scaled."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from PIL import Image

# includes formats that Pillow may not support (.heic), so that such files are reported instead of skipped
IMAGE_SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".heic", ".heif", ".avif")
)
REDUCING_GAP = 3.0  # of Pillow: a fast box filter first, down to 3 times the final size; visually lossless

MAX_SIDE = 16_384  # pixels; more is a mistake


class ImageError(ValueError):
    """A file that cannot be used as an image; the message names the file, the reason and the remedy."""


def check_side(side: int | None) -> None:
    """Raise ValueError for a number of pixels that is out of range."""
    if side is not None and not 1 <= side <= MAX_SIDE:
        bound = "least 1 pixel" if side < 1 else f"most {MAX_SIDE} pixels"
        raise ValueError(f"side must be at {bound}, got {side}; leave it out to keep the size of the images")


def check_pillow() -> None:
    """Raise ModuleNotFoundError, with the extra to install, if Pillow is missing."""
    try:
        import PIL  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("reading image files needs Pillow: pip install 'vqaudio[images]'") from error


def read_image(path: str | Path, side: int | None = None) -> npt.NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB pixels of a file, with EXIF orientation applied; the first frame of an animation.

    With `side`, the image is scaled (Lanczos) so that the shorter side has this many pixels. Transparent images are
    composed on white, 16-bit values are reduced to their upper 8 bits, and grey, palette and CMYK images are converted.

    Raises ImageError for a missing, damaged or unsupported file, ModuleNotFoundError if Pillow is missing.
    """
    check_side(side)
    check_pillow()
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            rgb = _rgb(_upright(image))
    except FileNotFoundError as error:
        raise ImageError(f"{path} does not exist; leave it out") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{path} is not an image that Pillow reads; convert it or leave it out") from error
    except (OSError, ValueError, SyntaxError, struct.error, Image.DecompressionBombError) as error:
        # Pillow raises all of these for damaged files, such as SyntaxError for PNG and struct.error for EXIF
        raise ImageError(f"{path} cannot be read as an image ({error}); repair it or leave it out") from error
    if side is not None:
        scale = side / min(rgb.size)
        width, height = (max(side, round(pixels * scale)) for pixels in rgb.size)
        rgb = rgb.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=REDUCING_GAP)
    return np.array(rgb)


def _upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation. ImageOps.exif_transpose also rewrites the EXIF data, and fails if it is malformed."""
    from PIL.ExifTags import Base
    from PIL.Image import Transpose

    image.load()  # the EXIF data of a PNG file may come after the pixels
    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    turn = turns.get(image.getexif().get(Base.Orientation, 1))
    return image if turn is None else image.transpose(turn)


def _rgb(image: Image.Image) -> Image.Image:
    from PIL import Image

    if image.mode.startswith("I"):  # 16 bits of grey: convert() would clip them at 255
        image = Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:  # convert() would reveal the colours of transparent pixels
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
