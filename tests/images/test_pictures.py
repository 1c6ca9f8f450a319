"""Grids hold the images, and PNG files hold the grids."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from vqaudio.atomic import save_json
from vqaudio.images.pictures import grid, plot_usage, save_png

IMAGES = torch.randint(256, (5, 3, 4, 6), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_every_image_is_in_its_place_enlarged() -> None:
    picture = grid(IMAGES, columns=3, enlarge=2)
    assert picture.shape == (3, 2 * (4 + 2 + 4), 2 * (6 + 2 + 6 + 2 + 6))
    small = picture[:, ::2, ::2]
    assert torch.equal(small.repeat_interleave(2, 1).repeat_interleave(2, 2), picture)
    for i, image in enumerate(IMAGES):
        y, x = i // 3 * 6, i % 3 * 8
        assert torch.equal(small[:, y : y + 4, x : x + 6], image)
    assert (small[:, 4:6] == 255).all() and (small[:, :, 6:8] == 255).all()


def test_a_png_holds_the_picture(tmp_path: Path) -> None:
    from PIL import Image

    save_png(tmp_path / "a.png", IMAGES[0])
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), IMAGES[0].permute(1, 2, 0).numpy())
    with pytest.raises(FileExistsError, match="exists already"):
        save_png(tmp_path / "a.png", IMAGES[0])


def test_png_files_and_usage_are_written(tmp_path: Path) -> None:
    save_json(tmp_path / "f.json", {"bits": 1.5})
    assert json.loads((tmp_path / "f.json").read_text()) == {"bits": 1.5}
    plot_usage(tmp_path / "u.png", torch.tensor([3.0, 0.0, 1.0]))
    from PIL import Image

    assert np.asarray(Image.open(tmp_path / "u.png").convert("L")).std() > 5  # something is drawn


def test_what_is_no_image_is_refused() -> None:
    with pytest.raises(ValueError, match="a grid needs images"):
        grid(IMAGES.float(), 2)
    with pytest.raises(ValueError, match="columns and enlarge must be at least 1, got 0 and 1"):
        grid(IMAGES, 0)
