"""Strips and animations show the right frames, and animations are small."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vqaudio.video.clips import save_gif, strip


def _clips(count: int, frames: int, size: int = 8) -> torch.Tensor:
    """Frames of one color each, all of which differ."""
    shades = torch.arange(count * frames, dtype=torch.uint8).view(count, frames)
    colors = torch.stack([20 * shades, 255 - 15 * shades, 7 * shades], 2)
    return colors[..., None, None].expand(-1, -1, -1, size, size)


def test_a_strip_has_a_row_for_each_clip_and_a_column_for_each_frame() -> None:
    clips = _clips(2, 5)
    picture = strip(clips, enlarge=1)
    assert picture.shape == (3, 2 * 10 - 2, 5 * 10 - 2)
    assert torch.equal(picture[:, ::10, ::10], clips[..., 0, 0].permute(2, 0, 1))
    assert torch.equal(strip(clips, [1, 4], enlarge=1)[:, ::10, ::10], clips[:, [1, 4], :, 0, 0].permute(2, 0, 1))


def test_of_a_long_clip_twelve_frames_are_shown_with_the_first_and_the_last_one() -> None:
    clips = torch.arange(50, dtype=torch.uint8)[None, :, None, None, None].expand(1, -1, 3, 8, 8)
    shown = strip(clips, enlarge=1)[0, 0, ::10].tolist()
    assert len(shown) == 12 and shown[0] == 0 and shown[-1] == 49 and shown == sorted(set(shown))


@pytest.mark.parametrize("enlarge", [1, 3])
def test_an_animation_shows_the_clips_side_by_side(tmp_path: Path, enlarge: int) -> None:
    clips = _clips(2, 4)
    save_gif(tmp_path / "a.gif", clips, 2 / 35, enlarge=enlarge)
    with Image.open(tmp_path / "a.gif") as animation:
        assert animation.size == ((2 * 10 - 2) * enlarge, 8 * enlarge)
        assert getattr(animation, "n_frames", 1) == 4 and animation.info["duration"] == 60
        for number in range(4):
            animation.seek(number)
            shown = np.asarray(animation.convert("RGB"))[0, :: 10 * enlarge].astype(int)
            assert np.abs(shown - clips[:, number, :, 0, 0].numpy().astype(int)).max() <= 4


def test_fewer_colors_make_a_smaller_file(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    clips = torch.randint(256, (1, 4, 3, 32, 32), generator=generator, dtype=torch.uint8)
    for name, colors in (("many", 256), ("few", 16)):
        save_gif(tmp_path / f"{name}.gif", clips, 0.1, colors=colors)
        with Image.open(tmp_path / f"{name}.gif") as animation:
            found = animation.convert("RGB").getcolors(100_000)
            assert found is not None and len(found) <= colors
    assert 1.5 * (tmp_path / "few.gif").stat().st_size < (tmp_path / "many.gif").stat().st_size


def test_more_clips_than_a_gif_has_room_for_are_refused(tmp_path: Path) -> None:
    clips = torch.zeros(1, 1, 3, 1, 1, dtype=torch.uint8).expand(10_923, -1, -1, 8, 8)
    with pytest.raises(ValueError, match="a GIF has room for 3276 clips of 8 pixels side by side, got 10923"):
        save_gif(tmp_path / "a.gif", clips, 0.1)
    assert not list(tmp_path.iterdir())
