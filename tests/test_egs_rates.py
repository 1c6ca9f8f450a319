"""egs/vctk/rates.py: its flags are those of the recipe, and the documentation shows the table that it prints."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from vqaudio.config import parse

ROOT = Path(__file__).parents[1]


def _script(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[Path(path).stem] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def rates() -> ModuleType:
    return _script("egs/vctk/rates.py")


def test_the_flags_of_every_tokenizer_are_those_of_the_recipe(rates) -> None:
    config = _script("recipes/train.py").TrainConfig
    for variant in rates.VARIANTS.values():
        model = parse(config, "", variant.flags).model
        assert model.sample_rate / model.encoder.hop == variant.rate
        assert model.stage == "codes" and (model.target == "units") == (variant.objective == "units")
        assert model.spectrum.n_mels, "Griffin-Lim needs a spectrum"
        size = variant.shown.removeprefix("K = ").replace(",", "")
        assert model.quantizer.codebook_size == (8**3 if "FSQ" in size else int(size))


def test_the_documentation_shows_the_table(rates) -> None:
    assert rates.table() in (ROOT / "docs/tokenizers.md").read_text(encoding="utf-8")


def test_runs_that_lack_a_metric_have_no_mean(rates) -> None:
    assert rates.value([{"wer": [0.25, 0.0, 1.0]}, {"wer": [0.75, 0.0, 1.0]}], "wer") == 0.5
    assert rates.value([{"wer": [0.25, 0.0, 1.0]}, {}], "wer") is None
