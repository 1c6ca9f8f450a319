"""The average of fine-tuned models: what stage context trains, speakers by name, and everything else as it was."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from vqaudio import SpeechVQVAE, SpeechVQVAEConfig, load_model, save_model
from vqaudio.nn.pitch import PitchConfig
from vqaudio.speech.averaging import averaged
from vqaudio.speech.speakers import SPEAKER_WEIGHT

RECIPE = Path(__file__).parents[2] / "recipes/average.py"


@pytest.fixture(scope="module")
def before(spectrum_config: SpeechVQVAEConfig, initialised: Callable[..., SpeechVQVAE], randomise) -> SpeechVQVAE:
    made = initialised(replace(spectrum_config, pitch=PitchConfig(win_length=640)))
    assert made.pitch is not None
    made.pitch.centre.copy_(torch.tensor([6.9, 7.6, 7.3]))
    return made.requires_grad_(False)


@pytest.fixture(scope="module")
def after(before: SpeechVQVAE, randomise) -> SpeechVQVAE:
    """Two of the speakers, in another order, and other weights of what stage: context trains."""
    made = SpeechVQVAE(replace(before.cfg, stage="context", speakers=("carl", "anna"))).requires_grad_(False)
    state = {key: value for key, value in before.state_dict().items() if made.state_dict()[key].shape == value.shape}
    made.load_state_dict(made.state_dict() | state)
    for seed, part in enumerate((made.context, made.spectrum, made.decoder.speaker, made.pitch)):
        randomise(part, seed=seed)
    return made.eval()


def test_the_mean_is_of_what_stage_context_trains_and_speakers_go_by_name(before, after) -> None:
    model, rows = averaged([before, after]), [2, 0]
    assert model.speakers == ("carl", "anna") and model.fingerprint == before.fingerprint == after.fingerprint
    assert model.cfg == after.cfg
    states = [each.state_dict() for each in (before, after, model)]
    changed = set()
    for key, mean in states[2].items():
        first, last = states[0][key], states[1][key]
        if key in (SPEAKER_WEIGHT, "pitch.centre", "pitch.spread"):
            first = first[rows]
        if key.startswith(("context.", "spectrum.", "pitch.")) or key == SPEAKER_WEIGHT:
            torch.testing.assert_close(mean, (first + last) / 2)
            changed |= {key} if not torch.equal(mean, last) else set()
        else:
            assert torch.equal(mean, last), key
    assert {"context.code.weight", "spectrum.out.weight", SPEAKER_WEIGHT, "pitch.centre"} <= changed
    assert torch.equal(
        averaged([after, after, after]).state_dict()["context.code.weight"], states[1]["context.code.weight"]
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stage": "codes"}, "the last model must be of stage: context, got stage: codes; average first"),
        (
            {"pitch": PitchConfig(640, f_max=400.0)},
            r"model 1 of 2 must have the options of the last one, pitch: .*400\.0",
        ),
        ({"speakers": ("anna", "dora", "carl")}, "model 1 of 2 lacks speakers of the last one: dora"),
    ],
)
def test_models_that_do_not_fit_are_refused(before: SpeechVQVAE, changes, message) -> None:
    other = SpeechVQVAE(replace(before.cfg, **{"stage": "context", **changes}))
    other.load_state_dict(before.state_dict())
    with pytest.raises(ValueError, match=message):
        averaged([before, other])


def test_other_codes_and_a_single_model_are_refused(before, after, initialised) -> None:
    with pytest.raises(ValueError, match="at least 2 models, got 1"):
        averaged([after])
    other = SpeechVQVAE(after.cfg)
    other.load_state_dict(after.state_dict())
    with torch.no_grad():
        other.encoder.load_state_dict({key: value + 1 for key, value in other.encoder.state_dict().items()})
    with pytest.raises(ValueError, match=f"model 1 of 2 has the codes of {other.fingerprint}"):
        averaged([other, after])


def test_the_recipe_writes_a_model_and_never_over_one(before, after, tmp_path, monkeypatch, capsys) -> None:
    spec = importlib.util.spec_from_file_location("average_recipe", RECIPE)
    assert spec is not None and spec.loader is not None
    recipe = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, recipe)
    spec.loader.exec_module(recipe)
    save_model(before, tmp_path / "before")
    save_model(after, tmp_path / "after")
    command = ["average.py", str(tmp_path / "before"), str(tmp_path / "after"), "--out", str(tmp_path / "mean")]
    monkeypatch.setattr("sys.argv", command)
    recipe.main()
    assert "is the average of" in capsys.readouterr().out
    written, expected = load_model(tmp_path / "mean").state_dict(), averaged([before, after]).state_dict()
    for key in ("context.code.weight", SPEAKER_WEIGHT, "pitch.centre"):
        assert torch.equal(written[key], expected[key])
    with pytest.raises(ValueError, match="is a model already; give another --out"):
        recipe.main()
