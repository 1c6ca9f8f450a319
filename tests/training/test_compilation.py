"""A WaveNet that is compiled in training: the same run, rounded otherwise, and no trace of it in the model."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vqaudio.config import from_dict, load_yaml, save_yaml
from vqaudio.nn.wavenet import WaveNet, WaveNetConfig
from vqaudio.training import FitConfig, fit
from vqaudio.training.compilation import CompiledParts, can_compile
from vqaudio.training.metrics_file import read_metrics


class Crops:
    seconds_per_step = 0.0

    def batch(self, step: int, part: int = 0, parts: int = 1) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(step)
        steps = torch.randint(8, (4, 24), generator=generator).cumsum(1) % 16
        size = 4 // parts
        return {"target": steps[part * size : (part + 1) * size]}


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        cfg = WaveNetConfig(num_classes=16, layers=2, layers_per_stack=2, residual_channels=4, skip_channels=8)
        self.net = WaveNet(cfg)

    def forward(self, target: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        logits, _ = self.net(self.net.shift(target))
        loss = F.cross_entropy(logits.float(), target)
        return loss, {"nats": loss.detach()}


def _run(out: Path, compile: str, steps: int = 6) -> Decoder:
    cfg = FitConfig(steps=steps, precision="no", log_every=1, save_every=3, compile=compile)  # pyright: ignore[reportArgumentType]
    return fit(Decoder(), Crops(), cfg, out)


@pytest.mark.long
def test_a_compiled_run_is_the_same_run_and_can_be_continued_either_way(tmp_path: Path) -> None:
    plain, compiled = _run(tmp_path / "plain", "false"), _run(tmp_path / "compiled", "true")
    again = _run(tmp_path / "again", "true")
    assert list(plain.state_dict()) == list(compiled.state_dict())
    for name, value in compiled.state_dict().items():
        torch.testing.assert_close(value, plain.state_dict()[name], rtol=1e-3, atol=1e-4)
        assert torch.equal(value, again.state_dict()[name])
    losses = [[row["nats"] for row in read_metrics(tmp_path / run / "metrics.jsonl")] for run in ("plain", "compiled")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    last = tmp_path / "again/checkpoints/00000006"
    for file in last.iterdir():
        file.unlink()
    last.rmdir()
    resumed = _run(tmp_path / "again", "true")
    assert all(torch.equal(value, compiled.state_dict()[name]) for name, value in resumed.state_dict().items())
    further = _run(tmp_path / "again", "false", steps=8)
    assert list(further.state_dict()) == list(plain.state_dict())


def test_outside_of_a_training_step_nothing_is_compiled() -> None:
    model = Decoder()
    calls = CompiledParts(model, "true", torch.device("cpu"))
    assert len(calls) == 1
    with calls.used():
        assert model.net._compiled_call_impl is not None
        assert copy.deepcopy(model).net._compiled_call_impl is None
    assert model.net._compiled_call_impl is None
    assert list(model.state_dict()) == list(Decoder().state_dict())


def test_auto_is_off_on_a_cpu() -> None:
    assert not can_compile(torch.device("cpu"))
    assert not len(CompiledParts(Decoder(), "auto", torch.device("cpu")))
    assert not len(CompiledParts(Decoder(), "false", torch.device("cpu")))
    assert not len(CompiledParts(nn.Linear(2, 2), "true", torch.device("cpu")))


@pytest.mark.parametrize(("value", "expected"), [(True, "true"), (False, "false"), ("auto", "auto"), ("true", "true")])
def test_yaml_may_say_true_and_false(value: object, expected: str, tmp_path: Path) -> None:
    cfg = from_dict(FitConfig, {"compile": value})
    assert cfg.compile == expected
    save_yaml(cfg, tmp_path / "fit.yaml")
    assert load_yaml(FitConfig, tmp_path / "fit.yaml") == cfg
