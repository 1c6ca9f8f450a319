"""fit with a single process; interruptions and several processes are in test_interrupted and test_distributed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from torch import nn

from vqaudio.training import FitConfig, TrainingError, fit
from vqaudio.training.curves import PANELS, plot_curves
from vqaudio.training.health import LOSS_METRICS
from vqaudio.training.metrics_file import read_metrics


class Numbers:
    """A loader of fixed numbers: batch k of a regression problem."""

    seconds_per_step = 0.0

    def batch(self, step: int, part: int = 0, parts: int = 1) -> dict[str, torch.Tensor]:
        rows = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        size = 8 // parts
        return {"x": rows[part * size : (part + 1) * size]}


class Regression(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(4, 8)
        self.layers = nn.Sequential(self.first, nn.Tanh(), nn.Dropout(0.25), nn.Linear(8, 1))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        loss = (self.layers(x) - x.sum(1, keepdim=True)).square().mean()
        return loss, {"root": loss.detach().sqrt()}


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_resumed_equals_uninterrupted(tmp_path: Path, average: float) -> None:
    whole = FitConfig(steps=9, save_every=4, ema_decay=average)
    straight = fit(Regression(), Numbers(), whole, tmp_path / "straight")
    # the same run, truncated after its checkpoint at step 4: later files are removed
    fit(Regression(), Numbers(), whole, tmp_path / "cut")
    newest = sorted((tmp_path / "cut/checkpoints").iterdir())
    assert [path.name for path in newest] == ["00000008", "00000009"]
    for part in newest[-1].iterdir():
        part.unlink()
    newest[-1].rmdir()
    resumed = fit(Regression(), Numbers(), whole, tmp_path / "cut")
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    rows = [row["step"] for row in read_metrics(tmp_path / "cut/metrics.jsonl")]
    assert rows == sorted(rows) and rows[-1] == 9


def test_randomness_depends_on_the_step_and_not_on_what_was_drawn_before(tmp_path: Path) -> None:
    first = fit(Regression(), Numbers(), FitConfig(steps=3), tmp_path / "a")
    torch.manual_seed(12345)
    torch.rand(7)
    second = fit(Regression(), Numbers(), FitConfig(steps=3), tmp_path / "b")
    other = fit(Regression(), Numbers(), FitConfig(steps=3, seed=1), tmp_path / "c")
    assert torch.equal(first.first.weight, second.first.weight)
    assert not torch.equal(first.first.weight, other.first.weight)


def test_only_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    fit(Regression(), Numbers(), FitConfig(steps=6, save_every=1, keep_checkpoints=3), tmp_path)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["00000004", "00000005", "00000006"]


def test_a_checkpoint_that_cannot_be_written_leaves_the_older_ones(tmp_path: Path) -> None:
    def disk_full(model: nn.Module, folder: Path) -> None:
        (folder / "half").write_text("half")
        if sum(1 for _ in (tmp_path / "checkpoints").glob("[0-9]*")):
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        fit(Regression(), Numbers(), FitConfig(steps=6, save_every=2), tmp_path, save=disk_full)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["00000002"]


def test_a_diverging_run_is_reported(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="diverged"):
        fit(Regression(), Numbers(), FitConfig(steps=200, lr=1e30, max_grad_norm=0, log_every=1), tmp_path)


def test_another_models_checkpoint_is_refused(tmp_path: Path) -> None:
    fit(Regression(), Numbers(), FitConfig(steps=2), tmp_path)
    other = Regression()
    other.first = nn.Linear(4, 9)
    with pytest.raises(TrainingError, match="does not match the model"):
        fit(other, Numbers(), FitConfig(steps=4), tmp_path)


def test_lr_warms_up_stays_constant_and_decays() -> None:
    cfg = FitConfig(steps=100, lr=1.0, lr_warmup_steps=10, lr_decay_fraction=0.2)
    rates = [cfg.lr_at(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == rates[50] == rates[80] == 1.0
    assert rates[90] == pytest.approx(0.5) and 0 < rates[99] < 0.1


@pytest.mark.parametrize("field, value", [("steps", 0), ("lr", -1.0), ("betas", (0.9,)), ("lr_decay_fraction", 2.0)])
def test_invalid_settings_are_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        FitConfig(**{field: value})  # pyright: ignore[reportArgumentType]


def test_curves_go_to_tensorboard_and_to_a_picture(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fit(Regression(), Numbers(), FitConfig(steps=4, log_every=2, tracker="tensorboard"), tmp_path)
    (events,) = tmp_path.rglob("events.out.tfevents*")
    accumulator = EventAccumulator(str(events))
    accumulator.Reload()
    assert [event.step for event in accumulator.Scalars("train/loss")] == [1, 2, 4]
    plot_curves(tmp_path / "metrics.jsonl", tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_second_run_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    class Nested(Regression):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
            with pytest.raises(TrainingError, match="another run"):
                fit(Regression(), Numbers(), FitConfig(steps=1), tmp_path)
            return super().forward(x)

    fit(Nested(), Numbers(), FitConfig(steps=1), tmp_path)


def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path) -> None:
    cfg = FitConfig(steps=50, lr=1e30, max_grad_norm=0, log_every=50, save_every=1, keep_checkpoints=50)
    with pytest.raises(TrainingError, match="diverged"):
        fit(Regression(), Numbers(), cfg, tmp_path)
    for checkpoint in (tmp_path / "checkpoints").glob("*/training.safetensors"):
        weights = load_file(checkpoint)
        assert all(value.isfinite().all() for name, value in weights.items() if name.startswith("model/"))


@pytest.mark.parametrize("changed", [{"ema_decay": 0.0}, {"seed": 1}])
def test_a_run_continues_with_the_settings_that_it_began_with(tmp_path: Path, changed: dict[str, float]) -> None:
    fit(Regression(), Numbers(), FitConfig(steps=2), tmp_path)
    with pytest.raises(TrainingError, match=f"belongs to a run with fit.{next(iter(changed))}"):
        fit(Regression(), Numbers(), FitConfig(steps=4, **changed), tmp_path)  # pyright: ignore[reportArgumentType]


@pytest.fixture
def another_precision() -> Iterator[None]:
    """Accelerate keeps the precision of a process's first run, which `auto` chose by the machine."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.usefixtures("another_precision")
