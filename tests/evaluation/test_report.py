"""The report of a speech model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from vqaudio import SpeechVQVAE, load_model
from vqaudio.cli import main
from vqaudio.data.crops import validation_batches
from vqaudio.data.manifest import read_manifest, write_manifest
from vqaudio.data.packed import pack
from vqaudio.evaluation.conditioning import conditioning

MINI = Path(__file__).parents[2] / "egs/mini/test.jsonl"


@pytest.fixture
def data(tiny_model: SpeechVQVAE, tmp_path: Path) -> Path:
    """A folder whose test.jsonl has the speakers of the tiny model."""
    names = tiny_model.speakers
    utterances = [replace(u, speaker=names[i % 3]) for i, u in enumerate(read_manifest(MINI))][:12]
    (tmp_path / "data").mkdir()
    write_manifest(tmp_path / "data/test.jsonl", utterances)
    return tmp_path / "data"


def test_it_holds_the_conditioning_figures_and_the_verdict(data: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    arguments = ["evaluate", "--model", tiny_model_dir, "--data", data, "--out", tmp_path / "report", "--seed", "2"]
    assert main([str(a) for a in arguments]) == 0
    found = json.loads((tmp_path / "report/figures.json").read_text())
    model = load_model(tiny_model_dir)
    speech = pack(read_manifest(data / "test.jsonl"), tmp_path / "packed", model.sample_rate, model.speakers)
    crops = validation_batches(speech, 8192, 16, 2, 2, num_classes=16)
    expected = conditioning(model, crops)
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert found["model"] == model.fingerprint
    assert found["crops"] == 32
    assert isinstance(found["verdict"], str)
    assert main([str(a) for a in arguments]) == 2  # it is there already
    assert main([*map(str, arguments), "--overwrite"]) == 0


def test_what_cannot_be_evaluated_is_explained(
    data: Path, tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, out = ["--model", str(tiny_model_dir)], ["--out", str(tmp_path / "report")]
    assert main(["evaluate", *model, "--data", str(MINI), *out]) == 2
    assert "8 speakers that the model does not know" in capsys.readouterr().err
    assert main(["evaluate", *model, "--data", str(tmp_path), *out]) == 2
    assert f"there is no manifest {tmp_path}/test.jsonl" in capsys.readouterr().err
    assert main(["evaluate", *model, "--data", str(data), *out, "--first", "x"]) == 2
    assert "--first is for a second level over images" in capsys.readouterr().err
