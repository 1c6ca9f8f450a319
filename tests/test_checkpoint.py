import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file, save_file

from vqaudio import ModelError, SpeechVQVAE, load_model, save_model


@pytest.fixture
def folder(tiny_model_dir: Path, tmp_path: Path) -> Path:
    """A copy of a saved model, which tests may damage."""
    return Path(shutil.copytree(tiny_model_dir, tmp_path / "model"))


def _edit(folder: Path, **facts) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **facts}))


def test_a_loaded_model_is_the_saved_one(tiny_model: SpeechVQVAE, tiny_model_dir: Path) -> None:
    loaded = load_model(tiny_model_dir)
    assert loaded.cfg == tiny_model.cfg
    assert loaded.fingerprint == tiny_model.fingerprint
    assert not loaded.training
    saved, restored = tiny_model.state_dict(), loaded.state_dict()
    assert saved.keys() == restored.keys()
    for name in saved:
        assert torch.equal(saved[name], restored[name]), name
    wav = torch.rand(300, generator=torch.Generator().manual_seed(0)) - 0.5
    tokens = tiny_model.tokenize(wav)
    assert torch.equal(loaded.tokenize(wav).codes, tokens.codes)
    decoded, expected = loaded.decode_batch([tokens], "bert"), tiny_model.decode_batch([tokens], "bert")
    assert torch.equal(decoded[0], expected[0])


def test_a_model_is_two_files_and_no_pickle(tiny_model: SpeechVQVAE, tmp_path: Path) -> None:
    save_model(tiny_model, tmp_path / "new" / "model")
    save_model(tiny_model, tmp_path / "new" / "model")  # again: existing files are replaced
    assert sorted(path.name for path in (tmp_path / "new" / "model").iterdir()) == ["config.json", "model.safetensors"]
    facts = json.loads((tmp_path / "new" / "model" / "config.json").read_text())
    assert facts["config"]["speakers"] == ["anna", "bert", "carl"]


def test_a_missing_model_is_explained(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="neither a folder nor one of the shipped models"):
        load_model("no-such-model")
    with pytest.raises(ModelError, match=r"has no config\.json"):
        load_model(tmp_path)


def test_a_failed_download_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def offline(*_: object, **__: object) -> str:
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(ModelError, match=r"'someone/model'.* no model of that name .* from the .* Hub: no connection"):
        load_model("someone/model")


@pytest.mark.parametrize("text", ["", "{", "not json", "\udcff"])
def test_a_damaged_config_is_explained(folder: Path, text: str) -> None:
    (folder / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ModelError, match=r"config\.json is not JSON"):
        load_model(folder)


@pytest.mark.parametrize("value", ["[]", "{}", "3", '{"format": 1}', '{"model_type": "encodec"}'])
def test_a_foreign_config_is_explained(folder: Path, value: str) -> None:
    (folder / "config.json").write_text(value)
    with pytest.raises(ModelError, match="was not written by vqaudio"):
        load_model(folder)


@pytest.mark.parametrize("version", [0, 3, "1", None])
def test_another_format_is_explained(folder: Path, version: object) -> None:
    _edit(folder, format=version)
    with pytest.raises(
        ModelError, match=rf"has format {version!r}, but this vqaudio reads formats 1 and 2; use the version"
    ):
        load_model(folder)


@pytest.mark.parametrize("kind", ["ImageVQVAE2", None])
def test_another_kind_is_explained(folder: Path, kind: object) -> None:
    _edit(folder, kind=kind)
    with pytest.raises(ModelError, match="this vqaudio reads only SpeechVQVAE"):
        load_model(folder)


def test_a_config_of_a_newer_version_is_explained(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())["config"]
    _edit(folder, config={**config, "prosody": 3})
    with pytest.raises(ModelError, match=r"unknown key 'prosody'.*newer vqaudio"):
        load_model(folder)
    _edit(folder, config={**config, "encoder": {**config["encoder"], "dim": 5}})
    with pytest.raises(ModelError, match=r"quantizer.dim \(4\) must be encoder.dim \(5\)"):
        load_model(folder)


