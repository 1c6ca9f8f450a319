"""Shapes of the image encoder and decoder, and what they refuse."""

from __future__ import annotations

import pytest
import torch

from vqaudio.images.autoencoder import ImageCoderConfig, ImageDecoder, ImageEncoder
from vqaudio.nn.conv import ResidualBlock2d

CODER = ImageCoderConfig(stages=2, channels=8, blocks=1, num_maps=3, dim=4, num_mixtures=2)


def test_the_maps_have_a_quarter_of_the_side_and_the_decoder_mirrors_them() -> None:
    image = torch.rand(2, 3, 16, 24) * 2 - 1
    z = ImageEncoder(CODER)(image)
    assert z.shape == (2, 4, 3, 4, 6)  # (B, D, M, h, w)
    assert ImageDecoder(CODER)(z).shape == (2, 20, 16, 24)
    assert ImageEncoder(CODER, outputs=2)(image).shape == (2, 8, 3, 4, 6)


def test_the_papers_coder_is_as_the_paper_states_it() -> None:
    encoder = ImageEncoder(ImageCoderConfig(num_maps=10))
    convolutions = [layer for layer in encoder.layers if isinstance(layer, torch.nn.Conv2d)]
    assert [(c.kernel_size, c.stride, c.out_channels) for c in convolutions] == [((4, 4), (2, 2), 256)] * 2
    assert sum(isinstance(layer, ResidualBlock2d) for layer in encoder.layers) == 2


def test_a_block_is_initially_the_identity() -> None:
    x = torch.randn(1, 6, 5, 5)
    assert torch.equal(ResidualBlock2d(6)(x), x)


def test_images_without_a_map_are_refused() -> None:
    with pytest.raises(ValueError, match=r"multiples of 4, got \(1, 3, 30, 32\)"):
        ImageEncoder(CODER)(torch.zeros(1, 3, 30, 32))
    with pytest.raises(ValueError, match=r"got \(1, 1, 32, 32\)"):
        ImageEncoder(CODER)(torch.zeros(1, 1, 32, 32))
    with pytest.raises(ValueError, match="maps must be at least 1, got 0"):
        ImageCoderConfig(num_maps=0)
