"""The figures of `speed` as tables for people and as one dictionary for JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path

import torch

from vqaudio.atomic import atomic_file, check_writable
from vqaudio.benchmark.rates import peer_missing
from vqaudio.benchmark.speed import (
    PEER,
    Machine,
    Plan,
    Speed,
    Subject,
    compare,
    measure_bandwidth,
    measure_machine,
)
from vqaudio.kernels.library import why_missing

HEADER = ("streams", "threads", "how", "precision", "x real time", "x ring buffers", "of peak", "of bandwidth")
WIDTHS = (7, 9, 17, 11, 12, 13, 16, 9, 14)


def bench(
    plan: Plan, threads: int | None, tell: Callable[[str], object], *, out: Path | None = None, overwrite: bool = False
) -> dict[str, object]:
    """Times all that is planned and tells each line as it comes -> all figures, which `out` holds as JSON.

    `threads`: at most so many (None: as PyTorch has it). Raises ValueError for less than one, OSError for an `out`
    that cannot be written, both at once.
    """
    if out is not None:
        check_writable(out, overwrite=overwrite)
    host = measure_machine(torch.get_num_threads() if threads is None else threads, plan.seconds)
    _tell_all(describe_machine(host), tell)
    subjects = []
    for subject in plan.subjects:
        bandwidth = measure_bandwidth(subject, plan.seconds)
        _tell_all(describe_subject(subject, bandwidth), tell)
        speeds = []
        for speed in compare(subject, host, bandwidth, plan):
            tell(row_of(speed))
            speeds.append(speed._asdict())
        facts = {"multiply_adds": subject.multiply_adds, "weight_bytes": subject.weight_bytes, "bandwidth": bandwidth}
        subjects.append({**asdict(subject), **facts, "speeds": speeds})
    figures = {"machine": host._asdict(), "subjects": subjects}
    if out is not None:
        with atomic_file(out, overwrite=overwrite) as path:
            path.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return figures


def describe_machine(host: Machine) -> list[str]:
    """What bounds it, and what is missing."""
    kernels = f"kernels {host.kernels}" if host.kernels else "no compiled kernels"
    lines = [f"machine: {host.processor}, {kernels}, up to {host.threads} thread{'s' if host.threads > 1 else ''}"]
    if host.kernels:
        peaks = ", ".join(f"{precision} {_figure(rate / 1e9)} G" for precision, rate in host.peak.items())
        lines.append(f"peak of one thread, multiply-adds per second: {peaks}")
    else:
        lines.append(f"PyTorch alone is timed: {why_missing()}")
    alone = "" if peer_missing() else f"; {PEER} draws one stream at a time"
    return [*lines, f"rates are of all streams together{alone}"]


def describe_subject(subject: Subject, bandwidth: float | None) -> list[str]:
    """What is timed, the bound, and the head of its table."""
    net, step = subject.net, subject.step
    sizes = (
        f"{net.layers} layers, residual {net.residual_channels}, skip {net.skip_channels}, {net.num_classes} classes"
    )
    lines = ["", f"{subject.name}: {sizes}; {subject.multiply_adds / 1e6:.2f} M multiply-adds per {step}"]
    weights = f"{_figure(subject.weight_bytes / 1e6)} MB of float32 weights"
    if bandwidth is not None:
        bound = f"once per {step}: {_figure(bandwidth / subject.weight_bytes)} {step}s/s"
        lines.append(f"one thread reads {weights} at {_figure(bandwidth / 1e9)} GB/s, {bound} (the bound)")
    return [*lines, _aligned((*HEADER[:4], f"{step}s/s", *HEADER[4:]))]


def row_of(speed: Speed) -> str:
    """A line of the table; a note instead of figures where there are none."""
    first = (str(speed.streams), str(speed.threads), speed.way, speed.precision)
    if speed.rate is None:
        return f"{_aligned(first)}  {speed.note}"
    shares = ("" if share is None else f"{share:.0%}" for share in (speed.of_peak, speed.of_bandwidth))
    figures = ("" if figure is None else _figure(figure) for figure in (speed.rate, speed.real_time, speed.of_ring))
    return _aligned((*first, *figures, *shares))


def _figure(value: float) -> str:
    """A number above 0 with three digits that count, without an exponent."""
    rounded = float(f"{value:.3g}")
    return f"{rounded:,.{max(0, 2 - math.floor(math.log10(rounded)))}f}"


def _aligned(cells: Iterable[str]) -> str:
    """Words to the left, figures to the right."""
    texts = zip(cells, WIDTHS, strict=False)
    return "".join(
        f"  {cell:<{width - 2}}" if column in (2, 3) else f"{cell:>{width}}"
        for column, (cell, width) in enumerate(texts)
    ).rstrip()


def _tell_all(lines: Iterable[str], tell: Callable[[str], object]) -> None:
    for line in lines:
        tell(line)
