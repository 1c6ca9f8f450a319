"""The codes of packed images are written once, and refused to another model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from vqaudio.images.autoencoder import ImageCoderConfig
from vqaudio.images.data import PackedImages
from vqaudio.images.encoding import codes_of
from vqaudio.images.vqvae import ImageConfig, ImageVQVAE
from vqaudio.nn.vector_quantizer import VectorQuantizerConfig


@pytest.fixture
def packed(tmp_path: Path, write_images: Callable[..., PackedImages]) -> PackedImages:
    rng = np.random.default_rng(0)
    rows = ((f"i{i}", rng.integers(0, 256, (8, 10, 3), dtype=np.uint8), i % 2) for i in range(5))
    return write_images(tmp_path / "images", rows, ("cat", "dog"))


def _model(seed: int) -> ImageVQVAE:
    torch.manual_seed(seed)
    coder = ImageCoderConfig(channels=6, blocks=1, num_maps=2, dim=3, num_mixtures=2)
    return ImageVQVAE(ImageConfig(size=8, coder=coder, quantizer=VectorQuantizerConfig(codebook_size=6, dim=3))).eval()


def test_they_are_the_models_codes_of_the_middle_and_of_its_mirror_image(packed: PackedImages, tmp_path: Path) -> None:
    model = _model(0)
    maps = codes_of(model, packed, tmp_path / "codes" / "train.safetensors", mirrored=True)
    middle = np.stack([packed.image(i)[:, 1:9] for i in range(5)])
    images = torch.from_numpy(middle).permute(0, 3, 1, 2).contiguous()
    assert torch.equal(maps.codes, torch.cat([model.encode(images), model.encode(images.flip(3))]))
    assert maps.labels.tolist() == [0, 1, 0, 1, 0] * 2
    assert maps.model == model.fingerprint


def test_they_are_computed_once(packed: PackedImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, model = tmp_path / "codes.safetensors", _model(0)
    first = codes_of(model, packed, path)
    monkeypatch.setattr(ImageVQVAE, "encode", None)
    assert torch.equal(codes_of(model, packed, path).codes, first.codes)


def test_codes_of_another_model_or_of_other_images_are_refused(
    packed: PackedImages, tmp_path: Path, write_images: Callable[..., PackedImages]
) -> None:
    path = tmp_path / "codes.safetensors"
    codes_of(_model(0), packed, path)
    with pytest.raises(ValueError, match=f"this is model {_model(1).fingerprint}"):
        codes_of(_model(1), packed, path)
    with pytest.raises(ValueError, match="contains codes of other images, or of the same images prepared differently"):
        codes_of(_model(0), packed, path, mirrored=True)
    rows = ((id, packed.image(i)[::-1], int(packed.labels[i])) for i, id in enumerate(packed.ids))
    other = write_images(tmp_path / "turned", rows, ("cat", "dog"))  # the same names and sizes
    with pytest.raises(ValueError, match="contains codes of other images"):
        codes_of(_model(0), other, path)
