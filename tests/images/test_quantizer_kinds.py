"""Image models with each kind of quantizer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from vqaudio import load_model, save_model
from vqaudio.images.hierarchical import CodeMapConfig, CodeMapVQVAE
from vqaudio.images.metrics import image_metrics
from vqaudio.images.pixelcnn import PixelCNNConfig
from vqaudio.images.vqvae import ImageConfig, ImageVQVAE
from vqaudio.nn.fsq import FSQConfig
from vqaudio.nn.quantizer import QuantizerConfig
from vqaudio.nn.vector_quantizer import VectorQuantizerConfig

KINDS: dict[str, QuantizerConfig] = {
    "fsq": FSQConfig(levels=(3, 4), dim=3),
    "fsq without projections": FSQConfig(levels=(3, 3, 3), dim=3),
    "rotation": VectorQuantizerConfig(codebook_size=12, dim=3, rotation_trick=True),
    "simvq": VectorQuantizerConfig(codebook_size=12, dim=3, codebook_update="simvq", restart_threshold=0),
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_model_is_trained_saved_and_loaded(
    image_config: ImageConfig, images: Tensor, kind: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = ImageVQVAE(replace(image_config, quantizer=KINDS[kind]))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(30):
        loss, logs = model(images)
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[1]
    assert {"quantizer_loss", "perplexity", "usage", "dead_codes"} <= logs.keys()
    metrics = image_metrics(model.eval(), [{"image": images}])
    assert metrics["codebook_size"] == KINDS[kind].codebook_size
    save_model(model, tmp_path / "model")
    loaded = load_model(tmp_path / "model", kind=ImageVQVAE)
    assert loaded.cfg == model.cfg and loaded.fingerprint == model.fingerprint
    codes = model.encode(images)
    assert torch.equal(loaded.encode(images), codes)
    assert torch.equal(loaded.decode(codes), model.decode(codes))


@pytest.mark.parametrize("kind", KINDS)
def test_a_hierarchical_model_takes_each_kind(kind: str) -> None:
    net = PixelCNNConfig(codebook_size=6, channels=8, layers=2, head_channels=8)
    model = CodeMapVQVAE(CodeMapConfig(map_shape=(1, 4, 4), channels=8, quantizer=KINDS[kind], net=net))
    codes = torch.randint(6, (5, 1, 4, 4), generator=torch.Generator().manual_seed(0))
    loss, logs = model(codes)
    loss.backward()
    assert logs["bits_of_latents"].item() > 0 and loss.isfinite()
    assert model.encoder.out.weight.grad is not None and model.encoder.out.weight.grad.any()
