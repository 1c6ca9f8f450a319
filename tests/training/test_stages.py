"""The recipe trains the stages codes, context and decoder: with one process, with two, and interrupted."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from vqaudio import load_model
from vqaudio.training.metrics_file import read_metrics

pytestmark = pytest.mark.slow
AUGMENTED = (  # including random augmentation of the encoder input
    *(
        "--model.encoder.frontend.n_mels",
        "12",
        "--model.encoder.frontend.hop_length",
        "8",
        "--model.encoder.frontend.win_length",
        "64",
    ),
    *("--model.encoder.frontend.f_max", "6600", "--model.encoder.frontend.warp", "0.2", "--crops.gain_db", "12"),
    *("--model.encoder.strides", "2", "4", "--model.encoder.channels", "8", "16"),
    *("--model.context.dilations", "1", "2", "--model.context.channels", "8"),
    *("--model.spectrum.n_mels", "8", "--model.spectrum.hop_length", "64", "--model.spectrum.win_length", "256"),
)
SPEECH = (*AUGMENTED, "--model.stage", "decoder")
CONVERSIONS = (
    *(*AUGMENTED, "--model.stage", "context", "--model.vocoder", "griffin-lim"),
    *("--model.conversion-loss-weight", "4"),
)


@pytest.fixture(scope="module")
def codes(host, tiny: Path, runs: Path, recipe: Path) -> Path:
    """A run with stage: codes."""
    out = runs / "codes"
    host.start(recipe, tiny, "--out", out, *AUGMENTED, "--model.stage", "codes").finish()
    return out


@pytest.fixture(scope="module")
def speech(host, tiny: Path, runs: Path, recipe: Path, codes: Path) -> Path:
    """A run with stage: decoder, initialised from it."""
    out = runs / "speech"
    output = host.start(recipe, tiny, "--out", out, "--init-from", codes, *SPEECH).finish()
    count = sum(key.startswith("decoder.") for key in load_model(out).state_dict())
    left = f"decoder ({count - 1} of {count} weights)"  # all but the speaker embedding
    assert f"initialised from {codes}; not copied: {left}\n" in output
    return out


@pytest.fixture(scope="module")
def context(host, tiny: Path, runs: Path, recipe: Path, codes: Path) -> Path:
    """A run with stage: context and a teacher of conversions, initialised from the codes."""
    out = runs / "context"
    host.start(recipe, tiny, "--out", out, "--init-from", codes, *CONVERSIONS).finish()
    assert read_metrics(out / "metrics.jsonl")[0]["conversion_error"] > 0
    return out


def test_codes_do_not_change_and_the_decoder_is_trained(codes: Path, speech: Path) -> None:
    before, after = load_model(codes), load_model(speech)
    assert after.fingerprint == before.fingerprint
    wav = torch.rand(2000, generator=torch.Generator().manual_seed(0)) - 0.5
    tokens = after.tokenize(wav)
    assert torch.equal(tokens.codes, before.tokenize(wav).codes)
    with pytest.raises(ValueError, match=r"WaveNet of this model has not been trained"):
        before.decode(tokens, before.speakers[0])
    assert len(after.decode(tokens, after.speakers[0])) == 2000
    assert not torch.equal(before.state_dict()["context.code.weight"], after.state_dict()["context.code.weight"])
    rows = [row for row in read_metrics(codes / "metrics.jsonl") if row["kind"] == "valid"]
    assert rows[-1]["spectrum_error"] < rows[0]["spectrum_error"]
    assert {"spectrum_error", "bits_per_sample"} <= set(read_metrics(speech / "metrics.jsonl")[0])


def test_two_processes_equal_one(host, tiny: Path, runs: Path, recipe: Path, codes: Path, speech: Path) -> None:
    """Stage: codes is covered by other tests; stage: decoder is initialised from another run."""
    out = runs / "speech of two"
    output = host.start(recipe, tiny, "--out", out, "--init-from", codes, *SPEECH, processes=2).finish()
    assert output.count("not copied") == 1 and "training on 2 processes" in output
    one, two = (load_file(run / "model.safetensors") for run in (speech, out))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=2e-5, msg=lambda m, n=name: f"{n}: {m}")
    assert load_model(out).fingerprint == load_model(codes).fingerprint


def test_two_processes_equal_two_slices_of_one(host, tiny: Path, runs: Path, recipe: Path, codes: Path) -> None:
    """With conversions to speakers that are drawn for each slice of a batch."""
    flags = ("--init-from", codes, *CONVERSIONS)
    outs = [runs / f"context of {count}" for count in ("two slices", "two processes")]
    host.start(recipe, tiny, "--out", outs[0], *flags, "--fit.gradient-accumulation-steps", "2").finish()
    host.start(recipe, tiny, "--out", outs[1], *flags, processes=2).finish()
    one, two = (load_file(out / "model.safetensors") for out in outs)
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=2e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_another_teacher_does_not_continue_a_run(
    host, tiny: Path, runs: Path, recipe: Path, codes: Path, context: Path
) -> None:
    """It is made from the model of --init-from, by the name of which it could be another one."""
    shutil.copytree(codes, start := runs / "codes to start from")
    out = runs / "context from them"
    short = (*CONVERSIONS, "--init-from", start, "--out", out)
    host.start(recipe, tiny, *short, "--fit.steps", "4").finish()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(context / name, start / name)
    run = host.start(recipe, tiny, *short)
    assert run.wait() == [1] and "conversion_teacher" in run.output


@pytest.mark.parametrize("stage", ["codes", "context", "decoder"])
def test_resumed_equals_uninterrupted(
    host, tiny: Path, runs: Path, recipe: Path, codes: Path, context: Path, speech: Path, stage: str
) -> None:
    whole, flags = {
        "codes": (codes, (*AUGMENTED, "--model.stage", "codes")),
        "context": (context, CONVERSIONS),
        "decoder": (speech, SPEECH),
    }[stage]
    start = () if stage == "codes" else ("--init-from", codes)
    out = runs / f"{stage} continued"
    shutil.copytree(whole, out)
    shutil.rmtree(out / "checkpoints/00000012")
    output = host.start(recipe, tiny, "--out", out, *start, *flags).finish()
    assert "resuming from" in output
    for name in ("model.safetensors", "training.safetensors"):
        expected, found = (load_file(run / "checkpoints/00000012" / name) for run in (whole, out))
        assert expected.keys() == found.keys()
        assert all(torch.equal(value, found[key]) for key, value in expected.items()), name


def test_stage_decoder_without_a_checkpoint_is_refused(host, tiny: Path, runs: Path, recipe: Path) -> None:
    run = host.start(recipe, tiny, "--out", runs / "from nothing", *SPEECH)
    assert run.wait() == [1]
    assert "error: stage: decoder freezes encoder and codebook, so init_from must name" in run.output
    assert not (runs / "from nothing").exists()
