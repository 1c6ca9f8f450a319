"""Cached sampling equals the reference loop."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from vqaudio.images.pixelcnn import PixelCNN, PixelCNNConfig
from vqaudio.images.sampling import generate_map, generate_map_cached
from vqaudio.sampling.config import SamplingConfig

CONFIGS = {
    "alone": PixelCNNConfig(codebook_size=5, channels=6, layers=3, kernel_size=3, head_channels=8),
    "labelled": PixelCNNConfig(
        codebook_size=5, num_maps=3, channels=6, layers=2, kernel_size=5, head_channels=8, num_labels=4
    ),
    "conditioned": PixelCNNConfig(codebook_size=9, channels=4, layers=4, kernel_size=7, head_channels=6, cond_dim=2),
    "mapped": PixelCNNConfig(codebook_size=5, channels=4, layers=2, head_channels=6, cond_dim=2, cond_map_channels=3),
    "mapped alone": PixelCNNConfig(codebook_size=5, channels=4, layers=2, head_channels=6, cond_map_channels=3),
}


def _given(cfg: PixelCNNConfig, count: int) -> dict[str, torch.Tensor | None]:
    return {
        "cond": torch.linspace(-1, 1, count * 2).view(count, 2).double() if cfg.cond_dim else None,
        "label": torch.arange(count) % cfg.num_labels if cfg.num_labels else None,
        "cond_map": torch.linspace(-2, 2, count * 72).view(count, 3, 4, 6).double() if cfg.cond_map_channels else None,
    }


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(
    "options",
    [{}, {"temperature": 0.5, "top_k": 3}, {"temperature": 0.0}, {"top_p": 0.7}, {"top_k": 4, "top_p": 0.5}],
    ids=str,
)
def test_cached_equals_naive(name: str, options: dict, randomise: Callable[..., nn.Module]) -> None:
    net = PixelCNN(CONFIGS[name]).double().eval()
    randomise(net)
    count = 3
    given = {"sampling": SamplingConfig(**options, seed=5), "count": count, **_given(net.cfg, count)}
    drawn = [make(net, 4, 6, **given) for make in (generate_map, generate_map_cached)]
    assert torch.equal(*drawn)
    assert drawn[0].shape == (count, 4, 6)
    if not options:
        assert len(drawn[0].unique()) > 2  # it is not one code everywhere


def test_with_a_generator_each_a_map_does_not_depend_on_its_neighbours(randomise: Callable[..., nn.Module]) -> None:
    net = PixelCNN(CONFIGS["alone"]).double().eval()
    randomise(net)
    seeds = [3, 4, 5]
    together = generate_map_cached(net, 4, 4, generator=[torch.Generator().manual_seed(s) for s in seeds], count=3)
    for row, seed in zip(together, seeds, strict=True):
        alone = generate_map_cached(net, 4, 4, generator=[torch.Generator().manual_seed(seed)], count=1)
        assert torch.equal(row, alone[0])


def test_what_cannot_be_drawn_is_explained() -> None:
    net = PixelCNN(CONFIGS["labelled"])
    with pytest.raises(ValueError, match="at least one row and column, got 0 x 3"):
        generate_map_cached(net, 0, 3, label=torch.tensor([0]))
    with pytest.raises(ValueError, match="precision bf16 is for speech"):
        generate_map(net, 2, 3, label=torch.tensor([0]), sampling=SamplingConfig(precision="bf16"))
    with pytest.raises(ValueError, match="this network needs a label"):
        generate_map_cached(net, 2, 3)
