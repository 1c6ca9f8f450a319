"""Every shipped YAML is a configuration that the recipe understands, and says what its table says."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from vqaudio.config import load_yaml
from vqaudio.models.speech import SpeechVQVAE

ROOT = Path(__file__).parents[1]
PRESETS = sorted(ROOT.glob("egs/*/conf/*.yaml"))


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train", ROOT / "recipes/train.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["train"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_the_presets_are_found() -> None:
    names = {f"{path.parents[1].name}/{path.stem}" for path in PRESETS}
    assert names >= {"mini/mini", "vctk/paper", "vctk/base", "vctk/cpu"}


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_every_preset_loads_and_has_its_rate(recipe: ModuleType, path: Path) -> None:
    model = load_yaml(recipe.TrainConfig, path).model
    assert model.sample_rate / model.encoder.hop == 250
    assert model.quantizer.codes == 512
    with torch.device("meta"):  # no memory: the paper's decoder alone has 17 million weights
        SpeechVQVAE(model)


def test_the_papers_model_is_as_the_paper_states_it(recipe: ModuleType) -> None:
    model = load_yaml(recipe.TrainConfig, ROOT / "egs/vctk/conf/paper.yaml").model
    assert model.encoder.strides == (2,) * 6  # the window is twice the stride
    assert (model.quantizer.commitment, model.quantizer.commitment_warmup) == (0.25, 0)
    assert (model.decoder.layers, model.decoder.cycle) == (30, 10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--fit.stepz", "3"], "--fit.stepz"),
        (["--fit.steps", "0"], "steps must be at least 1"),
        (["nothing.yaml"], "there is no configuration nothing.yaml"),
    ],
)
def test_a_mistyped_command_is_explained(arguments: list[str], message: str) -> None:
    command = [sys.executable, str(ROOT / "recipes/train.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert message in done.stderr + done.stdout
    assert "Traceback" not in done.stderr
