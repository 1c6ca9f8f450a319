"""From images to a prior's samples: the recipes and the verbs, one after the other, as a user calls them."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vqaudio import load_model, save_model
from vqaudio.cli.main import main
from vqaudio.config import ConfigError, from_dict
from vqaudio.images.baselines import ImageGumbel, ImageVAE, ImageVIMCO
from vqaudio.images.codes import CodeMaps, read_codes
from vqaudio.images.hierarchical import CodeMapVAE, CodeMapVQVAE
from vqaudio.images.prior import ImagePrior
from vqaudio.images.vqvae import ImageVQVAE
from vqaudio.nn.wavenet import WaveNetConfig
from vqaudio.speech.prior import CodePrior, CodePriorConfig
from vqaudio.training.metrics_file import read_metrics

ROOT = Path(__file__).parents[1]
CONF = ROOT / "egs/cifar10/conf/cpu"
TINY_FIT = ["--fit.steps", "6", "--fit.log-every", "2", "--fit.evaluate-every", "3", "--fit.save-every", "3"]
TINY_IMAGES = ["--model.coder.channels", "8", "--model.coder.num_maps", "2", "--model.coder.dim", "4"]
TINY_IMAGES += ["--model.quantizer.dim", "4", "--model.quantizer.codebook_size", "16", "--model.vimco_samples", "3"]
TINY_IMAGES += ["--crops.batch-size", "4", *TINY_FIT]
TINY_NET = [
    "--{}.net.channels",
    "6",
    "--{}.net.layers",
    "2",
    "--{}.net.head-channels",
    "8",
    "--{}.net.kernel-size",
    "3",
]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small pictures of two classes, prepared."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for label, name in enumerate(("dark", "light")):
        (folder / "png" / name).mkdir(parents=True)
        for i in range(20):
            pixels = rng.integers(0, 100, (34, 32, 3)) + 150 * label
            Image.fromarray(pixels.astype(np.uint8)).save(folder / "png" / name / f"{i}.png")
    arguments = ["images", folder / "png", "--out", folder / "packed", "--valid", "0.2", "--test", "0.2"]
    assert main(["prepare", *map(str, arguments)]) == 0
    return folder / "packed"


@pytest.mark.long
def test_from_images_to_samples(
    recipe: Callable[..., None], images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cpu = CONF / "vqvae.yaml"
    for kind, expected in (("vqvae", ImageVQVAE), ("vae", ImageVAE), ("vimco", ImageVIMCO), ("gumbel", ImageGumbel)):
        recipe("train_image", cpu, "--kind", kind, "--data", images, "--out", tmp_path / kind, *TINY_IMAGES)
        model = load_model(tmp_path / kind, kind=expected)
        assert not model.training
        rows = [row for row in read_metrics(tmp_path / kind / "metrics.jsonl") if row["kind"] == "valid"]
        assert [row["step"] for row in rows] == [3, 6]
        assert 0 < rows[-1]["bits_per_dim"] < 20
    for kind, expected in (("prior", ImagePrior), ("vqvae", CodeMapVQVAE), ("vae", CodeMapVAE)):
        flags = [flag.format("image" if kind == "prior" else "hierarchical") for flag in TINY_NET]
        conf = CONF / ("prior.yaml" if kind == "prior" else "hierarchical.yaml")
        given = ["--kind", kind, "--model", tmp_path / "vqvae", "--data", images, "--out", tmp_path / f"over-{kind}"]
        recipe("train_prior", conf, *given, "--batches.batch-size", "4", *flags, *TINY_FIT)
        loaded = load_model(tmp_path / f"over-{kind}", kind=expected)
        assert loaded.cfg.map_shape == (2, 8, 8)
        assert loaded.cfg.model == load_model(tmp_path / "vqvae", kind=ImageVQVAE).fingerprint
    _evaluate(images, tmp_path)
    _sample(tmp_path)
    _refuse(images, tmp_path, capsys)


def _evaluate(images: Path, runs: Path) -> None:
    arguments = ["--model", runs / "vqvae", "--prior", runs / "over-prior", "--data", images, "--out", runs / "report"]
    assert main(["evaluate", *map(str, arguments)]) == 0
    pictures = {
        "reconstructions.png",
        "usage.png",
        "samples-0.7.png",
        "samples-0.85.png",
        "samples-1.png",
        "classes.png",
    }
    assert {path.name for path in (runs / "report").iterdir()} == {"report.json", *pictures}
    metrics = json.loads((runs / "report/report.json").read_text())
    assert metrics["images"] == 8
    assert metrics["bits_of_latents"] == pytest.approx(2 * 64 * 4 / 3072)
    assert metrics["prior_uniform_bits"] == 4
    with Image.open(runs / "report/reconstructions.png") as picture:
        assert picture.size == (8 * 34 * 2 - 4, 2 * 34 * 2 - 4)
    assert main(["evaluate", *map(str, arguments)]) == 2  # it is there already
    for kind in ("vae", "vimco"):
        given = ["--model", runs / kind, "--data", images, "--out", runs / f"report-{kind}"]
        assert main(["evaluate", *map(str, given)]) == 0
        assert json.loads((runs / f"report-{kind}/report.json").read_text())["bits_per_dim"] > 0
    for kind in ("vqvae", "vae"):
        given = ["--model", runs / f"over-{kind}", "--bottom-model", runs / "vqvae", "--data", images]
        assert main(["evaluate", *map(str, given), "--out", str(runs / f"second-{kind}")]) == 0
        assert "conditioning_gap" in json.loads((runs / f"second-{kind}/report.json").read_text())


def _sample(runs: Path) -> None:
    arguments = ["--prior", runs / "over-prior", "--model", runs / "vqvae", "--label", "light", "--seed", "3"]
    assert main(["sample", *map(str, arguments), "--count", "2", "--out", str(runs / "a")]) == 0
    assert main(["sample", *map(str, arguments), "--count", "3", "--out", str(runs / "b")]) == 0
    assert {path.name for path in (runs / "a").iterdir()} == {"light-0.png", "light-1.png", "codes.safetensors"}
    for name in ("light-0.png", "light-1.png"):  # an image does not depend on how many there are
        assert (runs / "a" / name).read_bytes() == (runs / "b" / name).read_bytes()
    maps = read_codes(runs / "b/codes.safetensors")
    image = load_model(runs / "vqvae", kind=ImageVQVAE).decode(maps.codes)[2]
    with Image.open(runs / "b/light-2.png") as picture:
        assert np.array_equal(np.asarray(picture), image.permute(1, 2, 0).numpy())


def _refuse(images: Path, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Unsuitable models are rejected with an explanation."""
    vqvae, prior, out = str(runs / "vqvae"), str(runs / "over-prior"), str(runs / "out")
    assert main(["info", vqvae]) == 0
    assert main(["info", prior]) == 0
    data, vae, second = ["--data", str(images)], str(runs / "vae"), str(runs / "over-vae")
    for arguments, message in (
        (["tokenize", str(images), "--model", vqvae], "this verb needs a SpeechVQVAE"),
        (["sample", "--prior", vqvae, "--model", vqvae], "ImageVQVAE, not a prior"),
        (["sample", "--prior", prior, "--model", vqvae, "--label", "green"], "class 'green' is not in this prior"),
        (
            ["sample", "--prior", prior, "--model", vqvae, "--speaker", "p225"],
            "--speaker, --prompt, --vocoder, --seconds and --batch-size do not apply to images",
        ),
        (
            ["sample", "--prior", prior, "--model", vqvae, "--precision", "bf16"],
            "--precision applies to the WaveNet of speech",
        ),
        (["evaluate", "--model", prior, *data], "ImagePrior cannot be evaluated alone"),
        (["evaluate", "--model", second, *data], "give its bottom-level model with --bottom-model"),
        (
            ["evaluate", "--model", vqvae, "--bottom-model", vqvae, *data],
            "--bottom-model is for a hierarchical image model",
        ),
        (["evaluate", "--model", vae, "--prior", prior, *data], "needs an ImageVQVAE, got a ImageVAE"),
        (["evaluate", "--model", vae, "--only", "codebook_usage", *data], "do not apply to it"),
    ):
        capsys.readouterr()
        assert main([*arguments, "--out", out]) == 2
        assert message in capsys.readouterr().err
    assert not Path(out).exists()


