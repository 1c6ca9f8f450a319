"""Runs with provoked failures on the embedded corpus: each gets its verdict within 200 steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from vqaudio.data.crops import CropConfig, SpeechCrops, validation_batches
from vqaudio.data.manifest import read_manifest
from vqaudio.data.packed import PackedSpeech, pack
from vqaudio.metrics.conditioning_gap import conditioning_metrics
from vqaudio.nn.encoder import EncoderConfig
from vqaudio.nn.vector_quantizer import VectorQuantizerConfig
from vqaudio.nn.wavenet import WaveNetConfig
from vqaudio.speech.model import SpeechVQVAE, SpeechVQVAEConfig
from vqaudio.training import FitConfig, TrainingError, fit
from vqaudio.training.metrics_file import read_metrics

MINI = Path(__file__).parents[2] / "egs" / "mini"
STEPS = 120

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> tuple[PackedSpeech, list[dict[str, Tensor]]]:
    """Training speech, and held-out batches."""
    folder = tmp_path_factory.mktemp("packed")
    train, valid = (
        pack(list(read_manifest(MINI / f"{split}.jsonl")), folder / split, 16000) for split in ("train", "valid")
    )
    return train, validation_batches(valid, 2048, 8, 2, num_classes=256)


@pytest.fixture
def model(speech: tuple[PackedSpeech, list[dict[str, Tensor]]]) -> SpeechVQVAE:
    torch.manual_seed(0)
    return SpeechVQVAE(
        SpeechVQVAEConfig(
            speakers=speech[0].speakers,
            encoder=EncoderConfig(channels=(16, 16, 32, 32, 64, 64), dilations=(1, 2), dim=32),
            quantizer=VectorQuantizerConfig(codebook_size=128, dim=32, commitment_warmup_steps=200),
            decoder=WaveNetConfig(
                layers=8, layers_per_stack=8, residual_channels=32, skip_channels=64, cond_hidden_channels=64
            ),
        )
    )


@pytest.fixture
def train(speech: tuple[PackedSpeech, list[dict[str, Tensor]]], tmp_path: Path) -> Callable[..., list[str]]:
    """(model, **settings of fit) -> the verdict of each evaluation."""

    def run(model: SpeechVQVAE, **settings) -> list[str]:
        crops = SpeechCrops(speech[0], CropConfig(samples=2048, batch_size=4), 256)
        options = {"lr": 1e-3, "ema_decay": 0.9, "save_every": STEPS, **settings}
        cfg = FitConfig(steps=STEPS, evaluate_every=STEPS // 2, **options)
        try:
            fit(model, crops, cfg, tmp_path, evaluate=lambda m: conditioning_metrics(m, speech[1]))
        finally:
            rows = read_metrics(tmp_path / "metrics.jsonl")
        return [row["verdict"] for row in rows if row["kind"] == "valid"]

    return run


def test_an_intact_run_is_healthy_after_its_first_steps(model, train) -> None:
    assert train(model) == ["too early", "healthy"]


def test_zeroed_codes_are_a_posterior_collapse_and_stop_the_run_on_request(model, train, monkeypatch) -> None:
    conditioned = SpeechVQVAE.conditioned
    monkeypatch.setattr(
        SpeechVQVAE, "conditioned", lambda self, z_q, *rest: conditioned(self, torch.zeros_like(z_q), *rest)
    )
    message = f"stopped at step {STEPS}, because training does not recover from this: posterior collapse"
    with pytest.raises(TrainingError, match=message):
        train(model, stop_when_collapsed=True)


@pytest.mark.long
def test_a_constant_encoder_collapses_the_codebook(model, train) -> None:
    class Constant(nn.Module):
        def forward(self, z: Tensor, mask: Tensor | None = None) -> Tensor:
            return torch.ones_like(z)

    model.normalizer = Constant()
    assert train(model)[-1] == "codebook collapse"


@pytest.mark.long
def test_speakers_at_random_are_ignored(model, train, monkeypatch) -> None:
    batch = SpeechCrops.batch

    def shuffled(self, step: int, part: int, parts: int) -> dict[str, Tensor]:
        made = batch(self, step, part, parts)
        generator = torch.Generator().manual_seed(step)
        return {**made, "speaker": torch.randint(len(self.packed.speakers), made["speaker"].shape, generator=generator)}

    monkeypatch.setattr(SpeechCrops, "batch", shuffled)
    assert train(model)[-1] == "speaker ignored"


def test_a_learning_rate_of_100_diverges(model, train) -> None:
    try:
        assert train(model, lr=100.0, lr_warmup_steps=0)[-1] == "diverged"
    except TrainingError as error:  # the loss was not finite
        assert "diverged" in str(error)
