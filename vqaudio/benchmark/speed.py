"""How fast does this machine decode? Each way to do it, beside the others and beside what the machine could do.

All weights are random: time does not depend on them.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from vqaudio.benchmark.rates import obvious_rate, peer_missing, peer_rate, sampler_rate
from vqaudio.kernels import machine
from vqaudio.kernels.library import kernels
from vqaudio.kernels.precision import PRECISIONS, Precision
from vqaudio.nn.wavenet import WaveNet, WaveNetConfig
from vqaudio.sampling.backends import choose, ring_buffers
from vqaudio.sampling.compiled import shape_of
from vqaudio.sampling.config import SamplingConfig

OBVIOUS, PEER, RING, COMPILED = "obvious loop", "wavenet_vocoder", "ring buffers", "compiled"
TRIALS = 5  # of which the best says what the machine can do: other work on it disturbs the others


@dataclass(frozen=True)
class Subject:
    """A WaveNet that is timed."""

    name: str
    net: WaveNetConfig
    rate: float = 16000.0
    """steps per second of what it generates"""
    step: str = "sample"
    """what a step is called"""

    @property
    def multiply_adds(self) -> int:
        """Of one step, the conditioning left out."""
        return shape_of(self.net).multiply_adds

    @property
    def weight_bytes(self) -> int:
        """That one step reads in float32, if it reads every weight once."""
        return 4 * self.multiply_adds


_VCTK = {"layers_per_stack": 10, "hop": 64, "cond_dim": 64, "num_speakers": 109}
BASE = Subject("base", WaveNetConfig(layers=20, residual_channels=64, skip_channels=128, **_VCTK))
WIDE_SKIP = Subject("wide skip", WaveNetConfig(layers=30, residual_channels=64, skip_channels=256, **_VCTK))
PAPER = Subject("paper", WaveNetConfig(layers=30, residual_channels=256, skip_channels=256, **_VCTK))
_PRIOR = WaveNetConfig(
    num_classes=512, layers=10, layers_per_stack=5, residual_channels=128, skip_channels=256, hop=1, num_speakers=109
)
CODE_PRIOR = Subject("code prior", _PRIOR, rate=250.0, step="code")


@dataclass(frozen=True)
class Plan:
    """What is timed, and how long."""

    subjects: tuple[Subject, ...] = (BASE, WIDE_SKIP, PAPER, CODE_PRIOR)
    streams: tuple[int, ...] = (4, 8, 16, 32)
    """generated together on all threads, beside a single stream on one thread and on two"""
    seconds: float = 0.2
    """that one measurement takes, about"""
    repeats: int = 5
    """measurements, of which the median counts; what is slow has fewer"""


FULL, QUICK = Plan(), Plan(subjects=(BASE,), streams=(16,), seconds=0.1, repeats=3)


class Machine(NamedTuple):
    """The machine, and what a thread of it can do."""

    processor: str
    kernels: str | None  # their variant; None: there are none
    threads: int  # that are used at most
    peak: dict[str, float]  # of each precision: multiply-adds per second of one thread; empty without kernels


class Speed(NamedTuple):
    """One way to decode, timed; what follows from its rate comes last. Without a rate a note says why."""

    way: str
    precision: Precision
    streams: int
    threads: int
    rate: float | None  # steps per second, of all streams together
    note: str = ""
    real_time: float | None = None  # seconds generated in a second, of all streams together
    multiply_adds: float | None = None  # per second
    of_ring: float | None = None  # times the rate of the ring buffers with as many streams and threads
    of_peak: float | None = None  # share of the multiply-adds that the threads could do (compiled kernels)
    of_bandwidth: float | None = None  # share of the bound (compiled, one float32 stream on one thread)


def measure_machine(threads: int, seconds: float = 0.2) -> Machine:
    """What it is and how fast one thread of it multiplies; a trial takes so many seconds."""
    if threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    found = kernels()
    if found is None:
        return Machine(_processor(), None, threads, {})
    peak = {p: max(machine.peak(found, p, seconds=seconds) for _ in range(TRIALS)) for p in PRECISIONS}
    return Machine(_processor(), found.variant, threads, peak)


def measure_bandwidth(subject: Subject, seconds: float = 0.2) -> float | None:
    """Bytes per second that one thread reads from a buffer as large as the float32 weights; None without kernels."""
    found = kernels()
    if found is None:
        return None
    return max(machine.bandwidth(found, subject.weight_bytes, seconds=seconds) for _ in range(TRIALS))


def compare(subject: Subject, host: Machine, bandwidth: float | None, plan: Plan) -> Iterator[Speed]:
    """Every way to decode: one stream on one thread and on two, then more streams on all threads.

    The bound of one float32 stream on one thread is that all weights are streamed from the cache once per step. A
    sampler that reads a weight once for several steps, as ours does with past taps, may come out above it.
    """
    net = WaveNet(subject.net).eval().requires_grad_(False)
    alone = [(1, threads) for threads in (1, 2) if threads <= host.threads]
    for streams, threads in [*alone, *((streams, host.threads) for streams in plan.streams)]:
        ring = None  # comes first
        for speed in _measure(net, streams, threads, plan):
            ring = ring or speed.rate
            yield _related(speed, ring, subject, host, bandwidth)


def _measure(net: WaveNet, streams: int, threads: int, plan: Plan) -> Iterator[Speed]:
    """Every way to decode so many streams on so many threads, the ring buffers first; rates alone."""
    options = {"seconds": plan.seconds, "repeats": plan.repeats}
    point = (streams, threads)
    yield Speed(RING, "float32", *point, sampler_rate(net, ring_buffers(net), *point, **options))
    if streams == 1:
        yield Speed(OBVIOUS, "float32", *point, obvious_rate(net, threads, **options))
        missing = peer_missing()
        rate = None if missing else peer_rate(net.cfg, threads, **options)
        yield Speed(PEER, "float32", *point, rate, note=missing)
    for precision in PRECISIONS if kernels() else ():
        sampler = choose(net, SamplingConfig(precision=precision, threads=threads))
        # PyTorch has hardly anything to do here, and threads of it that wait for more would be in the way
        yield Speed(COMPILED, precision, *point, sampler_rate(net, sampler, streams, 1, **options))


def _related(speed: Speed, ring: float | None, subject: Subject, host: Machine, bandwidth: float | None) -> Speed:
    """The same with all that follows from its rate."""
    if speed.rate is None or ring is None:
        return speed
    multiply_adds, of_peak, of_bandwidth = speed.rate * subject.multiply_adds, None, None
    if speed.way == COMPILED:
        of_peak = multiply_adds / (speed.threads * host.peak[speed.precision])
        if bandwidth is not None and (speed.precision, speed.streams, speed.threads) == ("float32", 1, 1):
            of_bandwidth = speed.rate * subject.weight_bytes / bandwidth
    return speed._replace(
        real_time=speed.rate / subject.rate,
        multiply_adds=multiply_adds,
        of_ring=speed.rate / ring,
        of_peak=of_peak,
        of_bandwidth=of_bandwidth,
    )


def _processor() -> str:
    """As Linux names it, or what Python knows."""
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text(encoding="utf-8").splitlines() if facts.exists() else []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())