@pytest.mark.parametrize("kind", ["vqvae", "vimco"])  # the VAE samples its latents
def test_a_run_continues_as_if_it_had_not_stopped(
    recipe: Callable[..., None], images: Path, tmp_path: Path, kind: str
) -> None:
    given = [CONF / "vqvae.yaml", "--kind", kind, "--data", images]
    recipe("train_image", *given, "--out", tmp_path / "once", *TINY_IMAGES)
    recipe("train_image", *given, "--out", tmp_path / "twice", *TINY_IMAGES)
    for path in (tmp_path / "twice" / "checkpoints").iterdir():
        if int(path.name) > 3:
            for file in sorted(path.rglob("*"), reverse=True):
                file.unlink() if file.is_file() else file.rmdir()
            path.rmdir()
    recipe("train_image", *given, "--out", tmp_path / "twice", *TINY_IMAGES)
    names = ("once/model.safetensors", "twice/model.safetensors")
    assert len({(tmp_path / name).read_bytes() for name in names}) == 1


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("prior", "kind 'prior' needs the codes of a SpeechVQVAE or an ImageVQVAE"),
        ("vae", "the codes of an ImageVQVAE"),
    ],
)
def test_a_model_without_codes_of_its_own_has_no_prior(recipe, tmp_path, kind, message) -> None:
    save_model(
        CodePrior(CodePriorConfig(net=WaveNetConfig(num_classes=4, layers=1, residual_channels=2, skip_channels=2))),
        tmp_path / "p",
    )
    with pytest.raises(ValueError, match=f"p is a CodePrior, but .*{message}"):
        recipe("train_prior", "--model", tmp_path / "p", "--kind", kind, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("kind", "section"), [("prior", "image"), ("vqvae", "hierarchical"), ("vae", "hierarchical")])
def test_what_follows_from_the_codes_cannot_be_set(kind, section, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("train_prior", ROOT / "recipes/train_prior.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "train_prior", module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    maps = CodeMaps(torch.zeros(1, 2, 4, 4, dtype=torch.long), torch.zeros(1), ("cat", "dog"), 16, "x", "s")
    wrong = [{"map_shape": [3, 4, 4]}, {"model": "y"}, {"net": {"codebook_size": 32}}]
    for values in [*wrong, {"classes": ["cow"]}] if section == "image" else wrong:
        cfg = from_dict(module.TrainPriorConfig, {"kind": kind, section: values})
        with pytest.raises(ConfigError, match=rf"{section}\.\S+ follows from the data and the model"):
            module.build(cfg, maps)
