"""From a recording to a clip: the recipe and the verbs, one after the other, as a user calls them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from vqaudio import load_model, save_model
from vqaudio.cli.main import main
from vqaudio.images.vqvae import ImageVQVAE
from vqaudio.training.metrics_file import read_metrics
from vqaudio.video.prior import VideoPrior
from vqaudio.video.recording import Recording

ROOT = Path(__file__).parents[2]
TINY = ["--prior.context", "2", "--prior.action-dim", "4", "--prior.past.channels", "6", "--prior.past.layers", "2"]
TINY += ["--prior.net.channels", "8", "--prior.net.layers", "2", "--prior.net.head-channels", "8"]
TINY += ["--crops.batch-size", "5", "--crops.noise", "0.3", "--fit.precision", "no", "--fit.tracker", "none"]
TINY += ["--fit.steps", "6", "--fit.log-every", "1", "--fit.evaluate-every", "3", "--fit.save-every", "3"]


@pytest.fixture(scope="module")
def given(recording: Recording, frame_model: ImageVQVAE, tmp_path_factory: pytest.TempPathFactory) -> list[str | Path]:
    """Flags that name a copy of the recording and the model of its frames."""
    folder = tmp_path_factory.mktemp("recipe")
    shutil.copytree(recording.folder, folder / "walk")
    save_model(frame_model, folder / "frames")
    return ["--data", folder / "walk", "--model", folder / "frames"]


def test_from_a_recording_to_a_clip(
    recipe: Callable[..., None], given: list[str | Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, model = Path(given[1]), str(given[3])
    recipe("train_video", *given, "--out", tmp_path / "prior", *TINY)
    prior = load_model(tmp_path / "prior", kind=VideoPrior)
    assert prior.cfg.actions == ("left", "right", "forward") and prior.cfg.map_shape == (4, 4)
    assert prior.cfg.model == load_model(model, kind=ImageVQVAE).fingerprint and prior.cfg.past.code_dim == 3
    rows = [row for row in read_metrics(tmp_path / "prior/metrics.jsonl") if row["kind"] == "valid"]
    assert [row["step"] for row in rows] == [3, 6] and 0 < rows[-1]["bits_per_code"] < 6
    assert main(["info", str(tmp_path / "prior")]) == 0
    assert "left, right, forward" in capsys.readouterr().out
    _evaluate(data, model, tmp_path)
    _sample(data, model, tmp_path)
    _refuse(data, model, tmp_path, capsys)


def _evaluate(data: Path, model: str, runs: Path) -> None:
    arguments = ["evaluate", "--model", model, "--prior", str(runs / "prior"), "--data", str(data)]
    assert main([*arguments, "--out", str(runs / "report")]) == 0
    assert {path.name for path in (runs / "report").iterdir()} == {"report.json", "imagined.png", "drift.gif"}
    report = json.loads((runs / "report/report.json").read_text())
    assert {"bits_per_code", "copy_bits", "unigram_bits", "action_gap", "shift_left", "shift_correlation"} <= set(
        report
    )
    assert report["drift"][0]["first_step"] == 1 and report["verdict"]
    assert "NaN" not in (runs / "report/report.json").read_text()  # which is no JSON
    with Image.open(runs / "report/imagined.png") as strip, Image.open(runs / "report/drift.gif") as animation:
        assert strip.height == 2 * (2 * 18 - 2)  # the only continuation: real above imagined
        assert animation.size == (2 * 18 - 2, 16)  # real to the left of imagined
    assert main([*arguments, "--out", str(runs / "report")]) == 2  # it is there already
    assert main(["evaluate", "--model", model, "--data", str(data), "--out", str(runs / "frames")]) == 0
    assert "bits_per_dim" in json.loads((runs / "frames/report.json").read_text())  # of the frames as images


def _sample(data: Path, model: str, runs: Path) -> None:
    episode = data / "episodes/00003.npz"
    arguments = ["sample", "--prior", str(runs / "prior"), "--model", model, "--prompt", str(episode), "--seed", "3"]
    arguments += ["--actions", "forward*4,left*2", "--first-frame", "5"]
    assert main([*arguments, "--count", "2", "--out", str(runs / "clip.gif")]) == 0
    assert main([*arguments, "--count", "1", "--out", str(runs / "one.gif")]) == 0
    assert main([*arguments, "--count", "2", "--batch-size", "1", "--out", str(runs / "batched.gif")]) == 0
    assert (runs / "batched.gif").read_bytes() == (runs / "clip.gif").read_bytes()
    with Image.open(runs / "clip.gif") as clip, Image.open(runs / "clip.png") as picture:
        assert getattr(clip, "n_frames", 1) <= 2 + 6  # equal frames are shown longer
        assert clip.size == (2 * (2 * 18 - 2), 2 * 16)
        assert picture.size == (2 * (7 * 18 - 2), 2 * (2 * 18 - 2))
        with Image.open(runs / "one.png") as alone:  # a continuation does not depend on how many there are
            assert alone.tobytes() == picture.crop((0, 0, *alone.size)).tobytes()


def _refuse(data: Path, model: str, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What does not fit is rejected with one sentence."""
    prior, episode, out = str(runs / "prior"), str(data / "episodes/00000.npz"), ["--out", str(runs / "new.gif")]
    sample = ["sample", "--prior", prior, "--model", model]
    clip = [*sample, "--prompt", episode, "--actions", "left*2"]
    other = runs / "other"
    made = ImageVQVAE(load_model(model, kind=ImageVQVAE).cfg)
    save_model(made, other)
    for name, changes in (("larger", {"size": 20}), ("jumping", {"actions": ["left", "right", "jump"]})):
        index = json.loads((shutil.copytree(data, runs / name) / "recording.json").read_text())
        (runs / name / "recording.json").write_text(json.dumps({**index, **changes}))
    larger, jumping = (["--prompt", str(runs / name / "episodes/00000.npz")] for name in ("larger", "jumping"))
    lone = shutil.copy(episode, runs / "lone.npz")
    for arguments, message in (
        ([*sample, *out], "needs --prompt (an episode) and --actions, of left, right, forward"),
        ([*clip, "--out", str(runs / "new.mp4")], "--out must end in .gif"),
        ([*clip, "--speaker", "p225", *out], "do not apply to video"),
        ([*clip, "--seconds", "2", *out], "and --seconds do not apply to video"),
        ([*clip, "--precision", "int8", *out], "--precision applies to the WaveNet of speech"),
        ([*clip, "--count", "0", *out], "count must lie in 1.."),
        ([*clip, "--count", "9999", *out], "a GIF has room for 1820 clips of 16 pixels side by side, got 9999"),
        ([*clip, "--batch-size", "0", *out], "batch_size must be at least 1, got 0"),
        ([*sample, *larger, "--actions", "left", *out], "have 20 x 20 pixels, and the model is for 16 x 16"),
        ([*sample, *jumping, "--actions", "left", *out], "has the actions left, right, jump, but the prior has left"),
        ([*sample, "--prompt", episode, "--actions", "", *out], "actions have the form forward*20,left*10, got ''"),
        ([*clip, "--first-frame", "99", *out], "the first frame of the prompt must lie in 0 to 10, got 99"),
        ([*sample, "--prompt", episode, "--actions", "fly", *out], "action 'fly' is not in this prior"),
        ([*sample, "--prompt", lone, "--actions", "left", *out], "must lie in a recording"),
        ([*sample, "--prompt", "no.npz", "--actions", "left", *out], "there is no episode no.npz"),
        (["sample", "--prior", prior, "--model", str(other), *clip[5:], *out], "was trained on codes of model"),
        (["evaluate", "--model", str(other), "--prior", prior, "--data", str(data), *out], "was trained on codes of"),
        (["evaluate", "--model", model, "--prior", prior, "--data", str(runs), *out], "contains no recording"),
        (["evaluate", "--model", model, "--prior", model, "--data", str(data), *out], "not a prior over the codes"),
    ):
        capsys.readouterr()
        assert main([*map(str, arguments)]) == 2, message
        assert message in capsys.readouterr().err
    assert not (runs / "new.gif").exists()


