"""What the first version wrote is read as if this one had written it."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import torch
from safetensors.torch import load_file

from recipes import train
from recipes.train import TrainConfig
from recipes.train_image import TrainImageConfig
from recipes.train_prior import TrainPriorConfig
from vqaudio import SpeechVQVAE, SpeechVQVAEConfig, load_model, save_model
from vqaudio.config import flatten, from_dict, to_dict
from vqaudio.nn.vector_quantizer import VectorQuantizerConfig
from vqaudio.training.health import VerdictName
from vqaudio.training.metrics_file import MetricsFile, read_metrics
from vqaudio.upgrade import upgrade, upgrade_flat, upgrade_key, upgrade_metrics

FORMAT1 = Path(__file__).parent / "fixtures" / "format1"


def test_a_configuration_of_format_1_is_that_of_the_shipped_model_but_for_the_codebook_and_what_is_trained() -> None:
    old = json.loads((FORMAT1 / "mini.json").read_text())
    assert old["format"] == 1
    upgraded, mini = from_dict(SpeechVQVAEConfig, upgrade(old["config"])), load_model("mini").cfg
    frontend = replace(upgraded.encoder.frontend, equalizer_db=mini.encoder.frontend.equalizer_db)
    as_shipped = replace(
        upgraded,
        encoder=replace(upgraded.encoder, frontend=frontend),
        quantizer=replace(upgraded.quantizer, codebook_size=mini.quantizer.codebook_size),
    )
    assert as_shipped.facts_of_codes() == mini.facts_of_codes()
    for part in ("speakers", "encoder", "normalizer", "quantizer", "context", "spectrum"):
        assert getattr(as_shipped, part) == getattr(mini, part)


def test_a_model_of_format_1_tokenizes_as_before(tmp_path: Path) -> None:
    text = (FORMAT1 / "mini.json").read_text()
    torch.manual_seed(0)
    model = SpeechVQVAE(from_dict(SpeechVQVAEConfig, upgrade(json.loads(text)["config"])))
    wav = torch.rand(8000, generator=torch.Generator().manual_seed(0)) - 0.5
    model.quantizer.initialise([model.normalizer(model.encoder(wav[None, None])[0])[0].T])
    model.eval()
    save_model(model, tmp_path)
    (tmp_path / "config.json").write_text(text)
    old = load_model(tmp_path)
    assert old.fingerprint == model.fingerprint
    assert torch.equal(old.tokenize(wav).codes, model.tokenize(wav).codes)


def test_a_run_of_format_1_continues_to_the_weights_that_the_old_code_gave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old code trained four steps and kept the checkpoint of the second; two steps from there are the same."""
    shutil.copytree(FORMAT1 / "run", tmp_path / "run")
    (tmp_path / "run/metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in OLD_ROWS))
    settings = json.loads((FORMAT1 / "run/checkpoints/00000002/state.json").read_text())["facts"]["settings"]
    model = from_dict(
        SpeechVQVAEConfig, upgrade(json.loads((FORMAT1 / "run/checkpoints/00000002/config.json").read_text())["config"])
    )
    assert isinstance(model.quantizer, VectorQuantizerConfig)
    assert settings["model.quantizer.restart_below"] == model.quantizer.restart_threshold == 0.2
    flags = {
        "crops.samples": 256, "crops.batch_size": 2, "crops.seed": 3,
        "validation.samples": 256, "validation.batch_size": 2, "validation.num_batches": 1,
        "fit.steps": 4, "fit.lr_warmup_steps": 2, "fit.ema_decay": 0.9, "fit.lr_decay_fraction": 0.5,
        "fit.max_grad_norm": 0.8, "fit.precision": "no", "fit.evaluate_every": 4, "fit.save_every": 2,
    }  # fmt: skip
    config = tmp_path / "config.yaml"
    write_yaml(config, {"model": to_dict(replace(model, speakers=()))})
    arguments = [part for name, value in flags.items() for part in (f"--{name}", str(value))]
    monkeypatch.setattr(sys, "argv", ["train.py", str(config), "--out", str(tmp_path / "run"), *arguments])
    train.main()
    rows = read_metrics(tmp_path / "run/metrics.jsonl")
    assert rows[: len(NEW_ROWS)] == NEW_ROWS and rows[-1]["step"] == 4
    found, expected = (
        load_file(path) for path in (tmp_path / "run/model.safetensors", FORMAT1 / "after_step_4.safetensors")
    )
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5, msg=name)


