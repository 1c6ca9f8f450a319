"""Metrics of image models against their components."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from vqaudio.images.autoencoder import ImageCoderConfig
from vqaudio.images.baselines import ImageGumbel, ImageVAE, ImageVIMCO
from vqaudio.images.codes import CodeMaps
from vqaudio.images.hierarchical import CodeMapConfig, CodeMapVAE
from vqaudio.images.metrics import hierarchical_metrics, image_metrics, image_prior_metrics, unigram_probabilities
from vqaudio.images.pixelcnn import PixelCNNConfig
from vqaudio.images.prior import ImagePrior, ImagePriorConfig
from vqaudio.images.vqvae import ImageConfig, ImageVQVAE
from vqaudio.nn.vector_quantizer import VectorQuantizerConfig

CODER = ImageCoderConfig(channels=6, blocks=1, num_maps=2, dim=3, num_mixtures=2)
CFG = ImageConfig(size=8, coder=CODER, quantizer=VectorQuantizerConfig(codebook_size=6, dim=3), vimco_samples=3)
IMAGES = torch.randint(256, (10, 3, 8, 8), generator=torch.Generator().manual_seed(7), dtype=torch.uint8)
BATCHES = [{"image": IMAGES[:4]}, {"image": IMAGES[4:]}]
NET = PixelCNNConfig(codebook_size=5, channels=6, layers=2, kernel_size=3, head_channels=32)


@pytest.mark.parametrize("kind", [ImageVQVAE, ImageVAE, ImageVIMCO, ImageGumbel])
def test_bits_are_the_mean_bound_over_images_whatever_the_batches(
    kind: type[ImageVQVAE] | type[ImageVAE] | type[ImageVIMCO] | type[ImageGumbel],
    randomise: Callable[..., nn.Module],
) -> None:
    torch.manual_seed(0)
    model = kind(CFG)
    randomise(model)
    metrics = image_metrics(model.eval(), BATCHES)
    assert metrics == image_metrics(model, BATCHES)  # samples depend on the seed only
    assert metrics["bits_of_pixels"] + metrics["bits_of_latents"] == pytest.approx(metrics["bits_per_dim"])
    if isinstance(model, ImageVIMCO):  # a multi-sample bound, after one sample of the latents for each batch
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(0)
            bounds = [(model.latents(batch["image"]), model.neg_elbo(batch["image"]))[1] for batch in BATCHES]
        expected = torch.cat(bounds).mean().item() / 192 / math.log(2)
        assert metrics["bits_per_dim"] == pytest.approx(expected, rel=1e-5)
    if isinstance(model, ImageVQVAE):
        expected = model.neg_elbo(IMAGES).double() / 192 / math.log(2)
        assert metrics["bits_per_dim"] == pytest.approx(expected.mean().item(), rel=1e-5)
        assert metrics["bits_per_dim_error"] == pytest.approx(1.96 * expected.std().item() / 10**0.5, rel=1e-4)
        used = model.encode(IMAGES).unique()
        assert metrics["usage"] == pytest.approx(len(used) / 6)
        assert metrics["bits_of_latents"] == pytest.approx(8 * math.log2(6) / 192)
    else:
        assert "usage" not in metrics


def test_a_decoder_that_ignores_its_latents_has_no_gap(randomise: Callable[..., nn.Module]) -> None:
    model = ImageVQVAE(CFG)
    randomise(model)
    assert image_metrics(model.eval(), BATCHES)["conditioning_gap"] != 0
    with torch.no_grad():
        model.decoder.into.weight.zero_()
    assert image_metrics(model, BATCHES)["conditioning_gap"] == 0


def test_metrics_do_not_change_the_global_random_state() -> None:
    model = ImageVAE(CFG).eval()
    torch.manual_seed(4)
    expected = torch.rand(3)
    torch.manual_seed(4)
    image_metrics(model, BATCHES)
    assert torch.equal(torch.rand(3), expected)


def test_a_prior_is_compared_with_code_frequencies(randomise: Callable[..., nn.Module]) -> None:
    codes = torch.zeros(4, 2, 2, 2, dtype=torch.long)
    codes[:, 1] = torch.tensor([[0, 1], [2, 3]])
    maps = CodeMaps(codes, torch.tensor([0, 0, 0, 1]), ("cat", "dog"), 5, "x", "s")
    shares = unigram_probabilities(maps)
    torch.testing.assert_close(shares[0], torch.tensor([17, 1, 1, 1, 1]) / 21)
    prior = ImagePrior(ImagePriorConfig(map_shape=(2, 2, 2), classes=("cat", "dog"), net=NET))
    randomise(prior)
    metrics = image_prior_metrics(prior.eval(), maps, shares, batch_size=3)
    expected = -(math.log2(17 / 21) + math.log2(5 / 21)) / 2
    assert metrics["unigram_bits"] == pytest.approx(expected, rel=1e-5)
    other = prior.nll(codes, 1 - maps.labels).mean().item() / 8 / math.log(2)
    assert metrics["label_gap"] == pytest.approx(other - metrics["bits_per_code"], rel=1e-3)
    renamed = CodeMaps(codes, 1 - maps.labels, ("dog", "cat"), 5, "x", "s")
    assert image_prior_metrics(prior, renamed, shares)["bits_per_code"] == pytest.approx(metrics["bits_per_code"])
    with pytest.raises(ValueError, match="class 'cow' is not in this prior"):
        image_prior_metrics(prior, CodeMaps(codes, maps.labels, ("cat", "cow"), 5, "x", "s"), shares)
    nats = prior.nll(codes, maps.labels)
    assert metrics["bits_per_code"] == pytest.approx(nats.mean().item() / 8 / math.log(2), rel=1e-5)


def test_a_hierarchical_model_is_measured_in_bits_per_code(randomise: Callable[..., nn.Module]) -> None:
    codes = torch.randint(5, (6, 2, 4, 4), generator=torch.Generator().manual_seed(0))
    model = CodeMapVAE(
        CodeMapConfig(map_shape=(2, 4, 4), channels=6, quantizer=VectorQuantizerConfig(codebook_size=4, dim=2), net=NET)
    )
    randomise(model)
    metrics = hierarchical_metrics(model.eval(), [{"codes": codes}])
    assert metrics["bits_of_codes"] + metrics["bits_of_latents"] == pytest.approx(metrics["bits_per_code"])
    assert metrics["conditioning_gap"] != 0


def test_what_cannot_be_measured_is_explained() -> None:
    model = ImageVQVAE(CFG)
    with pytest.raises(RuntimeError, match="training mode"):
        image_metrics(model, BATCHES)
    model.eval()
    for few in ([{"image": IMAGES[:1]}], []):
        with pytest.raises(ValueError, match="at least 2 examples are needed"):
            image_metrics(model, few)


def test_a_last_batch_of_one_counts_as_any_other(randomise: Callable[..., nn.Module]) -> None:
    model = ImageVQVAE(CFG)
    randomise(model)
    model.eval()
    z, nll = model.latents(IMAGES)[0], model.decoder.nll
    before = torch.cat([z[:1], z[:-1]])  # the first example has no previous batch and is paired with itself
    expected = (nll(before, IMAGES) - nll(z, IMAGES)).mean().item() / 192 / math.log(2)
    found = image_metrics(model, [{"image": image[None]} for image in IMAGES])["conditioning_gap"]
    assert found == pytest.approx(expected, rel=1e-2, abs=1e-6)