def test_weights_that_are_missing_or_damaged_are_explained(folder: Path) -> None:
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    for damaged in (b"", b"PK\x03\x04" + b"\0" * 100, whole[:-20], whole[: len(whole) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(ModelError, match=r"model\.safetensors is damaged .*download or copy it again"):
            load_model(folder)
    path.unlink()
    with pytest.raises(ModelError, match=r"no model\.safetensors"):
        load_model(folder)


def test_weights_that_do_not_fit_are_explained(folder: Path) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    name = "encoder.out.bias"
    without = {key: value for key, value in weights.items() if key != name}
    for wrong in (without, {**weights, "encoder.extra": torch.zeros(1)}, {**weights, name: torch.zeros(9)}):
        save_file(wrong, path)
        with pytest.raises(ModelError, match=r"does not match its config\.json"):
            load_model(folder)


def test_weights_that_are_not_finite_are_explained(folder: Path) -> None:
    path = folder / "model.safetensors"
    save_file({**load_file(path), "encoder.out.bias": torch.tensor([0.0, float("nan"), 0.0, 0.0])}, path)
    with pytest.raises(ModelError, match=r"not finite, in encoder\.out\.bias"):
        load_model(folder)


@pytest.mark.parametrize("wrapper", ["torch.compile", "DataParallel", "AveragedModel", "compiled encoder", "two"])
def test_a_wrapped_model_is_saved_without_its_wrapper(tmp_path, tiny_model, wrapper) -> None:
    model = copy.deepcopy(tiny_model)
    if wrapper == "compiled encoder":
        model.encoder = cast(Any, torch.compile(model.encoder))
    wrap: dict[str, Callable[[torch.nn.Module], Any]] = {
        "torch.compile": torch.compile,
        "DataParallel": torch.nn.DataParallel,
        "AveragedModel": torch.optim.swa_utils.AveragedModel,
        "compiled encoder": lambda model: model,
        "two": lambda model: torch.compile(torch.nn.DataParallel(model)),
    }
    save_model(wrap[wrapper](model), tmp_path)
    loaded = load_model(tmp_path)
    assert loaded.fingerprint == tiny_model.fingerprint
    for name, value in tiny_model.state_dict().items():
        assert loaded.state_dict()[name].equal(value)


def test_what_cannot_be_loaded_again_is_not_saved(tmp_path, tiny_model) -> None:
    with pytest.raises(ValueError, match=r"save_model saves SpeechVQVAE, .*, got Linear; pass the model itself"):
        save_model(torch.nn.Linear(2, 2), tmp_path)
    model = copy.deepcopy(tiny_model)
    torch.nn.utils.parametrizations.weight_norm(model.encoder.out)
    with pytest.raises(ValueError, match=r"encoder.out.* remove parametrizations"):
        save_model(model, tmp_path)
    model = copy.deepcopy(tiny_model)
    model.quantizer.codebook = model.quantizer.codebook[:8]
    with pytest.raises(ValueError, match=r"quantizer.codebook should be of shape \(16, 4\) and is \(8, 4\)"):
        save_model(model, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_parts_are_stored_in_half_precision_on_request(tiny_model: SpeechVQVAE, tmp_path: Path) -> None:
    save_model(tiny_model, tmp_path / "whole")
    save_model(tiny_model, tmp_path / "half", float16=["decoder"])
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("whole", "half")]
    assert sizes[0] - sizes[1] > sum(p.numel() for p in tiny_model.decoder.parameters())
    loaded = load_model(tmp_path / "half")
    assert loaded.fingerprint == tiny_model.fingerprint
    for key, value in loaded.state_dict().items():
        expected = tiny_model.state_dict()[key]
        assert value.dtype == expected.dtype
        assert torch.equal(value, expected.half().float() if key.startswith("decoder.") else expected)
    with pytest.raises(ValueError, match=r"float16 names parts of the model \(decoder, encoder, .*\), got 'wavenet'"):
        save_model(tiny_model, tmp_path / "half", float16=["wavenet"])
    large = copy.deepcopy(tiny_model)
    large.decoder.out.weight.data[0, 0] = 1e6
    with pytest.raises(ValueError, match=r"decoder\.out\.weight has values beyond the range of float16"):
        save_model(large, tmp_path / "large", float16=["decoder"])
    assert not (tmp_path / "large").exists()
