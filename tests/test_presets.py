"""Every shipped YAML is a valid configuration of its recipe, and agrees with the tables in the documentation."""

from __future__ import annotations

import importlib.util
import itertools
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from vqaudio import load_model
from vqaudio.config import load_yaml
from vqaudio.images.codes import CodeMaps
from vqaudio.images.vqvae import ImageVQVAE
from vqaudio.nn.source_filter import IstftConfig
from vqaudio.speech.model import SpeechVQVAE
from vqaudio.speech.prior import CodePrior
from vqaudio.video.prior import VideoPrior

ROOT = Path(__file__).parents[1]
CHAIN = ("codes", "context", "istft", "wavenet")
PRESETS = sorted(ROOT.glob("egs/*/conf/**/*.yaml"))
OF_IMAGES = [path for path in PRESETS if "cifar10" in path.parts]
OF_VIDEO = [path for path in PRESETS if "vizdoom" in path.parts]
OF_PRIORS = [path for path in PRESETS if path.stem == "prior" and path not in [*OF_IMAGES, *OF_VIDEO]]
OF_SPEECH = [path for path in PRESETS if path not in [*OF_IMAGES, *OF_VIDEO, *OF_PRIORS]]


def _recipe(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / f"recipes/{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    return _recipe("train")


@pytest.mark.parametrize("stage", ["decoder", "istft"])
def test_predicted_spectra_without_a_vocoder_to_train_are_refused(recipe: ModuleType, stage: Any) -> None:
    cfg = load_yaml(recipe.TrainConfig, ROOT / "egs/vctk/conf/acoustic/istft.yaml")
    assert replace(cfg, model=replace(cfg.model, predicted_spectra=0.5)).model.predicted_spectra == 0.5
    wrong = {"decoder": {"stage": "decoder"}, "istft": {"stage": "joint", "istft": IstftConfig(), "vocoder": "wavenet"}}
    with pytest.raises(ValueError, match=r"predicted_spectra is for training the vocoder istft.*; got 0\.5 with"):
        replace(cfg, model=replace(cfg.model, predicted_spectra=0.5, **wrong[stage]))


def test_many_manifests_have_a_short_name(tmp_path: Path, recipe: ModuleType) -> None:
    """Their decoded audio is cached in a folder of that name, which file systems limit to 255 bytes."""
    soundfile.write(tmp_path / "a.wav", np.zeros(1000), 16000)
    row = {"id": "a", "path": str(tmp_path / "a.wav"), "speaker": "s", "seconds": 0.0625, "text": None}
    paths = [tmp_path / f"{'long' * 10}-{i}.jsonl" for i in range(8)]
    for i, path in enumerate(paths):
        path.write_text(json.dumps({**row, "id": str(i)}) + "\n")
    cfg = recipe.TrainConfig(out=tmp_path / "run")
    assert len(recipe.packed(tuple(paths), cfg)) == 8
    (folder,) = (path.name for path in (tmp_path / "packed").iterdir() if path.is_dir())
    assert folder.startswith("8-manifests-")
    assert len(recipe.packed(tuple(paths[:1]), cfg)) == 1
    assert (tmp_path / f"packed/{tmp_path.name}-{paths[0].stem}").is_dir()


def test_the_presets_are_found() -> None:
    names = {f"{path.relative_to(ROOT / 'egs').parts[0]}/{path.stem}" for path in PRESETS}
    assert names >= {"mini/mini", "vctk/paper", "vctk/base", "vctk/cpu"}
    assert names >= {"vizdoom/frames", "vizdoom/prior"}
    assert names >= {f"cifar10/{name}" for name in ("vqvae", "imagenet128", "prior", "hierarchical")}


@pytest.mark.parametrize("path", OF_PRIORS, ids=lambda path: str(path.parent.relative_to(ROOT)))
def test_every_preset_of_a_prior_over_speech_loads(path: Path) -> None:
    cfg = load_yaml(_recipe("train_prior").TrainPriorConfig, path)
    with torch.device("meta"):
        CodePrior(cfg.speech)
    assert cfg.kind == "prior"


@pytest.mark.parametrize("path", OF_IMAGES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_preset_of_images_loads_and_builds_all_kinds(path: Path) -> None:
    if path.stem in ("prior", "hierarchical"):
        module = _recipe("train_prior")
        cfg = load_yaml(module.TrainPriorConfig, path)
        maps = CodeMaps(torch.zeros(1, 10, 8, 8, dtype=torch.long), torch.zeros(1), ("cat", "dog"), 512, "x", "s")
        with torch.device("meta"):
            for kind in ("prior", "vqvae", "vae"):
                assert module.build(replace(cfg, kind=kind), maps).cfg.map_shape == (10, 8, 8)
    else:
        module = _recipe("train_image")
        cfg = load_yaml(module.TrainImageConfig, path)
        with torch.device("meta"):
            for kind in module.KINDS.values():
                kind(cfg.model)
        assert cfg.crops.size == cfg.model.size


@pytest.mark.parametrize("path", OF_VIDEO, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_preset_of_video_loads_and_has_the_papers_codes(path: Path) -> None:
    if path.stem == "frames":
        cfg = load_yaml(_recipe("train_image").TrainImageConfig, path)
        assert (cfg.model.size, cfg.model.map_shape, cfg.model.quantizer.codebook_size) == (84, (1, 21, 21), 512)
        with torch.device("meta"):
            ImageVQVAE(cfg.model)
    else:
        module = _recipe("train_video")
        cfg = load_yaml(module.TrainVideoConfig, path)
        with torch.device("meta"):
            assert VideoPrior(cfg.prior).cfg.map_shape == (21, 21)


def test_the_papers_image_models_are_as_the_paper_states_them() -> None:
    module = _recipe("train_image")
    cifar = load_yaml(module.TrainImageConfig, ROOT / "egs/cifar10/conf/vqvae.yaml")
    assert cifar.model.map_shape == (10, 8, 8)
    assert (cifar.model.quantizer.codebook_size, cifar.model.coder.channels, cifar.model.coder.blocks) == (512, 256, 2)
    assert (cifar.fit.lr, cifar.crops.batch_size, cifar.model.vimco_samples) == (2e-4, 128, 50)
    larger = load_yaml(module.TrainImageConfig, ROOT / "egs/cifar10/conf/imagenet128.yaml")
    assert (larger.model.size, larger.model.map_shape) == (128, (1, 32, 32))


def test_the_image_models_for_a_gpu_have_the_papers_sizes_and_differ_in_kind_and_batch_alone() -> None:
    module, conf = _recipe("train_image"), ROOT / "egs/cifar10/conf"
    paper = load_yaml(module.TrainImageConfig, conf / "vqvae.yaml").model
    cfgs = {kind: load_yaml(module.TrainImageConfig, conf / f"gpu/{kind}.yaml") for kind in ("vae", "vqvae", "vimco")}
    for kind, cfg in cfgs.items():
        assert cfg.kind == kind and cfg.model == paper
        assert cfg.crops.flip and cfg.crops.pad > 0
        same = replace(cfg.fit, lr=1e-3, steps=1), replace(cfgs["vqvae"].fit, lr=1e-3, steps=1)
        assert same[0] == same[1]


@pytest.mark.parametrize("path", OF_SPEECH, ids=lambda path: path.stem)
def test_every_preset_loads_and_has_its_rate(recipe: ModuleType, path: Path) -> None:
    cfg = load_yaml(recipe.TrainConfig, path)
    model = cfg.model
    assert cfg.crops.samples % model.encoder.hop == 0
    rates = {"prior128": 125, "codes": 100, "decoder": 100, "units50": 50, "units25": 25, "phones640": 25}
    rates |= dict.fromkeys(("context", "istft", "wavenet"), 100) | {"phones640_mel": 25}
    assert model.sample_rate / model.encoder.hop == rates.get(path.stem, 250)
    few, many = path.stem.startswith(("units", "phones")), path.stem in CHAIN and path.parent.name != "cpu"
    assert model.quantizer.codebook_size == (128 if few else 2048 if many else 512)
    with torch.device("meta"):  # no memory: the paper's decoder alone has 17 million weights
        SpeechVQVAE(model)


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("base", "base"),
        ("codes", "acoustic/codes"),
        ("context", "acoustic/context"),
        ("istft", "acoustic/istft"),
        ("wavenet", "base"),
    ],
)
def test_large_batches_have_the_learning_rate_of_the_rule(recipe: ModuleType, name: str, reference: str) -> None:
    large = load_yaml(recipe.TrainConfig, ROOT / f"egs/vctk/conf/gpu/{name}.yaml")
    small = load_yaml(recipe.TrainConfig, ROOT / f"egs/vctk/conf/{reference}.yaml")
    ratio = large.crops.batch_size * large.crops.samples / (small.crops.batch_size * small.crops.samples)
    assert large.fit.lr == pytest.approx(min(2e-3, small.fit.lr * ratio**0.5), rel=0.01)
    assert large.model.encoder == small.model.encoder or name == "wavenet"


def test_the_runs_on_a_gpu_build_on_each_other(recipe: ModuleType) -> None:
    chain = [load_yaml(recipe.TrainConfig, ROOT / f"egs/vctk/conf/gpu/{name}.yaml") for name in CHAIN]
    for before, after in itertools.pairwise(chain):
        assert after.init_from == (str(before.out),)
        assert after.model.encoder == before.model.encoder and after.model.quantizer == before.model.quantizer
    shipped = load_model("mini", device="cpu").cfg
    last = chain[-1].model
    parts = ("encoder", "quantizer", "context", "spectrum", "pitch", "acoustic", "istft", "decoder")
    parts += ("spectrum_loss_weight", "smoothed_spectrum_loss_weight")
    for part in parts:
        ours, theirs = getattr(last, part), getattr(shipped, part)
        assert ours == (replace(theirs, num_speakers=0) if part == "decoder" else theirs), part


def test_the_papers_model_is_as_the_paper_states_it(recipe: ModuleType) -> None:
    model = load_yaml(recipe.TrainConfig, ROOT / "egs/vctk/conf/paper.yaml").model
    assert model.encoder.strides == (2,) * 6  # the window is twice the stride
    assert (model.quantizer.commitment_weight, model.quantizer.commitment_warmup_steps) == (0.25, 0)
    assert (model.decoder.layers, model.decoder.layers_per_stack) == (30, 10)


@pytest.mark.parametrize("name", ["units50", "units25"])
def test_crops_of_units_reach_as_far_as_the_encoder(recipe: ModuleType, name: str) -> None:
    cfg = load_yaml(recipe.TrainConfig, ROOT / f"egs/vctk/conf/{name}.yaml")
    assert cfg.crops.future == cfg.model.encoder.lookahead
    assert cfg.crops.past % cfg.model.encoder.hop == 0
    assert cfg.model.predicts_units and cfg.model.encoder.frontend.kind == "log_mel_cmn"
    finer = load_yaml(recipe.TrainConfig, ROOT / "egs/vctk/conf/units50.yaml")  # the override in its comment
    encoder = replace(finer.model.encoder, strides=(1,))
    assert replace(finer.model, encoder=encoder).encoder.hop == 160


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
