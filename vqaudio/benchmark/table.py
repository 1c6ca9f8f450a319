"""The results of `speed` as text tables and as a dictionary for JSON."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path

import torch

from vqaudio.atomic import check_writable, save_json
from vqaudio.benchmark.rates import wavenet_vocoder_missing
from vqaudio.benchmark.speed import (
    WAVENET_VOCODER,
    BenchmarkModel,
    Machine,
    Plan,
    Speed,
    compare,
    measure_bandwidth,
    measure_griffin_lim,
    measure_istft,
    measure_machine,
)
from vqaudio.kernels.library import why_missing

HEADER = ("streams", "threads", "implementation", "precision", "RTF", "x ring buffers", "of peak", "of bandwidth")
WIDTHS = (7, 9, 17, 11, 12, 8, 16, 9, 14)


def bench(
    plan: Plan,
    threads: int | None,
    print_line: Callable[[str], object],
    *,
    out: Path | None = None,
    overwrite: bool = False,
) -> dict[str, object]:
    """Times all of `plan`, printing line by line -> all results, which are also written to `out` as JSON.

    `threads`: maximum number (None: that of PyTorch). Raises ValueError for less than one and OSError for an `out` that
    cannot be written, both before anything is timed.
    """
    if out is not None:
        check_writable(out, overwrite=overwrite)
    host = measure_machine(torch.get_num_threads() if threads is None else threads, plan.seconds)
    _print_all(describe_machine(host), print_line)
    others = {"griffin-lim": measure_griffin_lim(plan), "istft": measure_istft(plan)}
    for name, rtf in others.items():
        print_line(f"the vocoder {name}, one utterance, one thread: RTF {_number(rtf)}")
    models = []
    for model in plan.models:
        bandwidth = measure_bandwidth(model, plan.seconds)
        _print_all(describe_model(model, bandwidth), print_line)
        speeds = []
        for speed in compare(model, host, bandwidth, plan):
            print_line(row_of(speed))
            speeds.append(speed._asdict())
        facts = {"multiply_adds": model.multiply_adds, "weight_bytes": model.weight_bytes, "bandwidth": bandwidth}
        models.append({**asdict(model), **facts, "speeds": speeds})
    vocoders = {name: {"real_time_factor": rtf} for name, rtf in others.items()}
    results = {"machine": host._asdict(), "vocoders": vocoders, "models": models}
    if out is not None:
        save_json(out, results, overwrite=overwrite)
    return results


def describe_machine(host: Machine) -> list[str]:
    """Lines on the machine, its peak and missing packages."""
    kernels = f"kernels {host.kernels}" if host.kernels else "no compiled kernels"
    lines = [f"machine: {host.processor}, {kernels}, up to {host.threads} thread{'s' if host.threads > 1 else ''}"]
    if host.kernels:
        peaks = ", ".join(f"{precision} {_number(rate / 1e9)} G" for precision, rate in host.peak.items())
        lines.append(f"peak of one thread, multiply-adds per second: {peaks}")
    else:
        lines.append(f"only PyTorch is timed: {why_missing()}")
    alone = "" if wavenet_vocoder_missing() else f"; {WAVENET_VOCODER} supports a single stream"
    return [*lines, f"rates are of all streams together{alone}"]


def describe_model(model: BenchmarkModel, bandwidth: float | None) -> list[str]:
    """Lines on the model, its bandwidth bound, and the header of its table."""
    net, step = model.net, model.step
    sizes = (
        f"{net.layers} layers, residual {net.residual_channels}, skip {net.skip_channels}, {net.num_classes} classes"
    )
    lines = ["", f"{model.name}: {sizes}; {model.multiply_adds / 1e6:.2f} M multiply-adds per {step}"]
    weights = f"{_number(model.weight_bytes / 1e6)} MB of float32 weights"
    if bandwidth is not None:
        bound = f"once per {step}: {_number(bandwidth / model.weight_bytes)} {step}s/s"
        lines.append(f"one thread reads {weights} at {_number(bandwidth / 1e9)} GB/s, {bound} (the bound)")
    return [*lines, _aligned((*HEADER[:4], f"{step}s/s", *HEADER[4:]))]


def row_of(speed: Speed) -> str:
    """A row of the table; with a note where there is no rate."""
    first = (str(speed.streams), str(speed.threads), speed.implementation, speed.precision)
    if speed.rate is None:
        return f"{_aligned(first)}  {speed.note}"
    fractions = ("" if own is None else f"{own:.0%}" for own in (speed.of_peak, speed.of_bandwidth))
    numbers = ("" if own is None else _number(own) for own in (speed.rate, speed.real_time_factor, speed.of_ring))
    return _aligned((*first, *numbers, *fractions))


def _number(value: float) -> str:
    """A number above 0 with three significant digits, without an exponent."""
    rounded = float(f"{value:.3g}")
    return f"{rounded:,.{max(0, 2 - math.floor(math.log10(rounded)))}f}"


def _aligned(cells: Iterable[str]) -> str:
    """Words aligned left, numbers aligned right."""
    texts = zip(cells, WIDTHS, strict=False)
    return "".join(
        f"  {cell:<{width - 2}}" if column in (2, 3) else f"{cell:>{width}}"
        for column, (cell, width) in enumerate(texts)
    ).rstrip()


def _print_all(lines: Iterable[str], print_line: Callable[[str], object]) -> None:
    for line in lines:
        print_line(line)
