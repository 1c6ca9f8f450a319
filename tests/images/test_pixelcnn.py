"""Each position depends on all previous positions, and not on itself or later ones."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from vqaudio.images.pixelcnn import PixelCNN, PixelCNNConfig

HEIGHT, WIDTH = 5, 6


@pytest.fixture(params=[3, 5], ids=lambda k: f"kernel{k}")
def net(request: pytest.FixtureRequest, randomise: Callable[..., nn.Module]) -> PixelCNN:
    cfg = PixelCNNConfig(
        codebook_size=7,
        num_maps=2,
        channels=8,
        layers=5,
        kernel_size=request.param,
        head_channels=32,
        cond_dim=3,
        num_labels=4,
    )
    made = PixelCNN(cfg).double().eval()
    randomise(made)
    return made


@torch.inference_mode()
def test_a_place_changes_no_logits_before_it_and_reaches_those_after_it(net: PixelCNN) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(7, (1, HEIGHT, WIDTH), generator=generator)
    cond, label = torch.randn(1, 3, generator=generator).double(), torch.tensor([2])
    before = net(x, cond, label)
    assert before.shape == (1, 7, HEIGHT, WIDTH)
    for place in range(HEIGHT * WIDTH):
        row, column = divmod(place, WIDTH)
        changed = x.clone()
        changed[0, row, column] = (x[0, row, column] + 3) % 7
        differs = (net(changed, cond, label) != before).any(1).flatten()
        assert not differs[: place + 1].any(), place
        assert differs[place + 1 :].all(), place  # no blind spot: five layers reach over the whole map


@torch.inference_mode()
def test_label_and_condition_reach_every_place(net: PixelCNN) -> None:
    x = torch.zeros(1, HEIGHT, WIDTH, dtype=torch.long)
    cond, label = torch.zeros(1, 3).double(), torch.tensor([1])
    logits = net(x, cond, label)
    assert (net(x, cond, torch.tensor([2])) != logits).any(1).all()
    assert (net(x, cond + 1, label) != logits).any(1).all()


@torch.inference_mode()
def test_a_conditioning_map_reaches_its_place_and_those_after_it(randomise: Callable[..., nn.Module]) -> None:
    cfg = PixelCNNConfig(codebook_size=7, channels=8, layers=5, kernel_size=3, head_channels=32, cond_map_channels=2)
    net = PixelCNN(cfg).double().eval()
    randomise(net)
    x = torch.zeros(1, HEIGHT, WIDTH, dtype=torch.long)
    cond_map = torch.zeros(1, 2, HEIGHT, WIDTH).double()
    before = net(x, cond_map=cond_map)
    for row, column in ((0, 0), (2, 3), (4, 5)):
        changed = cond_map.clone()
        changed[..., row, column] = 1
        differs = (net(x, cond_map=changed) != before).any(1)[0]
        assert differs[row, column] and not differs[:row].any()
    with pytest.raises(ValueError, match="this network needs a cond_map"):
        net(x)
    with pytest.raises(ValueError, match="cond_map must have a row for each of 1 maps, got 2"):
        net(x, cond_map=cond_map.expand(2, -1, -1, -1))


def test_maps_of_a_batch_are_independent(net: PixelCNN) -> None:
    x = torch.randint(7, (3, HEIGHT, WIDTH), generator=torch.Generator().manual_seed(1))
    cond, label = torch.randn(3, 3).double(), torch.tensor([0, 1, 3])
    together = net(x, cond, label)
    for i in range(3):
        torch.testing.assert_close(net(x[i : i + 1], cond[i : i + 1], label[i : i + 1]), together[i : i + 1])


def test_conditions_that_do_not_fit_are_explained(net: PixelCNN) -> None:
    x = torch.zeros(2, HEIGHT, WIDTH, dtype=torch.long)
    with pytest.raises(ValueError, match="this network needs a cond"):
        net(x, None, torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="label must have a row for each of 2 maps, got 1"):
        net(x, torch.zeros(2, 3).double(), torch.tensor([0]))
    with pytest.raises(ValueError, match="this network has no label"):
        PixelCNN(PixelCNNConfig(codebook_size=4, channels=4, layers=1))(x, None, torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="kernel_size must be odd and at least 3, got 4"):
        PixelCNNConfig(kernel_size=4)
