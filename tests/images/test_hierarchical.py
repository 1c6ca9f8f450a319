"""The bound of hierarchical models, and that their decoder uses the latents."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from vqaudio import load_model, save_model
from vqaudio.images.hierarchical import CodeMapConfig, CodeMapVAE, CodeMapVQVAE
from vqaudio.images.pixelcnn import PixelCNNConfig
from vqaudio.nn.vector_quantizer import VectorQuantizerConfig

CFG = CodeMapConfig(
    map_shape=(2, 4, 4),
    channels=8,
    num_latents=3,
    quantizer=VectorQuantizerConfig(codebook_size=4, dim=2),
    net=PixelCNNConfig(codebook_size=5, channels=6, layers=2, kernel_size=3, head_channels=6),
)
CODES = torch.randint(5, (8, 2, 4, 4), generator=torch.Generator().manual_seed(0))


def test_the_bound_is_the_codes_given_the_latents_and_three_times_log_k(randomise: Callable[..., nn.Module]) -> None:
    torch.manual_seed(0)
    model = CodeMapVQVAE(CFG)
    randomise(model.encoder)
    model(CODES)
    model.eval()
    z, cost = model.latents(CODES)
    assert z.shape == (8, 2, 3)  # (B, D, L)
    torch.testing.assert_close(cost, torch.full((8,), 3 * math.log(4)))
    _, logs = model(CODES)
    expected = (model.nll(z, CODES) + cost).mean() / 32 / math.log(2)
    torch.testing.assert_close(logs["bits_per_code"], expected.detach())
    drawn = model.sample(z, generator=torch.Generator().manual_seed(0))
    assert drawn.shape == CODES.shape
    other = z.roll(1, 0)
    assert not torch.equal(model.nll(other, CODES), model.nll(z, CODES))


def test_the_continuous_one_has_the_same_decoder(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = CodeMapVAE(CFG)
    shapes = {name: p.shape for name, p in model.decoder.named_parameters()}
    assert shapes == {name: p.shape for name, p in CodeMapVQVAE(CFG).decoder.named_parameters()}
    torch.manual_seed(1)
    loss, logs = model(CODES)
    assert logs["bits_per_code"].item() == pytest.approx(loss.item() / math.log(2))
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())
    save_model(model, tmp_path / "m")
    loaded = load_model(tmp_path / "m", kind=CodeMapVAE)
    torch.manual_seed(2)
    z, cost = loaded.latents(CODES)
    torch.manual_seed(2)
    expected = model.latents(CODES)
    assert torch.equal(z, expected[0])
    assert torch.equal(cost, expected[1])


def test_what_cannot_be_is_explained() -> None:
    with pytest.raises(ValueError, match="channels and num_latents must be at least 1, got 128 and 0"):
        CodeMapConfig(num_latents=0)
    with pytest.raises(ValueError, match=r"map_shape must be \(M, h, w\) .* got \(8, 8\)"):
        CodeMapConfig(map_shape=(8, 8))