def test_mixed_precision_is_for_training_alone(tmp_path: Path) -> None:
    seen: list[tuple[bool, bool]] = []

    class Watched(Regression):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
            seen.append((self.training, torch.is_autocast_enabled("cpu")))
            return super().forward(x)

    def evaluate(model: Watched) -> dict[str, float]:
        return {"loss": model(**Numbers().batch(0))[0].item()}

    model = fit(
        Watched(), Numbers(), FitConfig(steps=4, precision="bf16", evaluate_every=2), tmp_path, evaluate=evaluate
    )
    assert set(seen) == {(True, True), (False, False)}
    model(**Numbers().batch(0))
    assert seen[-1] == (False, False)


def test_a_step_that_was_saved_already_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "checkpoints"
    fit(Regression(), Numbers(), FitConfig(steps=2, keep_checkpoints=1), tmp_path)
    before = (out / "00000002/training.safetensors").stat().st_mtime_ns
    (out / ".00000001.partial").mkdir()  # as a killed process leaves it
    fit(Regression(), Numbers(), FitConfig(steps=2, keep_checkpoints=1), tmp_path)
    assert (out / "00000002/training.safetensors").stat().st_mtime_ns == before
    fit(Regression(), Numbers(), FitConfig(steps=3, keep_checkpoints=1), tmp_path)
    assert [path.name for path in out.iterdir()] == ["00000003"]


def test_fewer_steps_than_a_checkpoint_has_are_refused(tmp_path: Path) -> None:
    fit(Regression(), Numbers(), FitConfig(steps=4), tmp_path)
    with pytest.raises(TrainingError, match=r"is at step 4, beyond --fit\.steps 3; give at least 4 steps, or"):
        fit(Regression(), Numbers(), FitConfig(steps=3), tmp_path)


def test_every_loss_has_a_panel() -> None:
    assert {*LOSS_METRICS} <= {name for _, names in PANELS for name in names}


def test_a_run_continues_with_the_facts_that_it_began_with(tmp_path: Path) -> None:
    fit(Regression(), Numbers(), FitConfig(steps=2), tmp_path, facts={"model.speakers": ["ann", "bob"]})
    with pytest.raises(TrainingError, match=r"belongs to a run with model.speakers \['ann', 'bob'\]"):
        fit(Regression(), Numbers(), FitConfig(steps=4), tmp_path, facts={"model.speakers": ["bob", "cat"]})
