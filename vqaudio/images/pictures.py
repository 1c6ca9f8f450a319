"""Image grids and plots as PNG files.

Shapes: N images, H x W pixels.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from vqaudio.atomic import atomic_file
from vqaudio.images.files import check_pillow

MARGIN = 2  # white pixels between images, before enlargement


def grid(images: Tensor, columns: int, enlarge: int = 1) -> Tensor:
    """(N, 3, H, W) uint8 -> one image (3, H', W') uint8 with `columns` images per row, scaled up by `enlarge`."""
    if images.ndim != 4 or images.shape[1] != 3 or images.dtype != torch.uint8 or not len(images):
        raise ValueError(f"a grid needs images (N, 3, H, W) uint8, got {tuple(images.shape)} {images.dtype}")
    if columns < 1 or enlarge < 1:
        raise ValueError(f"columns and enlarge must be at least 1, got {columns} and {enlarge}")
    height, width = images.shape[2] + MARGIN, images.shape[3] + MARGIN
    rows = -(-len(images) // columns)
    picture = images.new_full((3, rows * height - MARGIN, columns * width - MARGIN), 255)
    for i, image in enumerate(images):
        y, x = i // columns * height, i % columns * width
        picture[:, y : y + height - MARGIN, x : x + width - MARGIN] = image
    return picture.repeat_interleave(enlarge, 1).repeat_interleave(enlarge, 2)


def save_png(path: Path, picture: Tensor, *, overwrite: bool = False) -> None:
    """Write (3, H, W) uint8 as a PNG file, atomically."""
    check_pillow()
    from PIL import Image

    image = Image.fromarray(picture.permute(1, 2, 0).contiguous().cpu().numpy())
    with atomic_file(path, overwrite=overwrite) as temporary:
        image.save(temporary, format="PNG", optimize=True)


def check_matplotlib() -> None:
    """Raise ModuleNotFoundError, with the extra to install, if Pillow or matplotlib is missing."""
    check_pillow()
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("plots need matplotlib: pip install 'vqaudio[images]'") from error


def plot_usage(path: Path, counts: Tensor, *, overwrite: bool = False) -> None:
    """Plot the relative frequencies of codes from their counts (K,), in descending order."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    frequencies = (counts / counts.sum()).sort(descending=True).values.tolist()
    figure, ax = plt.subplots(figsize=(5, 3), layout="constrained")
    ax.fill_between(range(len(frequencies)), frequencies, step="mid")
    ax.axhline(1 / len(frequencies), color="0.5", lw=0.8, label="uniform")
    ax.set(xlabel="code, by descending frequency", ylabel="relative frequency", yscale="log")
    ax.legend(fontsize=8)
    with atomic_file(path, overwrite=overwrite) as temporary:
        figure.savefig(temporary, dpi=90)
    plt.close(figure)
