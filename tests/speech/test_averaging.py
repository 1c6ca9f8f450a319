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
from vqaudio.nn.context import ContextConfig
from vqaudio.nn.log_mel import LogMelConfig
from vqaudio.nn.pitch import PitchConfig
from vqaudio.speech.averaging import averaged
from vqaudio.speech.speakers import SPEAKER_WEIGHT

RECIPE = Path(__file__).parents[2] / "recipes/average.py"


@pytest.fixture(scope="module")
def before(spectrum_config: SpeechVQVAEConfig, initialised: Callable[..., SpeechVQVAE]) -> SpeechVQVAE:
    made = initialised(replace(spectrum_config, pitch=PitchConfig(win_length=640)))
    assert made.pitch is not None
    made.pitch.centre.copy_(torch.tensor([6.9, 7.6, 7.3]))
    made.pitch.spread.copy_(torch.tensor([0.2, 0.3, 0.4]))
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
    originals = [{key: value.clone() for key, value in each.state_dict().items()} for each in (before, after)]
    model = averaged([before, after, after])
    assert model.speakers == ("carl", "anna") and model.fingerprint == before.fingerprint == after.fingerprint
    assert model.cfg == after.cfg
    trained = dict(model.named_parameters()).keys()
    changed = set()
    for key, mean in model.state_dict().items():
        first, last = (state[key] for state in originals)
        if key == SPEAKER_WEIGHT:
            first = first[[2, 0]]
        if key in trained and (key.startswith(("context.", "spectrum.", "pitch.")) or key == SPEAKER_WEIGHT):
            torch.testing.assert_close(mean, (first + 2 * last) / 3)
            changed |= {key} if not torch.equal(mean, last) else set()
        else:  # the measured pitch of the speakers too
            assert torch.equal(mean, last), key
    assert {"context.code.weight", "spectrum.out.weight", "pitch.out.weight", SPEAKER_WEIGHT} <= changed
    assert not torch.equal(originals[0]["pitch.spread"][[2, 0]], originals[1]["pitch.spread"])
    for each, original in zip((before, after), originals, strict=True):
        assert all(torch.equal(value, original[key]) for key, value in each.state_dict().items())


def test_models_without_speakers_are_averaged_among_themselves(before, after) -> None:
    cfg = replace(before.cfg, speakers=(), stage="context")
    first, last = SpeechVQVAE(cfg), SpeechVQVAE(cfg)
    shared = {key: value for key, value in before.state_dict().items() if key in codes_of(first)}
    for each in (first, last):
        each.load_state_dict(each.state_dict() | shared)
    model = averaged([first, last])
    expected = (first.state_dict()["context.code.weight"] + last.state_dict()["context.code.weight"]) / 2
    torch.testing.assert_close(model.state_dict()["context.code.weight"], expected)
    with pytest.raises(ValueError, match="model 1 of 2 and the last one must both have speakers"):
        averaged([after, last])


def codes_of(model: SpeechVQVAE) -> set[str]:
    return {key for key in model.state_dict() if key.startswith(("encoder.", "normalizer.", "quantizer."))}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stage": "codes"}, "must be the fine-tuned one, of stage: context, got stage: codes; give it last"),
        (
            {"pitch": PitchConfig(640, f_max=400.0)},
            r"model 1 of 2 must have the options of the last one, pitch: .*400\.0",
        ),
        (
            {"spectrum": LogMelConfig(10, 80, 120)},
            r"model 1 of 2 must have the options of the last one, spectrum: .*120",
        ),
        ({"context": ContextConfig((1, 2, 3))}, r"model 1 of 2 must have the options of the last one, context: .*2, 3"),
        ({"speakers": ("anna", "dora", "carl")}, "model 1 of 2 lacks speakers of the last one: dora"),
    ],
)
def test_models_that_do_not_fit_are_refused(before: SpeechVQVAE, changes, message) -> None:
    other = SpeechVQVAE(replace(before.cfg, **{"stage": "context", **changes}))
    codes = {key: value for key, value in before.state_dict().items() if key in codes_of(other)}
    other.load_state_dict(other.state_dict() | codes)
    with pytest.raises(ValueError, match=message):
        averaged([before, other])


def test_speaker_embeddings_of_another_width_are_refused(before) -> None:
    wider = replace(before.cfg.decoder, cond_hidden_channels=before.cfg.decoder.cond_hidden_channels + 1)
    other = SpeechVQVAE(replace(before.cfg, stage="context", decoder=wider))
    codes = {key: value for key, value in before.state_dict().items() if key in codes_of(other)}
    other.load_state_dict(other.state_dict() | codes)
    with pytest.raises(ValueError, match=r"options of the last one, decoder\.cond_hidden_channels: "):
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
    untrained = [key for key in expected if key.startswith("decoder.") and key != SPEAKER_WEIGHT]  # not stored
    for key in expected.keys() - set(untrained):
        assert torch.equal(written[key], expected[key]), key
    with pytest.raises(ValueError, match="is a model already; give another --out"):
        recipe.main()
    monkeypatch.setattr("sys.argv", [*command[:2], "--out", str(tmp_path / "other")])
    with pytest.raises(ValueError, match=r"give two models or more .*, got 1"):
        recipe.main()
    assert not (tmp_path / "other").exists()
