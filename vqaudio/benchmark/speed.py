"""Decoding speed of this machine: each implementation, compared with the others and with the limits of the machine.

The real-time factor (RTF) is audio seconds per wall second. All weights are random: time does not depend on them.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from vqaudio.benchmark.rates import (
    griffin_lim_rate,
    istft_rate,
    reference_rate,
    sampler_rate,
    wavenet_vocoder_missing,
    wavenet_vocoder_rate,
)
from vqaudio.kernels import machine
from vqaudio.kernels.library import kernels
from vqaudio.kernels.precision import PRECISIONS, Precision
from vqaudio.nn.frontend import LogMel, LogMelConfig
from vqaudio.nn.source_filter import IstftConfig, IstftVocoder
from vqaudio.nn.wavenet import WaveNet, WaveNetConfig
from vqaudio.sampling.backends import choose, ring_buffers
from vqaudio.sampling.config import SamplingConfig

REFERENCE, WAVENET_VOCODER, RING, COMPILED = "reference loop", "wavenet_vocoder", "ring buffers", "compiled"
SPECTRUM = LogMelConfig(n_mels=80)  # of 16 kHz, as the shipped model predicts it
ISTFT = IstftConfig(dilations=(1, 2, 1, 2, 1))  # its filters, as the shipped model predicts them
TRIALS = 5  # the best counts, because other work on the machine only slows trials down


@dataclass(frozen=True)
class BenchmarkModel:
    """A WaveNet to be timed."""

    name: str
    net: WaveNetConfig
    rate: float = 16000.0
    """steps per second of generated audio or codes"""
    step: str = "sample"
    """name of a step"""

    @property
    def multiply_adds(self) -> int:
        """Per step, without the conditioning."""
        return self.net.multiply_adds

    @property
    def weight_bytes(self) -> int:
        """Bytes of float32 weights that a step reads, each weight once."""
        return 4 * self.multiply_adds


_VCTK = {"layers_per_stack": 10, "hop": 64, "cond_dim": 64, "num_speakers": 109}
_MINI = {"layers_per_stack": 10, "hop": 40, "cond_dim": 256, "num_speakers": 11}
MINI = BenchmarkModel("mini", WaveNetConfig(layers=20, residual_channels=64, skip_channels=128, **_MINI))
BASE = BenchmarkModel("base", WaveNetConfig(layers=20, residual_channels=64, skip_channels=128, **_VCTK))
WIDE_SKIP = BenchmarkModel("wide skip", WaveNetConfig(layers=30, residual_channels=64, skip_channels=256, **_VCTK))
PAPER = BenchmarkModel("paper", WaveNetConfig(layers=30, residual_channels=256, skip_channels=256, **_VCTK))
_PRIOR = WaveNetConfig(
    num_classes=512, layers=10, layers_per_stack=5, residual_channels=128, skip_channels=256, hop=1, num_speakers=109
)
CODE_PRIOR = BenchmarkModel("code prior", _PRIOR, rate=250.0, step="code")


@dataclass(frozen=True)
class Plan:
    """Number of streams and duration of the measurements."""

    models: tuple[BenchmarkModel, ...] = (MINI, BASE, WIDE_SKIP, PAPER, CODE_PRIOR)
    streams: tuple[int, ...] = (4, 8, 16, 32)
    """numbers of streams generated together on all threads, besides a single stream on one and two threads"""
    seconds: float = 0.2
    """approximate duration of a measurement"""
    repeats: int = 5
    """number of measurements, of which the median counts; slow implementations have fewer"""


FULL, QUICK = Plan(), Plan(models=(BASE,), streams=(16,), seconds=0.1, repeats=3)


class Machine(NamedTuple):
    """The machine and the peak performance of one thread."""

    processor: str
    kernels: str | None  # variant of the compiled kernels; None without them
    threads: int  # maximum
    peak: dict[str, float]  # precision -> multiply-adds per second of one thread; empty without kernels


class Speed(NamedTuple):
    """The speed of one implementation. Without a rate, `note` has the reason."""

    implementation: str
    precision: Precision
    streams: int
    threads: int
    rate: float | None  # steps per second, of all streams together
    note: str = ""
    real_time_factor: float | None = None  # audio seconds per wall second, of all streams together
    multiply_adds: float | None = None  # per second
    of_ring: float | None = None  # relative to the ring buffers with as many streams and threads
    of_peak: float | None = None  # fraction of the peak multiply-adds of the threads (compiled kernels)
    of_bandwidth: float | None = None  # fraction of the bandwidth bound (compiled, one float32 stream on one thread)


def measure_machine(threads: int, seconds: float = 0.2) -> Machine:
    """The machine and its peak performance; a trial takes `seconds`. Raises ValueError for less than 1 thread."""
    if threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    found = kernels()
    if found is None:
        return Machine(_processor(), None, threads, {})
    peak = {p: max(machine.peak(found, p, seconds=seconds) for _ in range(TRIALS)) for p in PRECISIONS}
    return Machine(_processor(), found.variant, threads, peak)


def measure_bandwidth(model: BenchmarkModel, seconds: float = 0.2) -> float | None:
    """Bytes per second that one thread reads from a buffer as large as the float32 weights; None without kernels."""
    found = kernels()
    if found is None:
        return None
    return max(machine.bandwidth(found, model.weight_bytes, seconds=seconds) for _ in range(TRIALS))


def measure_griffin_lim(plan: Plan) -> float:
    """The real-time factor of the vocoder griffin-lim on one thread; the context network before it takes little."""
    return griffin_lim_rate(LogMel(SPECTRUM, 16000), seconds=plan.seconds, repeats=plan.repeats) / 16000


def measure_istft(plan: Plan) -> float:
    """The real-time factor of the vocoder istft on one thread; the context network before it takes little."""
    vocoder = IstftVocoder(ISTFT, SPECTRUM, 16000).eval().requires_grad_(False)
    return istft_rate(vocoder, seconds=plan.seconds, repeats=plan.repeats) / 16000


def compare(model: BenchmarkModel, host: Machine, bandwidth: float | None, plan: Plan) -> Iterator[Speed]:
    """Times every implementation: one stream on one and on two threads, then more streams on all threads.

    The bandwidth bound of one float32 stream on one thread assumes that all weights are read from the cache once per
    step. A sampler that reads a weight once for several steps, as ours does for past taps, can exceed it.
    """
    net = WaveNet(model.net).eval().requires_grad_(False)
    alone = [(1, threads) for threads in (1, 2) if threads <= host.threads]
    for streams, threads in [*alone, *((streams, host.threads) for streams in plan.streams)]:
        ring = None  # measured first
        for speed in _measure(net, streams, threads, plan):
            ring = ring or speed.rate
            yield _related(speed, ring, model, host, bandwidth)


def _measure(net: WaveNet, streams: int, threads: int, plan: Plan) -> Iterator[Speed]:
    """The rates of every implementation, the ring buffers first."""
    options = {"seconds": plan.seconds, "repeats": plan.repeats}
    point = (streams, threads)
    yield Speed(RING, "float32", *point, sampler_rate(net, ring_buffers(net), *point, **options))
    if streams == 1:
        yield Speed(REFERENCE, "float32", *point, reference_rate(net, threads, **options))
        missing = wavenet_vocoder_missing()
        rate = None if missing else wavenet_vocoder_rate(net.cfg, threads, **options)
        yield Speed(WAVENET_VOCODER, "float32", *point, rate, note=missing)
    for precision in PRECISIONS if kernels() else ():
        sampler = choose(net, SamplingConfig(precision=precision, threads=threads))
        # PyTorch does almost nothing here, and its waiting threads would compete for the cores
        yield Speed(COMPILED, precision, *point, sampler_rate(net, sampler, streams, 1, **options))


def _related(speed: Speed, ring: float | None, model: BenchmarkModel, host: Machine, bandwidth: float | None) -> Speed:
    """With the values that are derived from the rate."""
    if speed.rate is None or ring is None:
        return speed
    multiply_adds, of_peak, of_bandwidth = speed.rate * model.multiply_adds, None, None
    if speed.implementation == COMPILED:
        of_peak = multiply_adds / (speed.threads * host.peak[speed.precision])
        if bandwidth is not None and (speed.precision, speed.streams, speed.threads) == ("float32", 1, 1):
            of_bandwidth = speed.rate * model.weight_bytes / bandwidth
    return speed._replace(
        real_time_factor=speed.rate / model.rate,
        multiply_adds=multiply_adds,
        of_ring=speed.rate / ring,
        of_peak=of_peak,
        of_bandwidth=of_bandwidth,
    )


def _processor() -> str:
    """The name of the processor, from Linux or from Python."""
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text(encoding="utf-8").splitlines() if facts.exists() else []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())
