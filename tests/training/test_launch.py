"""Which precision a run has: that of the flag, else that of the launcher, else that of the machine."""

from typing import Any, cast

import pytest
import torch

from vqaudio.training import FitConfig, TrainingError, launch


class Launched:
    """What `describe_launch` asks of an Accelerator."""

    num_processes, device = 1, torch.device("cuda")

    def __init__(self, precision: str):
        self.mixed_precision = precision


@pytest.mark.parametrize("native", ["bf16", "no"])
@pytest.mark.parametrize("launched", [None, "no", "bf16", "fp16"])
@pytest.mark.parametrize("wanted", ["auto", "no", "bf16", "fp16"])
def test_the_flag_then_the_launcher_then_the_machine(monkeypatch, wanted, launched, native) -> None:
    monkeypatch.setattr(launch, "_native_precision", lambda: native)
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    if launched is not None:
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launched)
    used = launch._precision(wanted)
    asked = None if launched == "no" else launched  # the launcher's "no" is also its default
    assert used == (asked or native if wanted == "auto" else wanted)
    said = launch.describe_launch(cast(Any, Launched(used)))
    assert (f"is {used}, instead of {launched} of accelerate" in said) == (launched is not None and used != launched)


def test_a_precision_that_training_does_not_have(monkeypatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp8")
    with pytest.raises(TrainingError, match="asks for precision fp8, but training supports no, bf16, fp16"):
        launch._precision("auto")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("GRADIENT_ACCUMULATION_STEPS", "0", "is '0', but --fit.gradient_accumulation_steps is 2; unset"),
        ("GRADIENT_ACCUMULATION_STEPS", "4", "is '4', but --fit.gradient_accumulation_steps is 2; unset"),
        ("GRADIENT_ACCUMULATION_STEPS", "x", "is 'x', but --fit.gradient_accumulation_steps is 2; unset"),
        ("DYNAMO_BACKEND", "INDUCTOR", "is 'INDUCTOR', but training supports NO alone; .*--fit.compile"),
    ],
)
def test_variables_that_contradict_the_configuration(monkeypatch, tmp_path, name, value, message) -> None:
    monkeypatch.setenv(f"ACCELERATE_{name}", value)
    with pytest.raises(TrainingError, match=f"ACCELERATE_{name} {message}"):
        launch.make_accelerator(FitConfig(gradient_accumulation_steps=2), tmp_path)


def test_variables_that_agree_with_the_configuration(monkeypatch) -> None:
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "2")
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "no")
    launch._check_environment(FitConfig(gradient_accumulation_steps=2))
