"""Tiny image models that several tests share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from vqaudio.atomic import atomic_folder
from vqaudio.images.autoencoder import ImageCoderConfig
from vqaudio.images.data import PackedImages, Pixels, check_target, fill_folder, open_images
from vqaudio.images.vqvae import ImageConfig, ImageVQVAE
from vqaudio.nn.vector_quantizer import VectorQuantizerConfig


def _write_images(
    folder: Path, images: Iterable[tuple[str, Pixels, int]], classes: Sequence[str], *, overwrite: bool = False
) -> PackedImages:
    check_target(folder, overwrite=overwrite)
    with atomic_folder(folder) as new:
        fill_folder(new, images, classes)
    return open_images(folder)


@pytest.fixture(scope="session")
def write_images() -> Callable[..., PackedImages]:
    """A function (folder, images (id, (H, W, 3) uint8, label), classes, overwrite=False) -> the packed images."""
    return _write_images


@pytest.fixture(scope="session")
def image_config() -> ImageConfig:
    """8 x 8 pixels, two codes at each of 2 x 2 positions, K = 6."""
    coder = ImageCoderConfig(channels=6, blocks=1, num_maps=2, dim=3, num_mixtures=2)
    return ImageConfig(size=8, coder=coder, quantizer=VectorQuantizerConfig(codebook_size=6, dim=3), vimco_samples=4)


@pytest.fixture(scope="session")
def images() -> Tensor:
    """(12, 3, 8, 8) uint8."""
    return torch.randint(256, (12, 3, 8, 8), generator=torch.Generator().manual_seed(7), dtype=torch.uint8)


@pytest.fixture(scope="session")
def image_model(image_config: ImageConfig, images: Tensor, randomise: Callable[..., nn.Module]) -> ImageVQVAE:
    """Initialised and in evaluation mode. All tests share it: do not change it."""
    torch.manual_seed(0)
    model = ImageVQVAE(image_config)
    randomise(model.encoder, seed=1)
    randomise(model.decoder, seed=2)
    model(images)
    return model.eval().requires_grad_(False)