def write_yaml(path: Path, values: dict) -> None:
    import yaml

    path.write_text(yaml.safe_dump(values))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("encoder.front.bands", "encoder.frontend.n_mels"),
        ("encoder.front.warp", "encoder.frontend.warp"),
        ("model.encoder.front.window", "model.encoder.frontend.win_length"),
        ("decoder.classes", "decoder.num_classes"),
        ("net.condition", "net.cond_dim"),
        ("image.net.codes", "image.net.codebook_size"),
        ("speech.net.cycle", "speech.net.layers_per_stack"),
        ("second.net.head", "hierarchical.net.head_channels"),
        ("second.quantizer.codes", "hierarchical.quantizer.codebook_size"),
        ("second.channels", "hierarchical.channels"),
        ("second.latents", "hierarchical.num_latents"),
        ("chunks.codes", "crops.length"),
        ("chunks.seed", "crops.seed"),
        ("crops.samples", "crops.samples"),
        ("model.samples", "model.vimco_samples"),
        ("fit.decay", "fit.lr_decay_fraction"),
        ("model.quantizer.decay", "model.quantizer.ema_decay"),
        ("start", "init_from"),
        ("sample_rate", "sample_rate"),
        ("model.speakers", "model.speakers"),
    ],
)
def test_keys_by_hand(old: str, new: str) -> None:
    assert upgrade_key(old) == new


@pytest.mark.parametrize(("old", "new"), [("all", "joint"), ("codes", "codes"), ("speech", "decoder")])
def test_stages_have_new_names(old: str, new: str) -> None:
    assert upgrade_flat({"model.learn": old}) == {"model.stage": new}
    assert upgrade({"learn": old}) == {"stage": new}


@pytest.mark.parametrize(
    ("recipe", "config"),
    [("train", TrainConfig), ("train_image", TrainImageConfig), ("train_prior", TrainPriorConfig)],
)
def test_the_defaults_of_format_1_are_the_present_ones(recipe: str, config: type) -> None:
    """keys.json: `flatten(to_dict(CONFIG()))` of each recipe, with the old code."""
    old = json.loads((FORMAT1 / "keys.json").read_text())[recipe]
    upgraded, new = upgrade_flat(old), flatten(to_dict(config()))
    assert len(upgraded) == len(old), "two keys became one"
    assert {key: new.get(key, "no such key") for key in upgraded} == upgraded  # no default has changed, paths included


OLD_ROWS = [
    {"kind": "train", "step": 1, "loss": 5.5, "lr": 0.1, "steps_per_second": 2.0, "waiting": 0.25,
     "audio_seconds_per_second": 8.0, "gradient_norm/encoder": 1.5},
    {"kind": "valid", "step": 2, "bits_per_sample": 4.5, "gap_codes": 0.5, "gap_mean": 0.75, "gap_speakers": 0.1,
     "perplexity": 9.0, "verdict": "young"},
    {"kind": "valid", "step": 2, "bits_per_code": 6.5, "bits_unknown": 6.6, "gap_labels": 0.2, "verdict": "healthy"},
]  # fmt: skip
NEW_ROWS = [
    {"kind": "train", "step": 1, "loss": 5.5, "lr": 0.1, "steps_per_second": 2.0, "data_wait_fraction": 0.25,
     "rtf": 8.0, "gradient_norm/encoder": 1.5},
    {"kind": "valid", "step": 2, "bits_per_sample": 4.5, "conditioning_gap": 0.5, "conditioning_gap_mean": 0.75,
     "speaker_gap": 0.1, "perplexity": 9.0, "verdict": "too early"},
    {"kind": "valid", "step": 2, "bits_per_code": 6.5, "bits_null_speaker": 6.6, "label_gap": 0.2,
     "verdict": "healthy"},
]  # fmt: skip


def test_a_resumed_run_renames_the_metrics_that_it_keeps(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    later = {"kind": "train", "step": 3, "loss": 5.0, "waiting": 0.5}
    path.write_text("".join(json.dumps(row) + "\n" for row in [*OLD_ROWS, *NEW_ROWS, later]))
    for _ in range(2):
        MetricsFile(path, writes=True).truncate(2)
        assert read_metrics(path) == NEW_ROWS + NEW_ROWS
    assert list(read_metrics(path)[0]) == list(NEW_ROWS[0])  # in the order of before


def test_a_new_row_with_a_metric_of_an_old_name_is_unchanged() -> None:
    row = {"kind": "train", "step": 1, "waiting": 3.0, "data_wait_fraction": 0.1}
    assert upgrade_metrics(row) == row


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("healthy", "healthy"),
        ("young", "too early"),
        ("codes ignored", "posterior collapse"),
        ("codebook collapsed", "codebook collapse"),
        ("speaker ignored", "speaker ignored"),
        ("nothing learned", "no gain over unigram"),
        ("diverged", "diverged"),
    ],
)
def test_verdicts_have_new_names(old: str, new: str) -> None:
    row = {"kind": "valid", "step": 1, "verdict": old}
    assert new in get_args(VerdictName)
    assert upgrade_metrics(row) == {**row, "verdict": new}
    assert upgrade_metrics({**row, "verdict": new}) == {**row, "verdict": new}
