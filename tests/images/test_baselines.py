"""The baselines agree with their equations, by enumeration on tiny models."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from einops import rearrange
from torch import Tensor

from vqaudio.images.autoencoder import ImageCoderConfig
from vqaudio.images.baselines import ImageGumbel, ImageVAE, ImageVIMCO, kl_to_uniform, sample_codes, vimco
from vqaudio.images.elbo import sample_gaussian
from vqaudio.images.vqvae import ImageConfig
from vqaudio.nn.vector_quantizer import VectorQuantizerConfig


def test_the_gaussians_divergence_is_the_mean_over_many_draws() -> None:
    generator = torch.Generator().manual_seed(0)
    mean, log_scale = torch.randn(2, 1, 6, generator=generator, dtype=torch.float64) * 0.5
    torch.manual_seed(0)
    draws, kl = sample_gaussian(mean.expand(200_000, 6), log_scale.expand(200_000, 6))
    scale = (5 * torch.tanh(log_scale / 5)).exp()
    log_q = torch.distributions.Normal(mean, scale).log_prob(draws).sum(1)
    log_p = torch.distributions.Normal(0.0, 1.0).log_prob(draws).sum(1)
    differences = log_q - log_p
    assert differences.mean().item() == pytest.approx(kl[0].item(), abs=4 * differences.std().item() / 200_000**0.5)
    exact = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, scale), torch.distributions.Normal(torch.zeros(6), torch.ones(6))
    )
    torch.testing.assert_close(kl[0], exact.sum())


def test_a_draw_of_the_gaussian_carries_its_gradient() -> None:
    mean, log_scale = torch.zeros(1, 1, requires_grad=True), torch.zeros(1, 1, requires_grad=True)
    torch.manual_seed(3)
    z, _ = sample_gaussian(mean, log_scale)
    z.sum().backward()
    assert mean.grad is not None and mean.grad.item() == 1
    assert log_scale.grad is not None and log_scale.grad.item() == pytest.approx(z.item())  # d exp(s) e / ds at s = 0


@pytest.mark.parametrize("samples", [2, 3])
def test_vimcos_gradient_is_that_of_its_bound_with_every_draw_counted_out(samples: int) -> None:
    """One latent of three codes, `samples` draws: the mean of the estimator over all draws, weighted with their
    probability, is the gradient of the mean of the bound."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(3, generator=generator, dtype=torch.float64).requires_grad_()
    log_joint = torch.randn(3, generator=generator, dtype=torch.float64).requires_grad_()  # log p(x, z)
    exact, estimated = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for draws in itertools.product(range(3), repeat=samples):
        codes = torch.tensor(draws)
        log_q = logits.log_softmax(0)[codes][:, None]  # (S, 1)
        bound, signal = vimco(log_joint[codes][:, None] - log_q)
        probability = log_q.sum().exp()
        exact = exact + probability * bound.sum()
        estimated = estimated + probability.detach() * (bound + (signal * log_q).sum(0)).sum()
    for found, expected in zip(
        torch.autograd.grad(estimated, (logits, log_joint), retain_graph=True),
        torch.autograd.grad(exact, (logits, log_joint)),
        strict=True,
    ):
        torch.testing.assert_close(found, expected)
        assert expected.abs().max() > 1e-3


@pytest.fixture
def smallest() -> ImageConfig:
    """4 x 4 pixels, one position with two codes, K = 3: nine configurations."""
    coder = ImageCoderConfig(channels=4, blocks=1, num_maps=2, dim=2, num_mixtures=1)
    return ImageConfig(size=4, coder=coder, quantizer=VectorQuantizerConfig(codebook_size=3, dim=2), vimco_samples=2)


def _parts(model: ImageVIMCO, image: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    """A configuration (M, h, w) -> log p(image, z), log q(z | image), both ()."""
    z = rearrange(model.embed(codes[None]), "b m h w d -> b d m h w")
    log_q = model.posterior(image)[0].gather(0, codes[None])[0].sum()
    return (-model.decoder.nll(z, image))[0] - codes.numel() * math.log(3), log_q


def test_vimco_of_a_whole_model_has_the_gradient_of_the_bound_over_all_configurations(
    smallest: ImageConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = ImageVIMCO(smallest).double()
    image = torch.randint(256, (1, 3, 4, 4), dtype=torch.uint8)
    monkeypatch.setattr("vqaudio.images.baselines.to_unit", lambda pixels: pixels.double() / 127.5 - 1)
    with torch.no_grad():
        model.posterior.logits.weight.mul_(4)
    every = [torch.tensor(c).view(2, 1, 1) for c in itertools.product(range(3), repeat=2)]
    parameters = [p for p in model.parameters() if p.requires_grad]
    exact = torch.zeros((), dtype=torch.float64)
    estimated = [torch.zeros_like(p) for p in parameters]
    for first, second in itertools.product(every, every):
        pairs = [_parts(model, image, codes) for codes in (first, second)]
        log_f = torch.stack([joint - log_q for joint, log_q in pairs])
        probability = sum(log_q for _, log_q in pairs).exp()  # pyright: ignore[reportAttributeAccessIssue]
        exact = exact - probability * (torch.logsumexp(log_f, 0) - math.log(2)) / smallest.num_dims
        drawn = torch.stack([first, second])[:, None]  # (S, B, M, h, w)
        monkeypatch.setattr("vqaudio.images.baselines.sample_codes", lambda _, draws, drawn=drawn: drawn)
        loss, _ = model(image)
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        for total, gradient in zip(estimated, gradients, strict=True):
            if gradient is not None:
                total += probability.detach() * gradient
    expected = torch.autograd.grad(exact, parameters, allow_unused=True)
    for name, found, wanted in zip((n for n, _ in model.named_parameters()), estimated, expected, strict=True):
        torch.testing.assert_close(
            found, torch.zeros_like(found) if wanted is None else wanted, msg=name, atol=1e-10, rtol=1e-7
        )
    assert estimated[0].abs().max() > 1e-6


def test_draws_of_codes_follow_the_posterior() -> None:
    log_q = torch.randn(2, 4, 1, 1, 2, generator=torch.Generator().manual_seed(0)).log_softmax(1)
    torch.manual_seed(0)
    codes = sample_codes(log_q, 20_000)
    assert codes.shape == (20_000, 2, 1, 1, 2)
    for b, w in itertools.product(range(2), range(2)):
        shares = torch.bincount(codes[:, b, 0, 0, w], minlength=4) / 20_000
        torch.testing.assert_close(shares, log_q[b, :, 0, 0, w].exp(), atol=0.02, rtol=0)


def test_the_divergence_from_uniform_is_between_nothing_and_log_k() -> None:
    uniform, certain = torch.zeros(1, 4, 1, 2, 2).log_softmax(1), torch.full((1, 4, 1, 2, 2), -1e4)
    certain[:, 1] = 0
    assert kl_to_uniform(uniform).item() == pytest.approx(0, abs=1e-6)
    assert kl_to_uniform(certain).item() == pytest.approx(4 * math.log(4))


def test_gumbels_latents_are_codes_and_not_mixtures_of_them(image_config: ImageConfig, images: Tensor) -> None:
    torch.manual_seed(0)
    model = ImageGumbel(image_config)
    z, _ = model.latents(images)
    rows = rearrange(z, "b d m h w -> (b m h w) d")
    assert (torch.cdist(rows, model.embed.weight).min(1).values < 0.01).all()


@pytest.mark.parametrize("kind", [ImageVAE, ImageVIMCO, ImageGumbel])
def test_the_loss_is_the_bound_per_dimension(
    kind: type[ImageVAE] | type[ImageVIMCO] | type[ImageGumbel], image_config: ImageConfig, images: Tensor
) -> None:
    torch.manual_seed(0)
    model = kind(image_config)
    torch.manual_seed(1)
    loss, logs = model(images)
    torch.manual_seed(1)
    bound = model.neg_elbo(images)
    torch.testing.assert_close(loss, bound.mean() / 192)
    torch.testing.assert_close(logs["bits_per_dim"], loss.detach() / math.log(2))
    torch.testing.assert_close(logs["bits_of_pixels"] + logs["bits_of_latents"], logs["bits_per_dim"])
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name


@pytest.mark.parametrize("kind", [ImageVAE, ImageVIMCO, ImageGumbel])
def test_all_kinds_reduce_their_loss(
    kind: type[ImageVAE] | type[ImageVIMCO] | type[ImageGumbel], image_config: ImageConfig
) -> None:
    torch.manual_seed(0)
    model = kind(image_config)
    images = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
    images[:2] = 255
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    bits = []
    for _ in range(60):
        loss, logs = model(images)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        bits.append(logs["bits_per_dim"].item())
    assert bits[-1] < bits[0] / 2
