"""`vqaudio adapt`: its output folder is written atomically, and an interrupted run is continued."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from vqaudio import SpeechVQVAE, load_model
from vqaudio.cli.main import main
from vqaudio.speech import enroll_run
from vqaudio.speech.enroll import EnrollmentObjective, adapt
from vqaudio.speech.enroll_config import AdaptConfig
from vqaudio.speech.enroll_data import find_new_speakers
from vqaudio.tokens.files import read_tokens

FLAGS = ("--steps", 40, "--crop-samples", 1024)
ADVICE = "wait until it has finished, or choose another --out"


@pytest.fixture
def run(tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """(verb, *arguments) -> exit code, standard output, standard error; --model is the tiny model by default."""

    def call(verb: str, *arguments: object) -> tuple[int, str, str]:
        model = () if "--model" in arguments else ("--model", tiny_model_dir)
        code = main([verb, *map(str, (*arguments, *model))])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def _same(one: SpeechVQVAE, two: SpeechVQVAE) -> bool:
    a, b = one.state_dict(), two.state_dict()
    return one.cfg == two.cfg and all(torch.equal(a[name], b[name]) for name in a)


def test_an_adapted_model_decodes_existing_tokens_with_the_new_speaker(
    tmp_path, run, speech: Path, tiny_model: SpeechVQVAE
) -> None:
    clip, tokens, out = speech / "emil" / "0.wav", tmp_path / "t.jsonl", tmp_path / "deep" / "m2"
    assert run("tokenize", clip, "--out", tokens)[0] == 0
    code, printed, err = run("adapt", "--data", speech / "dora", "--out", out, *FLAGS)
    assert (code, err) == (0, "")
    assert f"tokens        unchanged, of model {tiny_model.fingerprint}" in printed
    assert "speaker       dora: 5.0 s of training speech, 1.0 s of held-out speech" in printed
    assert "speaker gap   0." in printed
    assert [path.name for path in out.parent.iterdir()] == ["m2"]
    assert sorted(path.name for path in out.iterdir()) == ["config.json", "model.safetensors"]
    model = load_model(out)
    assert model.speakers == (*tiny_model.speakers, "dora")
    again = tmp_path / "again.jsonl"
    assert run("tokenize", clip, "--out", again, "--model", out)[0] == 0
    assert again.read_bytes() == tokens.read_bytes()
    short = tmp_path / "short.wav"
    (row,) = read_tokens(tokens)
    assert row.tokens.model == model.fingerprint
    assert run("convert", clip, "--speaker", "dora", "--model", out, "--out", short)[0] == 0
    assert short.exists()


def test_the_verb_equals_the_library_function(tmp_path, run, speech: Path, tiny_model: SpeechVQVAE) -> None:
    flags = (
        "--steps",
        3,
        "--crop-samples",
        512,
        "--batch-size",
        2,
        "--lr",
        0.05,
        "--seed",
        7,
        "--decoder",
        "--decoder-lr",
        0.01,
    )
    run("adapt", "--data", speech / "dora", "--speaker", "d", "--out", tmp_path / "m2", *flags)
    cfg = AdaptConfig(steps=3, crop_samples=512, batch_size=2, lr=0.05, seed=7, decoder=True, decoder_lr=0.01)
    expected = adapt(tiny_model, find_new_speakers(speech / "dora", "d"), cfg).model
    assert _same(load_model(tmp_path / "m2"), expected)


def test_only_a_model_is_replaced_and_only_on_request(tmp_path, run, speech: Path, tiny_model_dir) -> None:
    out = Path(shutil.copytree(tiny_model_dir, tmp_path / "m2"))
    weights = (out / "model.safetensors").read_bytes()
    arguments = ("adapt", "--data", speech / "dora", "--out", out, "--steps", 2, "--crop-samples", 256)
    code, _, err = run(*arguments)
    assert (code, err) == (2, f"error: {out} exists already; pass --overwrite to replace it\n")
    (out / "metrics.jsonl").touch()
    code, _, err = run(*arguments, "--overwrite")
    expected = f"error: {out} contains files that are not part of a model (metrics.jsonl); choose another --out\n"
    assert (code, err) == (2, expected)
    assert (out / "model.safetensors").read_bytes() == weights
    (out / "metrics.jsonl").unlink()
    run(*arguments, "--overwrite", "--model", out)  # replaces the original model itself
    assert load_model(out).speakers == ("anna", "bert", "carl", "dora")
    assert [path.name for path in tmp_path.iterdir()] == ["m2"]
    (tmp_path / "file").touch()
    code, _, err = run("adapt", "--data", speech / "dora", "--out", tmp_path / "file", "--overwrite")
    assert (code, err) == (2, f"error: {tmp_path / 'file'} is a file, but a model is a folder; choose another --out\n")


def test_a_model_that_a_killed_run_moved_aside_is_restored(tmp_path, run, speech: Path, tiny_model_dir) -> None:
    shutil.copytree(tiny_model_dir, tmp_path / ".m2.old")
    arguments = ("adapt", "--data", speech / "dora", "--out", tmp_path / "m2", "--steps", 2, "--crop-samples", 256)
    code, _, err = run(*arguments)
    assert (code, err) == (2, f"error: {tmp_path / 'm2'} exists already; pass --overwrite to replace it\n")
    assert load_model(tmp_path / "m2").speakers == ("anna", "bert", "carl")
    assert run(*arguments, "--overwrite")[0] == 0
    assert load_model(tmp_path / "m2").speakers == ("anna", "bert", "carl", "dora")
    assert [path.name for path in tmp_path.iterdir()] == ["m2"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--speaker", "bert"), "speaker 'bert' is in this model already"),
        (("--steps", 3, "--crop-samples", 256, "--decoder", "--decoder-lr", 1e38), "try a smaller --lr"),
    ],
)
def test_a_run_that_fails_leaves_no_files(tmp_path, run, speech: Path, flags, message: str) -> None:
    code, _, err = run("adapt", "--data", speech / "dora", "--out", tmp_path / "m2", *flags)
    assert code == 2
    assert message in err and err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_nothing(tmp_path, run, speech: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "model.safetensors")

    monkeypatch.setattr(enroll_run, "save_model", full)
    code, _, err = run(
        "adapt", "--data", speech / "dora", "--out", tmp_path / "m2", "--steps", 2, "--crop-samples", 256
    )
    assert (code, err) == (2, "error: model.safetensors: No space left on device\n")
    assert not list(tmp_path.iterdir())


def test_files_that_cannot_be_used_are_named(tmp_path, run, speech: Path) -> None:
    mine = Path(shutil.copytree(speech / "dora", tmp_path / "dora"))
    (mine / "broken.wav").write_text("hello")
    code, _, err = run("adapt", "--data", mine, "--out", tmp_path / "m2", *FLAGS)
    assert code == 1
    assert err.startswith(f"error: {mine / 'broken.wav'} is not audio") and err.count("\n") == 1
    assert load_model(tmp_path / "m2").speakers[-1] == "dora"


def test_an_interrupted_run_continues_to_the_same_model(
    tmp_path, run, speech: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: SpeechVQVAE
) -> None:
    arguments = ("adapt", "--data", speech / "dora", "--out", tmp_path / "m2", "--steps", 8, "--crop-samples", 512)
    forward, passes = EnrollmentObjective.forward, 0

    def interrupted(*args, **kwargs):
        nonlocal passes
        passes += 1
        if passes == 4:
            signal.raise_signal(signal.SIGTERM)
        return forward(*args, **kwargs)

    monkeypatch.setattr(EnrollmentObjective, "forward", interrupted)
    code, _, _ = run(*arguments)
    assert code == 128 + signal.SIGTERM
    assert not (tmp_path / "m2").exists() and (tmp_path / ".m2.adapting").is_dir()
    run(*arguments)
    assert passes == 8
    assert [path.name for path in tmp_path.iterdir()] == ["m2"]
    expected = adapt(tiny_model, find_new_speakers(speech / "dora"), AdaptConfig(steps=8, crop_samples=512)).model
    assert _same(load_model(tmp_path / "m2"), expected)


def test_other_settings_start_a_new_run(tmp_path, run, speech: Path, tiny_model: SpeechVQVAE) -> None:
    previous = tmp_path / ".m2.adapting"
    previous.mkdir()
    (previous / "settings.json").write_text("{}")
    (previous / "run").write_text("of another run")
    run("adapt", "--data", speech / "dora", "--out", tmp_path / "m2", "--steps", 2, "--crop-samples", 256)
    assert [path.name for path in tmp_path.iterdir()] == ["m2"]


def test_two_runs_do_not_share_a_folder(tmp_path, run, speech: Path) -> None:
    with FileLock(tmp_path / ".m2.adapting.lock"):
        code, _, err = run("adapt", "--data", speech / "dora", "--out", tmp_path / "m2", *FLAGS)
    assert (code, err) == (2, f"error: another run is writing {tmp_path / 'm2'}; {ADVICE}\n")


def test_help_is_printed_without_torch() -> None:
    program = (
        "import sys; from vqaudio.cli.main import main; "
        "code = main(['adapt', '--help']); sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "--decoder" in done.stdout and "existing speakers change" in " ".join(done.stdout.replace("│", " ").split())
