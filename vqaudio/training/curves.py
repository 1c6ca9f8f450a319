"""The picture of a run: what metrics.jsonl says, as a PNG."""

from __future__ import annotations

import sys
from pathlib import Path

from vqaudio.data.atomic import atomic_file
from vqaudio.training.metrics import read_metrics

PANELS = (
    ("bits_per_sample", "bits per sample"),
    ("perplexity", "perplexity of the codes"),
    ("usage", "share of codes in use"),
    ("gap_codes", "gap with exchanged codes, bits per sample"),
    ("gap_speakers", "gap with exchanged speakers, bits per sample"),
    ("gradient_norm", "norm of the gradient"),
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
    panels = [(name, title) for name, title in PANELS if any(name in row for row in rows)]
    if not panels:
        raise ValueError(f"{metrics} holds none of the figures that are drawn: {', '.join(name for name, _ in PANELS)}")
    columns = min(3, len(panels))
    size = (4.3 * columns, 3.25 * -(-len(panels) // columns))
    figure, axes = plt.subplots(-(-len(panels) // columns), columns, figsize=size, layout="constrained", squeeze=False)
    for (name, title), ax in zip(panels, axes.flat, strict=False):
        for kind, style in (
            ("train", {"color": "0.7", "lw": 0.8}),
            ("valid", {"color": "C0", "marker": ".", "lw": 1.5}),
        ):
            points = [(row["step"], row[name]) for row in rows if row["kind"] == kind and name in row]
            if points:
                ax.plot(*zip(*points, strict=True), label="validation" if kind == "valid" else "training", **style)
        ax.set_title(title, fontsize=10)
        ax.set_xlabel("step", fontsize=9)
        ax.grid(alpha=0.3)
    axes.flat[0].legend(fontsize=9)
    with atomic_file(png, overwrite=True) as path:
        figure.savefig(path, dpi=90)
    plt.close(figure)
