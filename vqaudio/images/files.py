"""Image files in: upright, RGB, 8 bits, scaled where that is asked for."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from PIL import Image

# what Pillow may not read (.heic) is among them to be named, not to be passed over in silence
IMAGE_SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".heic", ".heif", ".avif")
)
REDUCING_GAP = 3.0  # box-filtered to three times the size first: faster, and by eye the same


class ImageError(ValueError):
    """A file that cannot be used as an image; one sentence says which, why and what to do."""


def check_pillow() -> None:
    """Raises ModuleNotFoundError, with what to install, where Pillow is missing."""
    try:
        import PIL  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("image files are read with Pillow: pip install 'vqaudio[images]'") from error


def read_image(path: str | Path, side: int | None = None) -> npt.NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB of a file, turned as its EXIF orientation says; the first frame of an animation.

    With `side` the shorter side is scaled, up or down, to so many pixels, and the longer one with it (Lanczos).
    Transparent parts are laid on white, 16 bits become their upper 8, grey, palette and CMYK images are converted.

    Raises ImageError: no such file, not an image, cut off or damaged. ModuleNotFoundError where Pillow is missing.
    """
    if side is not None and side < 1:
        raise ValueError(f"side must be at least 1 pixel, got {side}")
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
        # what Pillow raises of damaged files: SyntaxError for PNG, struct.error for EXIF among them
        raise ImageError(f"{path} cannot be read as an image ({error}); repair it or leave it out") from error
    if side is not None:
        scale = side / min(rgb.size)
        width, height = (max(side, round(pixels * scale)) for pixels in rgb.size)
        rgb = rgb.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=REDUCING_GAP)
    return np.array(rgb)


def _upright(image: Image.Image) -> Image.Image:
    """Turned as EXIF says. ImageOps.exif_transpose writes the EXIF anew, too, and fails where it is odd."""
    from PIL.ExifTags import Base
    from PIL.Image import Transpose

    image.load()  # the EXIF of a PNG may stand after its pixels
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
    if image.has_transparency_data:  # convert() would show the colours that hide below
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
