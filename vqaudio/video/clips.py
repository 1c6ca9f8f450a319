"""Frames as animations and strips.

Shapes: B frames, R clips of T frames, h x w positions, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from vqaudio.atomic import atomic_file
from vqaudio.images.files import check_pillow
from vqaudio.images.pictures import MARGIN, grid
from vqaudio.images.vqvae import ImageVQVAE

BATCH_SIZE = 64
COLUMNS = 12  # most frames of a strip
ENLARGE = 2
MAX_GIF_WIDTH = 65_535  # of the format
PALETTE_FRAMES = 8  # evenly spaced, of which the palette of a GIF is made


def decode_frames(model: ImageVQVAE, codes: Tensor) -> Tensor:
    """Codes (B, h, w) -> frames (B, 3, H, W) uint8 on the CPU."""
    parts = codes[:, None].split(BATCH_SIZE)
    return torch.cat([model.decode(part.to(model.device)).cpu() for part in parts])


def save_gif(
    path: Path,
    clips: Tensor,
    frame_seconds: float,
    *,
    enlarge: int = ENLARGE,
    colors: int = 256,
    overwrite: bool = False,
) -> None:
    """Write (R, T, 3, H, W) uint8 as a looping GIF with the clips side by side, atomically.

    frame_seconds: how long a frame is shown; GIF counts in hundredths of a second. colors: of the palette, which all
    frames share, 2 to 256. Raises ValueError for more clips than fit.
    """
    check_pillow()
    from PIL import Image

    check_gif_width(len(clips), clips.shape[-1], enlarge)
    pictures = [grid(frames, len(frames), enlarge).permute(1, 2, 0).cpu().numpy() for frames in clips.unbind(1)]
    spaced = pictures[:: max(1, len(pictures) // PALETTE_FRAMES)][:PALETTE_FRAMES]
    palette = Image.fromarray(np.concatenate(spaced)).quantize(colors)
    # without dithering, which would cost most of the file, and flicker
    first, *others = (
        Image.fromarray(picture).quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures
    )
    milliseconds = max(2, round(frame_seconds * 100)) * 10
    with atomic_file(path, overwrite=overwrite) as temporary:
        first.save(
            temporary, format="GIF", save_all=True, append_images=others, duration=milliseconds, loop=0, optimize=False
        )


def check_gif_width(count: int, width: int, enlarge: int = ENLARGE) -> None:
    """Raises ValueError for more clips of this width, side by side, than a GIF can have."""
    most = (MAX_GIF_WIDTH // enlarge + MARGIN) // (width + MARGIN)
    if count > most:
        raise ValueError(f"a GIF has room for {most} clips of {width} pixels side by side, got {count}; ask for fewer")


def strip(clips: Tensor, columns: Sequence[int] | None = None, enlarge: int = ENLARGE) -> Tensor:
    """(R, T, 3, H, W) uint8 -> one image (3, H', W'): a row per clip, a column per frame.

    columns: the frames to show; by default 12 or fewer, evenly spaced, with the first and the last one.
    """
    frames = clips.shape[1]
    if columns is None:
        shown = min(frames, COLUMNS)
        columns = [round(i * (frames - 1) / max(1, shown - 1)) for i in range(shown)]
    chosen = clips[:, torch.tensor(columns)]
    return grid(rearrange(chosen, "r t ... -> (r t) ..."), len(columns), enlarge)
