"""Tiny image models that several tests share."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from vqaudio.images.autoencoder import ImageCoderConfig
from vqaudio.images.vqvae import ImageConfig, ImageVQVAE
from vqaudio.nn.vector_quantizer import VectorQuantizerConfig


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
