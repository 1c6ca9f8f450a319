"""Rates with a simulated clock, and the calls of each implementation."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest
import torch

from vqaudio.benchmark import rates
from vqaudio.nn.wavenet import WaveNet, WaveNetConfig
from vqaudio.sampling.backends import Sampler

TINY = WaveNetConfig(
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


class Clock:
    """A simulated clock, which the tests advance."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(rates.time, "perf_counter", made)
    return made


# --- the clock ---


@pytest.mark.parametrize(("step_seconds", "least"), [(0.001, 1), (0.001, 64), (0.03, 64), (1.3, 1)])
def test_the_rate_is_that_of_the_median_call(clock: Clock, step_seconds: float, least: int) -> None:
    calls: list[int] = []

    def work(steps: int) -> None:
        calls.append(steps)
        late = 0.5 if len(calls) == 1 else 0.0  # the first one warms up
        clock.now += steps * step_seconds + late

    rate = rates.median_rate(work, least=least, seconds=0.25, repeats=5)
    assert rate == pytest.approx(1 / step_seconds)
    assert all(steps % least == 0 for steps in calls)
    assert len(calls) == 1 + (3 if least * step_seconds > 1 else 5)


def test_slow_work_is_measured_once(clock: Clock) -> None:
    calls: list[int] = []

    def work(steps: int) -> None:
        calls.append(steps)
        clock.now += 0.1 * steps

    assert rates.median_rate(work, least=64, seconds=0.25, repeats=5) == pytest.approx(10)
    assert calls == [64]


def test_a_repeat_takes_about_the_given_time(clock: Clock) -> None:
    calls: list[int] = []

    def work(steps: int) -> None:
        calls.append(steps)
        clock.now += steps * 1e-4 * (3 if len(calls) == 12 else 1)  # one of the repeats is disturbed

    assert rates.median_rate(work, least=8, seconds=0.25, repeats=5) == pytest.approx(1e4)
    *warm_up, _, _, _, _, last = calls
    assert last == calls[-5] == pytest.approx(2500, abs=8)
    assert warm_up == [8 * 2**i for i in range(len(warm_up))]


def test_a_sampler_is_extended_in_whole_frames_with_valid_inputs(clock: Clock) -> None:
    seen: list[int] = []

    class Streams:
        def extend(self, cond, uniforms, lengths, *, teacher_forced=None):
            streams, steps = uniforms.shape
            assert steps % TINY.hop == 0
            assert cond.shape == (streams, 3, steps // TINY.hop)
            assert lengths.tolist() == [steps] * 5
            assert teacher_forced is None
            assert torch.get_num_threads() == 2
            seen.append(steps)
            clock.now += 0.125 * steps
            return torch.zeros(streams, steps, dtype=torch.long)

    def open_streams(speaker, streams):
        assert speaker.tolist() == [0, 1, 0, 1, 0]
        return Streams()

    before = torch.get_num_threads()
    rate = rates.sampler_rate(WaveNet(TINY), Sampler("fake", open_streams), 5, 2, seconds=0.2, repeats=3)
    assert rate == pytest.approx(5 / 0.125)  # of all streams together
    assert len(seen) == 1 + 3
    assert torch.get_num_threads() == before


def test_the_reference_loop_computes_the_receptive_field_at_each_step(clock: Clock) -> None:
    net = WaveNet(TINY)
    lengths: list[int] = []

    def passed(_module, arguments, _result) -> None:
        lengths.append(arguments[0].shape[1])
        clock.now += 0.125

    net.register_forward_hook(passed)
    assert rates.reference_rate(net, 1, seconds=0.5, repeats=3) == pytest.approx(8)
    assert set(lengths) == {TINY.receptive_field}
    assert len(lengths) == 1 + 3 * 4


# --- wavenet_vocoder ---


@pytest.fixture
def peer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], dict]]:
    """A fake package wavenet_vocoder that records its calls and arguments."""
    calls: dict = {}

    class Net:
        def __init__(self, **sizes) -> None:
            calls["sizes"] = sizes

        def eval(self) -> Net:
            return self

        def make_generation_fast_(self) -> None:
            calls["fast"] = True

        def incremental_forward(self, initial_input, **given) -> None:
            calls["given"] = {"first": initial_input, **given}

    module = ModuleType("wavenet_vocoder")
    module.__spec__ = ModuleSpec("wavenet_vocoder", None)
    module.WaveNet = Net  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "wavenet_vocoder", module)
    yield lambda: calls


def test_wavenet_vocoder_has_the_same_size(peer: Callable[[], dict]) -> None:
    assert rates.wavenet_vocoder_missing() == ""
    rates.wavenet_vocoder_rate(TINY, 1, seconds=1e-6, repeats=1)
    calls = peer()
    sizes = {"out_channels": 6, "layers": 4, "stacks": 2, "residual_channels": 4, "gate_channels": 8}
    sizes |= {"skip_out_channels": 5, "kernel_size": 3, "cin_channels": 3, "gin_channels": 6, "n_speakers": 2}
    assert calls["sizes"] == {**sizes, "dropout": 0.0}
    assert calls["fast"]
    assert calls["given"]["first"].shape == (1, 6, 1)
    steps = calls["given"]["T"]
    assert calls["given"]["c"].shape == (1, 3, steps)  # it needs a column for every step
    assert calls["given"]["g"].tolist() == [[0]]


def test_a_missing_wavenet_vocoder_is_reported_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates.importlib.util, "find_spec", lambda _: None)
    assert rates.wavenet_vocoder_missing() == "not installed: pip install 'vqaudio[bench]'"


@pytest.mark.parametrize("cfg", [TINY, replace(TINY, cond_dim=0, num_speakers=0)])
def test_wavenet_vocoder_runs_with_the_installed_torch(cfg: WaveNetConfig) -> None:
    pytest.importorskip("wavenet_vocoder", reason="the extra [bench] is not installed")
    assert rates.wavenet_vocoder_rate(cfg, 1, seconds=1e-6, repeats=1) > 0
