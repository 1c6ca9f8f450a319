"""A prior over code maps is a distribution, and saved it is the same one."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from vqaudio import load_model, save_model
from vqaudio.images.pixelcnn import PixelCNNConfig
from vqaudio.images.prior import ImagePrior, ImagePriorConfig
from vqaudio.nn.wavenet import WaveNetConfig
from vqaudio.speech.prior import CodePriorConfig

NET = PixelCNNConfig(codebook_size=3, channels=6, layers=2, kernel_size=3, head_channels=6)


@pytest.fixture
def prior(randomise: Callable[..., nn.Module]) -> ImagePrior:
    made = ImagePrior(ImagePriorConfig(map_shape=(2, 1, 2), classes=("cat", "dog"), model="abc", net=NET))
    randomise(made)
    made.net.logits.weight.data *= 6  # far from uniform
    return made.double().eval().requires_grad_(False)


def test_the_probabilities_of_all_maps_sum_to_one(prior: ImagePrior) -> None:
    every = torch.tensor(list(itertools.product(range(3), repeat=4))).view(-1, 2, 1, 2)
    for label in (0, 1):
        nats = prior.nll(every, torch.full((len(every),), label))
        assert (-nats).exp().sum().item() == pytest.approx(1, abs=1e-5)


def test_samples_follow_the_probabilities(prior: ImagePrior) -> None:
    label = torch.zeros(4000, dtype=torch.long)
    drawn = prior.sample(label=label, generator=torch.Generator().manual_seed(0))
    assert drawn.shape == (4000, 2, 1, 2)
    every = torch.tensor(list(itertools.product(range(3), repeat=4))).view(-1, 2, 1, 2)
    expected = (-prior.nll(every, torch.zeros(len(every), dtype=torch.long))).exp()
    index = (drawn.flatten(1) * torch.tensor([27, 9, 3, 1])).sum(1)
    found = torch.bincount(index, minlength=81) / 4000
    assert (found - expected).abs().sum() < 0.2
    assert (found - 1 / 81).abs().sum() > 0.4  # far from uniform, so that the comparison is meaningful


def test_a_saved_prior_is_the_same(prior: ImagePrior, tmp_path: Path) -> None:
    save_model(prior.float(), tmp_path / "prior")
    loaded = load_model(tmp_path / "prior", kind=ImagePrior)
    assert loaded.cfg == prior.cfg
    codes, label = torch.randint(3, (5, 2, 1, 2)), torch.tensor([0, 1, 0, 1, 1])
    assert torch.equal(loaded.nll(codes, label), prior.nll(codes, label))


def test_the_loss_is_per_code(prior: ImagePrior) -> None:
    codes, label = torch.randint(3, (5, 2, 1, 2)), torch.tensor([0, 1, 0, 1, 1])
    loss, logs = prior(codes, label)
    torch.testing.assert_close(loss, prior.nll(codes, label).mean() / 4)
    assert logs["bits_per_code"].item() == pytest.approx(loss.item() / 0.6931471805599453)


def test_an_unknown_class_is_explained(prior: ImagePrior) -> None:
    assert prior.label_id("dog") == 1
    with pytest.raises(ValueError, match="class 'cow' is not in this prior; it has cat, dog"):
        prior.label_id("cow")
    with pytest.raises(ValueError, match="classes must be different names"):
        ImagePriorConfig(classes=("a", "a"))


def test_noise_on_the_past_is_refused() -> None:
    with pytest.raises(ValueError, match=r"net\.past_noise must be 0, .* got 2\.0"):
        CodePriorConfig(net=WaveNetConfig(past_noise=2.0))
