"""The picture of a run: what metrics.jsonl says, as a PNG."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from vqaudio.atomic import atomic_file
from vqaudio.training.metrics_file import read_metrics

PANELS: tuple[tuple[str, tuple[str, ...]], ...] = (  # title, figures; one that ends with a slash stands for all below
    ("bits per sample", ("bits_per_sample",)),
    ("bits per dimension", ("bits_per_dim",)),
    ("bits per code", ("bits_per_code", "unigram_bits")),
    ("squared error of the spectrum", ("spectrum_error",)),
    ("perplexity of the codes", ("perplexity",)),
    ("share of codes in use", ("usage",)),
    ("gap with exchanged codes", ("conditioning_gap", "conditioning_gap_mean")),
    ("gap with exchanged speakers", ("speaker_gap",)),
    ("norms of vectors", ("encoder_norm", "code_norm")),
    ("norm of the gradient", ("gradient_norm", "gradient_norm/")),
    ("audio seconds per second", ("audio_seconds_per_second",)),
    ("share of time waiting for data", ("waiting",)),
)


def plot_curves(metrics: str | Path, png: str | Path) -> None:
    """Draws training and validation figures over steps; without matplotlib (the extra `train`) it says so instead."""
    try:
        import matplotlib
    except ImportError:
        print(f"{png} was not drawn: that needs matplotlib (pip install 'vqaudio[train]')", file=sys.stderr)
        return
    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    rows = read_metrics(metrics)
    panels = [(title, found) for title, names in PANELS if (found := _present(rows, names))]
    if not panels:
        drawn = ", ".join(name for _, names in PANELS for name in names)
        raise ValueError(f"{metrics} holds none of the figures that are drawn: {drawn}")
    columns = min(3, len(panels))
    size = (4.3 * columns, 3.25 * -(-len(panels) // columns))
    figure, axes = plt.subplots(-(-len(panels) // columns), columns, figsize=size, layout="constrained", squeeze=False)
    for (title, names), ax in zip(panels, axes.flat, strict=False):
        for number, name in enumerate(names):
            alone = len(names) == 1
            label = "" if alone else name.removeprefix("gradient_norm/") + ", "
            colour = f"C{number}"
            for kind, word, style in (
                ("train", "training", {"color": "0.7" if alone else colour, "lw": 0.8}),
                ("valid", "validation", {"color": colour, "marker": ".", "lw": 1.5}),
            ):
                points = [(row["step"], row[name]) for row in rows if row["kind"] == kind and name in row]
                if points:
                    ax.plot(*zip(*points, strict=True), label=label + word, **style)
        ax.set_title(title, fontsize=10)
        ax.set_xlabel("step", fontsize=9)
        ax.grid(alpha=0.3)
        ax.legend(fontsize=8)
    for ax in axes.flat[len(panels) :]:
        ax.set_axis_off()
    with atomic_file(png, overwrite=True) as path:
        figure.savefig(path, dpi=90)
    plt.close(figure)


def _present(rows: list[dict[str, Any]], names: tuple[str, ...]) -> list[str]:
    """The figures of a panel that the rows have."""
    known = dict.fromkeys(name for row in rows for name in row)
    return [name for name in known if name in names or name.startswith(tuple(n for n in names if n.endswith("/")))]
