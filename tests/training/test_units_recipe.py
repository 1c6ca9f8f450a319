"""The recipe with a level-free front-end and target: units: with one process, with two, interrupted, and a decoder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from vqaudio import load_model
from vqaudio.training.metrics_file import read_metrics

pytestmark = pytest.mark.slow
MODEL = (
    *("--model.encoder.frontend.kind", "log_mel_cmn", "--model.encoder.frontend.n_mels", "12"),
    *("--model.encoder.frontend.f_max", "6600", "--model.encoder.frontend.warp", "0.2", "--model.encoder.strides", "2"),
    *("--model.encoder.channels", "16", "--model.encoder.lookahead", "400", "--model.units.num_clusters", "12"),
    *("--model.units.n_mels", "20", "--model.units.channels", "16"),
    *("--crops.samples", "3200", "--crops.past", "4800", "--crops.future", "400", "--validation.samples", "3200"),
)
UNITS = (*MODEL, "--model.stage", "codes", "--model.target", "units", "--crops.gain_db", "6")


@pytest.fixture(scope="module")
def units(host, tiny: Path, runs: Path, recipe: Path) -> Path:
    out = runs / "units"
    host.start(recipe, tiny, "--out", out, *UNITS).finish()
    return out


def test_units_are_learned(units: Path, runs: Path) -> None:
    model = load_model(units)
    front = model.encoder.frontend
    assert front is not None and front.initialised
    rows = [row for row in read_metrics(units / "metrics.jsonl") if row["kind"] == "valid"]
    assert rows[-1]["unit_loss"] < rows[0]["unit_loss"]
    assert {"cluster_bits", "cepstrum_error", "speaker_gap", "perplexity"} <= set(rows[-1])
    wav = torch.randn(5000, generator=torch.Generator().manual_seed(0)) * 0.05
    assert torch.equal(model.tokenize(wav / 4).codes, model.tokenize(wav).codes)
    assert len(list((runs / "packed").glob("units-*"))) == 2


def test_two_processes_equal_one(host, tiny: Path, runs: Path, recipe: Path, units: Path) -> None:
    """Without the warp, which processes draw independently, on targets that the two have to make."""
    for folder in (runs / "packed").glob("units-*"):
        shutil.rmtree(folder)
    outs = [runs / "units of one", runs / "units of two"]
    for out, processes in zip(outs, (1, 2), strict=True):
        host.start(
            recipe, tiny, "--out", out, *UNITS, "--model.encoder.frontend.warp", "0", processes=processes
        ).finish()
        if processes == 1:
            for folder in (runs / "packed").glob("units-*"):
                shutil.rmtree(folder)
    one, two = (load_file(out / "model.safetensors") for out in outs)
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=5e-5, msg=lambda m, n=name: f"{n}: {m}")
    constants = [name for name in one if name.startswith("encoder.frontend.")]
    assert len(constants) == 4 and all(torch.equal(one[name], two[name]) for name in constants)


def test_resumed_equals_uninterrupted(host, tiny: Path, runs: Path, recipe: Path, units: Path) -> None:
    out = runs / "units continued"
    shutil.copytree(units, out)
    shutil.rmtree(out / "checkpoints/00000012")
    output = host.start(recipe, tiny, "--out", out, *UNITS).finish()
    assert "resuming from" in output
    for name in ("model.safetensors", "training.safetensors"):
        expected, found = (load_file(run / "checkpoints/00000012" / name) for run in (units, out))
        assert expected.keys() == found.keys()
        assert all(torch.equal(value, found[key]) for key, value in expected.items()), name


def test_a_decoder_of_the_same_codes(host, tiny: Path, runs: Path, recipe: Path, units: Path) -> None:
    out = runs / "decoder of units"
    flags = ("--model.context.dilations", "1", "--model.context.channels", "8", "--model.spectrum.n_mels", "8")
    host.start(recipe, tiny, "--out", out, "--init-from", units, *MODEL, *flags, "--model.stage", "decoder").finish()
    model, codes = load_model(out), load_model(units)
    assert model.fingerprint == codes.fingerprint
    tokens = model.tokenize(torch.randn(3200, generator=torch.Generator().manual_seed(0)) * 0.05)
    assert len(model.decode(tokens, model.speakers[0])) == 3200
