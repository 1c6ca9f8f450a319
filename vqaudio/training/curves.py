"""Training curves: plots metrics.jsonl of a run as a PNG file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from vqaudio.atomic import atomic_file
from vqaudio.training.metrics_file import read_metrics

# title, metrics; a trailing slash selects all metrics with that prefix
PANELS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("bits per sample", ("bits_per_sample",)),
    ("bits per dimension", ("bits_per_dim",)),
    ("bits per code", ("bits_per_code", "unigram_bits")),
    ("log-mel squared error", ("spectrum_error", "smoothed_spectrum_error")),
    ("unit loss", ("unit_loss",)),
    ("bits per cluster", ("cluster_bits",)),
    ("cepstrum squared error", ("cepstrum_error",)),
    ("voicing cross-entropy", ("voicing_error",)),
    ("squared error of log2 F0", ("pitch_error",)),
    ("squared error of conversions", ("conversion_error",)),
    ("multi-resolution STFT loss", ("resynthesis_loss", "spectral_convergence", "log_stft_error")),
    ("codebook perplexity", ("perplexity",)),
    ("codebook usage", ("usage",)),
    ("conditioning gap", ("conditioning_gap", "conditioning_gap_mean")),
    ("speaker gap", ("speaker_gap",)),
    ("norms of encoder outputs and codes", ("encoder_norm", "code_norm")),
    ("gradient norm", ("gradient_norm", "gradient_norm/")),
    ("real-time factor of training", ("rtf",)),
    ("fraction of time waiting for data", ("data_wait_fraction",)),
)


def plot_curves(metrics: str | Path, png: str | Path) -> None:
    """Plot training and validation metrics over steps.

    Prints a warning and returns if matplotlib (extra `train`) is not installed. Raises ValueError if the file contains
    none of the metrics in PANELS.
    """
    try:
        import matplotlib
    except ImportError:
        print(f"{png} was not written: plotting needs matplotlib (pip install 'vqaudio[train]')", file=sys.stderr)
        return
    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    rows = read_metrics(metrics)
    panels = [(title, found) for title, names in PANELS if (found := _present(rows, names))]
    if not panels:
        plotted = ", ".join(name for _, names in PANELS for name in names)
        raise ValueError(f"{metrics} contains none of the metrics that are plotted: {plotted}")
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
    """The metrics of a panel that occur in the rows."""
    known = dict.fromkeys(name for row in rows for name in row)
    return [name for name in known if name in names or name.startswith(tuple(n for n in names if n.endswith("/")))]