def test_a_run_continues_as_if_it_had_not_stopped(
    recipe: Callable[..., None], given: list[str | Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("once", "twice"):
        recipe("train_video", *given, "--out", tmp_path / name, *TINY)
    shutil.rmtree(tmp_path / "twice/checkpoints/00000006")
    capsys.readouterr()
    recipe("train_video", *given, "--out", tmp_path / "twice", *TINY)
    assert "resum" in capsys.readouterr().out
    names = ("once/model.safetensors", "twice/model.safetensors")
    assert len({(tmp_path / name).read_bytes() for name in names}) == 1


@pytest.mark.parametrize(
    ("name", "values", "known"),
    [
        ("actions", ["left", "jump"], "('left', 'right', 'forward')"),
        ("map-shape", ["5", "5"], "(4, 4)"),
        ("model", ["beefbeefbeef"], "'"),
        ("past.code-dim", ["7"], "3"),
        ("net.codebook-size", ["64"], "6"),
    ],
)
def test_what_follows_from_recording_and_model_cannot_be_set(
    recipe: Callable[..., None], given: list[str | Path], tmp_path: Path, name: str, values: list[str], known: str
) -> None:
    message = f"prior.{name.replace('-', '_')} follows from the data and the model, which give {known}"
    with pytest.raises(ValueError, match=re.escape(message)):
        recipe("train_video", *given, "--out", tmp_path / "prior", *TINY, f"--prior.{name}", *values)
    assert not list(tmp_path.iterdir())  # nothing was encoded


def test_what_follows_from_recording_and_model_may_be_stated(
    recipe: Callable[..., None], given: list[str | Path], tmp_path: Path
) -> None:
    stated = ["--prior.past.code-dim", "3", "--prior.net.codebook-size", "6", "--prior.map-shape", "4", "4"]
    recipe("train_video", *given, "--out", tmp_path / "prior", *TINY, *stated, "--fit.steps", "1")
    recipe("train_video", *given, "--out", tmp_path / "default", *TINY, "--fit.steps", "1")
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("prior", "default")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["frames"], "vizdoom"),
        (["--scenario", "basic", "folder", "x"], "--scenario applies to vizdoom, not to folder"),
        (["folder"], "prepare folder needs the folder of the corpus"),
        (["vizdoom", "x"], "ROOT, --side and the options of speech do not apply to vizdoom"),
        (["vizdoom", "--frames", "3"], "frames must be at least 8, for 4 episodes, got 3"),
    ],
)
def test_wrong_flags_of_prepare_are_explained(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["prepare", *arguments, "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.long
def test_the_recipe_launched_on_two_processes_equals_one(given: list[str | Path], tmp_path: Path) -> None:
    """1 x 5 windows = 3 + 2 on two processes."""
    outputs = [_launched(processes, [*given, "--out", tmp_path / str(processes), *TINY]) for processes in (1, 2)]
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("1", "2"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=2e-5, msg=lambda m, n=name: f"{n}: {m}")
    assert "training on 2 processes (cpu, float32" in outputs[1]
    losses = [
        [row["loss"] for row in read_metrics(tmp_path / name / "metrics.jsonl") if "loss" in row] for name in "12"
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4) and len(losses[0]) == 6


def _launched(processes: int, arguments: list[str | Path]) -> str:
    """The output of the recipe by `accelerate launch`, as people start it."""
    # without --multi_gpu, Accelerate starts a single process on a CPU whatever the flags
    several = ["--multi_gpu", "--num_processes", str(processes), "--main_process_port", "0"]
    command = [sys.executable, "-m", "accelerate.commands.launch", *(several if processes > 1 else ["--cpu"])]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    command += [str(ROOT / "recipes/train_video.py"), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr
