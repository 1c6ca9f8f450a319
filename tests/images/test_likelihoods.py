"""The likelihood of pixels is normalised over all values, and samples follow it."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vqaudio.images.likelihoods import LEVELS, PixelMixture, discretized_logistic, to_pixels, to_unit

GRID = to_unit(torch.arange(LEVELS))
EXACT = torch.arange(LEVELS, dtype=torch.float64) / 127.5 - 1  # the same without rounding to float32


def test_values_come_back_from_the_unit_interval() -> None:
    values = torch.arange(LEVELS, dtype=torch.uint8)
    assert torch.equal(to_pixels(to_unit(values)), values)
    assert (GRID[0], GRID[-1]) == (-1, 1)
    assert to_pixels(torch.tensor([-3.0, 3.0])).tolist() == [0, 255]


@given(st.floats(-1.5, 1.5), st.floats(-7, 4))
def test_one_colour_sums_to_one_over_the_256_values(mean: float, log_scale: float) -> None:
    log_probs = discretized_logistic(EXACT, *torch.tensor([mean, log_scale]).double())
    assert log_probs.exp().sum().item() == pytest.approx(1, abs=1e-9)


def test_a_probability_is_the_difference_of_the_cumulative_distribution() -> None:
    mean, scale = 0.1, math.exp(-2.0)

    def below(x: float) -> float:
        return 1 / (1 + math.exp(-(x - mean) / scale))

    found = discretized_logistic(GRID.double(), torch.tensor(mean).double(), torch.tensor(-2.0).double()).exp()
    edges = [(GRID[i] + GRID[i + 1]).item() / 2 for i in range(LEVELS - 1)]
    cumulative = [0.0, *map(below, edges), 1.0]
    expected = torch.tensor(cumulative).diff()
    torch.testing.assert_close(found, expected.double(), atol=1e-6, rtol=1e-4)


def test_far_from_the_mean_it_stays_finite_and_has_a_gradient() -> None:
    mean = torch.tensor(0.9, requires_grad=True)
    log_prob = discretized_logistic(GRID[10], mean, torch.tensor(-7.0))
    log_prob.backward()
    assert -3000 < log_prob.item() < -1000
    assert mean.grad is not None and mean.grad < 0  # towards the value


def test_a_pixel_of_three_colours_sums_to_one_over_all_of_its_values() -> None:
    mixture = PixelMixture(2)
    parameters = torch.randn(1, mixture.outputs, 1, 1, generator=torch.Generator().manual_seed(0))
    parameters[:, 8:14] += 2.3  # log-scales: wide enough that every value counts
    values = torch.arange(LEVELS)
    total = 0.0
    for red in range(LEVELS):
        green, blue = torch.meshgrid(values, values, indexing="ij")
        pixels = torch.stack([torch.full_like(green, red), green, blue]).to(torch.uint8)  # (3, 256, 256)
        image = pixels.flatten(1).T[:, :, None, None]
        total += mixture.log_prob(parameters.expand(len(image), -1, -1, -1), image).double().exp().sum().item()
    assert total == pytest.approx(1, abs=1e-4)


def test_draws_follow_the_likelihood() -> None:
    mixture = PixelMixture(3)
    generator = torch.Generator().manual_seed(1)
    parameters = torch.randn(1, mixture.outputs, 1, 1, generator=generator)
    parameters[:, 12:21] -= 0.7
    drawn = mixture.sample(parameters.expand(40000, -1, -1, -1), generator)
    # the mean of -log p over samples is the entropy, equal for a second set of samples
    nats = -mixture.log_prob(parameters.expand(len(drawn), -1, -1, -1), drawn)
    others = mixture.sample(parameters.expand(40000, -1, -1, -1), generator)
    again = -mixture.log_prob(parameters.expand(len(others), -1, -1, -1), others)
    assert nats.mean().item() == pytest.approx(again.mean().item(), abs=5 * nats.std().item() / 200)
    # red alone: relative frequencies against probabilities, by hand
    weights, means, log_scales, _ = mixture._split(parameters)
    each = discretized_logistic(GRID[:, None], means[0, :, 0, 0, 0], log_scales[0, :, 0, 0, 0]).exp()
    expected = (each * weights.softmax(1)[0, :, 0, 0]).sum(1)
    found = torch.bincount(drawn[:, 0, 0, 0].long(), minlength=LEVELS) / len(drawn)
    assert (found - expected).abs().sum() < 0.12


def test_draws_of_three_colours_are_as_likely_as_the_mixture_says() -> None:
    mixture = PixelMixture(2)
    parameters = torch.zeros(1, mixture.outputs, 1, 1)
    # two narrow components with dependent colours: few values, each frequent
    parameters[0, :, 0, 0] = torch.tensor(
        [0.0, 0.5, -0.3, 0.4, 0.2, -0.5, 0.1, 0.3, *[-4.0] * 6, 0.8, -0.7, 0.9, 0.5, -1.2, 1.1]
    )
    drawn = mixture.sample(parameters.expand(60_000, -1, -1, -1), torch.Generator().manual_seed(3))[:, :, 0, 0].long()
    seen, counts = drawn.unique(dim=0, return_counts=True)
    often = counts > 150
    image = seen[often].to(torch.uint8)[:, :, None, None]
    found = counts[often] / len(drawn)
    expected = mixture.log_prob(parameters.expand(len(image), -1, -1, -1), image).exp()
    assert len(image) > 20
    assert ((found - expected).abs() < 5 * (expected / len(drawn)).sqrt()).all()


def test_the_expected_pixel_is_the_mean_of_draws_also_beyond_the_range() -> None:
    mixture = PixelMixture(2)
    parameters = torch.zeros(1, mixture.outputs, 1, 1)
    parameters[0, :, 0, 0] = torch.tensor(
        [0.0, 0.0, 4.0, -1.0, -0.2, 0.3, 0.1, -0.4, *[-4.0] * 6, 2.0, 1.0, *[0.0] * 4]
    )
    drawn = mixture.sample(parameters.expand(20_000, -1, -1, -1), torch.Generator().manual_seed(3)).float().mean(0)
    torch.testing.assert_close(mixture.expected(parameters)[0].float(), drawn, atol=2.5, rtol=0)


def test_the_expected_pixel_is_the_mean_of_draws() -> None:
    mixture = PixelMixture(2)
    generator = torch.Generator().manual_seed(2)
    parameters = 0.3 * torch.randn(1, mixture.outputs, 2, 2, generator=generator)
    parameters[:, 8:14] = -2.7
    drawn = mixture.sample(parameters.expand(4000, -1, -1, -1), generator).float().mean(0)
    torch.testing.assert_close(drawn, mixture.expected(parameters)[0].float(), atol=1.5, rtol=0)


def test_a_wrong_number_of_parameters_is_explained() -> None:
    with pytest.raises(ValueError, match="needs 20 parameters per pixel, got 10"):
        PixelMixture(2).expected(torch.zeros(1, 10, 1, 1))
    with pytest.raises(ValueError, match="components must be at least 1, got 0"):
        PixelMixture(0)
