"""Which implementations are timed, and the metrics derived from rates, independent of the speed of this machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

import vqaudio
from vqaudio.benchmark import speed
from vqaudio.benchmark.speed import (
    BASE,
    COMPILED,
    MINI,
    PAPER,
    REFERENCE,
    RING,
    WAVENET_VOCODER,
    BenchmarkModel,
    Machine,
    Plan,
)
from vqaudio.config import from_dict
from vqaudio.kernels import machine
from vqaudio.kernels.library import kernels, why_missing
from vqaudio.kernels.precision import PRECISIONS
from vqaudio.nn.wavenet import WaveNet, WaveNetConfig
from vqaudio.speech.model import SpeechVQVAEConfig

VCTK = Path(__file__).parents[2] / "egs/vctk"
_NET = WaveNetConfig(
    num_classes=6,
    layers=4,
    layers_per_stack=2,
    residual_channels=4,
    skip_channels=5,
    hop=4,
    cond_dim=3,
    num_speakers=2,
    cond_hidden_channels=6,
    kernel_size=3,
)
TINY = BenchmarkModel("tiny", _NET, rate=100.0)
PLAN = Plan((TINY,), streams=(3,), seconds=1e-6, repeats=1)
needs_kernels = pytest.mark.skipif(kernels() is None, reason=why_missing())


@pytest.fixture
def without_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "wavenet_vocoder_missing", lambda: "not installed: for a test")


# --- what is timed ---


@pytest.mark.parametrize(("model", "preset"), [(BASE, "base"), (PAPER, "paper")])
def test_presets_are_timed_as_they_are_trained(model: BenchmarkModel, preset: str) -> None:
    settings = yaml.safe_load((VCTK / f"conf/{preset}.yaml").read_text())["model"]
    speakers = tuple(f"p{i}" for i in range(109))
    cfg = replace(from_dict(SpeechVQVAEConfig, settings), speakers=speakers)
    assert model.net == cfg.decoder
    assert (model.name, model.rate) == (preset, cfg.sample_rate)


def test_the_shipped_model_is_timed_as_it_is() -> None:
    shipped = vqaudio.load_model("mini")
    # noise on the past is of training alone
    assert MINI.net == replace(shipped.cfg.decoder, past_noise=0.0)
    assert (shipped.cfg.spectrum, shipped.cfg.istft) == (speed.SPECTRUM, speed.ISTFT)


@pytest.mark.parametrize("model", [*speed.FULL.models, TINY], ids=lambda model: model.name)
def test_a_step_multiplies_every_weight_of_the_layers_once(model: BenchmarkModel) -> None:
    with torch.device("meta"):
        net = WaveNet(model.net)
    layers = [net.dilated, net.residual, net.skip, net.head, net.out]
    weights = [weight for layer in layers for name, weight in layer.named_parameters() if name.endswith("weight")]
    assert model.multiply_adds == sum(weight.numel() for weight in weights)
    assert model.weight_bytes == sum(weight.numel() * weight.element_size() for weight in weights)


# --- what follows ---


def test_metrics_are_derived_from_rates(without_peer: None, monkeypatch: pytest.MonkeyPatch) -> None:
    rates = {RING: 50.0, REFERENCE: 2.0}
    monkeypatch.setattr(speed, "reference_rate", lambda *_, **__: rates[REFERENCE])
    monkeypatch.setattr(
        speed, "sampler_rate", lambda _, sampler, *__, **___: rates.get(RING) if "ring" in sampler.name else 400.0
    )
    peak = {precision: 1e6 * (i + 1) for i, precision in enumerate(PRECISIONS)}
    host = Machine("a machine", None if kernels() is None else "generic", 2, peak)
    work, found = TINY.multiply_adds, list(speed.compare(TINY, host, 1e7, PLAN))
    for row in found:
        if row.rate is None:
            assert (
                row.implementation == WAVENET_VOCODER
                and row.note == "not installed: for a test"
                and row.real_time_factor is None
            )
            continue
        assert row.real_time_factor == row.rate / 100
        assert row.multiply_adds == row.rate * work
        assert row.of_ring == {RING: 1.0, REFERENCE: 0.04, COMPILED: 8.0}[row.implementation]
        compiled = row.implementation == COMPILED
        assert row.of_peak == (400 * work / (row.threads * peak[row.precision]) if compiled else None)
        bound = compiled and (row.precision, row.streams, row.threads) == ("float32", 1, 1)
        assert row.of_bandwidth == (400 * 4 * work / 1e7 if bound else None)
    for streams, threads in ((1, 1), (1, 2), (3, 2)):
        ways = [row.implementation for row in found if (row.streams, row.threads) == (streams, threads)]
        assert ways == [RING] + [REFERENCE, WAVENET_VOCODER] * (streams == 1) + [COMPILED] * (
            len(PRECISIONS) if kernels() else 0
        )


def test_every_implementation_decodes(without_peer: None) -> None:
    host = speed.measure_machine(2, seconds=1e-3)
    found = list(speed.compare(TINY, host, speed.measure_bandwidth(TINY, seconds=1e-3), PLAN))
    timed = [row for row in found if row.rate is not None]
    assert len(timed) == len(found) - 2  # wavenet_vocoder, on one thread and on two
    assert all(0 < row.rate < float("inf") for row in timed if row.rate)
    assert {row.precision for row in timed if row.implementation == COMPILED} == (
        set(PRECISIONS) if kernels() else set()
    )


def test_without_kernels_pytorch_alone_is_timed(without_peer: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "kernels", lambda: None)
    host = speed.measure_machine(1)
    assert (host.kernels, host.peak) == (None, {})
    assert speed.measure_bandwidth(TINY) is None
    assert {row.implementation for row in speed.compare(TINY, host, None, PLAN)} == {RING, REFERENCE, WAVENET_VOCODER}


@needs_kernels
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_peak_is_physically_possible(precision) -> None:
    """At most two products of the widest vectors in a cycle of at most 6 GHz: nothing is left out of the loop."""
    found = kernels()
    assert found is not None
    products = {"float32": 16, "bf16": 32, "int8": 64}[precision]
    assert 0 < machine.peak(found, precision, seconds=1e-3) < 2 * products * 6e9


@needs_kernels
def test_a_bandwidth_is_physically_possible() -> None:
    found = kernels()
    assert found is not None
    for num_bytes in (1, 512, 1000, 100_000):
        assert 0 < machine.bandwidth(found, num_bytes, seconds=1e-3) < 2 * 64 * 6e9
    with pytest.raises(ValueError, match="at least 1 byte, got 0"):
        machine.bandwidth(found, 0)
    with pytest.raises(ValueError, match="float32, bf16, int8, got 'float16'"):
        machine.peak(found, "float16")  # pyright: ignore[reportArgumentType]


def test_no_thread_is_refused() -> None:
    with pytest.raises(ValueError, match="threads must be at least 1, got 0"):
        speed.measure_machine(0)
