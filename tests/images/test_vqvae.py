"""Images to codes and back, and what the bound on their likelihood consists of."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from vqaudio import ModelError, load_model, save_model
from vqaudio.images.autoencoder import ImageCoderConfig
from vqaudio.images.vqvae import ImageConfig, ImageVQVAE


def test_decode_of_encode_is_the_decoder_on_the_quantized_vectors(image_model: ImageVQVAE, images: Tensor) -> None:
    q = image_model.quantize(images)
    codes = image_model.encode(images)
    assert codes.shape == (12, 2, 2, 2)  # (B, M, h, w)
    assert torch.equal(codes, q.codes)
    z_q = image_model.quantizer.decode(codes)
    torch.testing.assert_close(q.z_q, z_q)  # through the straight-through sum it may be rounded
    assert torch.equal(image_model.decode(codes), image_model.decoder.expected(z_q))
    assert len(codes.unique()) > 2


def test_the_bound_is_the_pixels_given_the_codes_and_log_k_for_each_code(
    image_model: ImageVQVAE, images: Tensor
) -> None:
    z_q = image_model.quantizer.decode(image_model.encode(images))
    expected = image_model.decoder.nll(z_q, images) + 8 * math.log(6)
    torch.testing.assert_close(image_model.neg_elbo(images), expected)


def test_the_loss_is_the_pixels_part_per_dimension_and_the_quantizers(
    images: Tensor, image_config: ImageConfig
) -> None:
    torch.manual_seed(0)
    model = ImageVQVAE(image_config)
    model(images)
    model.eval()
    loss, logs = model(images)
    q = model.quantize(images)
    nats = model.decoder.nll(q.z_q, images).mean()
    torch.testing.assert_close(loss, nats / 192 + q.loss)
    torch.testing.assert_close(logs["bits_of_pixels"], nats / 192 / math.log(2))
    torch.testing.assert_close(logs["bits_per_dim"], model.neg_elbo(images).mean() / 192 / math.log(2))


def test_a_saved_model_makes_the_same_codes(image_model: ImageVQVAE, images: Tensor, tmp_path: Path) -> None:
    save_model(image_model, tmp_path / "model")
    loaded = load_model(tmp_path / "model", kind=ImageVQVAE)
    assert loaded.cfg == image_model.cfg
    assert loaded.fingerprint == image_model.fingerprint
    assert torch.equal(loaded.encode(images), image_model.encode(images))
    with pytest.raises(ModelError, match="is a model of kind ImageVQVAE, but SpeechVQVAE is required"):
        load_model(tmp_path / "model")


def test_the_fingerprint_is_of_what_decides_the_codes(image_model: ImageVQVAE, tmp_path: Path) -> None:
    save_model(image_model, tmp_path / "model")
    other = load_model(tmp_path / "model", kind=ImageVQVAE)
    with torch.no_grad():
        other.decoder.into.weight.add_(1)
    assert other.fingerprint == image_model.fingerprint
    with torch.no_grad():
        other.encoder.out.weight.add_(1)
    assert other.fingerprint != image_model.fingerprint


def test_what_does_not_fit_is_explained(image_model: ImageVQVAE) -> None:
    with pytest.raises(ValueError, match="images must be uint8, 0 to 255, got"):
        image_model.encode(torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match=r"codes must lie in 0\.\.5, got 0\.\.6"):
        image_model.decode(torch.tensor([0, 6]).view(1, 2, 1, 1))
    with pytest.raises(ValueError, match="multiple of 4, the coder's stride, got 30"):
        ImageConfig(size=30)
    with pytest.raises(ValueError, match=r"quantizer.dim \(64\) must be coder.dim \(8\)"):
        ImageConfig(coder=ImageCoderConfig(dim=8))
