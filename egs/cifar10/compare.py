"""Compares VQ-VAE, VAE, VIMCO and Gumbel-softmax with the same number of steps, in bits per dimension of test images.

    python egs/cifar10/compare.py --jobs 2                         all models, three seeds; skips finished runs
    python egs/cifar10/compare.py --steps 12000 --kinds vqvae vae  a longer budget
    python egs/cifar10/compare.py --table                          print the table without training

Needs the images of conf/cpu/vqvae.yaml: vqaudio prepare cifar10 ARCHIVE --out data/cifar10. Runs are
written to exp/cifar10/compare/, and their metrics to egs/cifar10/comparison.json, which also marks runs as finished.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch

from vqaudio.atomic import atomic_file
from vqaudio.checkpoint import load_model
from vqaudio.images.data import centre_batches, open_images
from vqaudio.images.metrics import ImageModel, image_metrics

ROOT = Path(__file__).parent.parent.parent
CONF = ROOT / "egs/cifar10/conf/cpu/vqvae.yaml"
OUT = ROOT / "exp/cifar10/compare"
RESULTS = ROOT / "egs/cifar10/comparison.json"  # {steps: {kind: {seed: metrics}}}
PICTURE = ROOT / "egs/cifar10/pictures/comparison.png"
KINDS = {"vae": "VAE", "vqvae": "VQ-VAE", "gumbel": "Gumbel-softmax", "vimco": "VIMCO, 50 samples"}
PAPER = {"vae": "4.51", "vqvae": "4.67", "vimco": "5.14"}
LOCK = threading.Lock()


class Run(NamedTuple):
    """One training run."""

    kind: str
    seed: int
    steps: int

    @property
    def folder(self) -> Path:
        return OUT / f"{self.kind}-{self.steps}-{self.seed}"


def results() -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """Metrics of the finished runs."""
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def train(run: Run) -> None:
    """Train a model, unless it is finished, and save its metrics on the test images."""
    if str(run.seed) in results().get(str(run.steps), {}).get(run.kind, {}):
        return
    run.folder.mkdir(parents=True, exist_ok=True)
    flags = ["--kind", run.kind, "--out", str(run.folder), "--fit.steps", str(run.steps)]
    flags += ["--fit.seed", str(run.seed), "--crops.seed", str(run.seed)]
    with (run.folder / "log.txt").open("w") as log:
        command = [sys.executable, str(ROOT / "recipes/train_image.py"), str(CONF), *flags]
        if subprocess.run(command, cwd=ROOT, stdout=log, stderr=log).returncode:
            raise SystemExit(f"{run.kind}, seed {run.seed}: the run failed, see {run.folder}/log.txt")
    model = load_model(run.folder, kind=torch.nn.Module)
    assert isinstance(model, ImageModel)
    images = open_images(ROOT / "data/cifar10/test")
    with LOCK:  # sampling uses the global random number generator
        metrics = image_metrics(model, centre_batches(images, model.cfg.size, 32))
    with LOCK, atomic_file(RESULTS, overwrite=True) as path:
        kept = results()
        kept.setdefault(str(run.steps), {}).setdefault(run.kind, {})[str(run.seed)] = metrics
        path.write_text(json.dumps(kept, indent=1) + "\n")
    print(f"{run.kind}, {run.steps} steps, seed {run.seed}: {metrics['bits_per_dim']:.3f} bits per dim", flush=True)


def table() -> str:
    """Markdown table: mean over seeds, with minimum and maximum if there are several."""
    lines = ["| steps | model | seeds | bits per dim | pixels | latents | conditioning gap | paper |", "|" + "---|" * 8]
    for steps, kinds in sorted(results().items(), key=lambda item: int(item[0])):
        for kind in filter(kinds.__contains__, KINDS):
            rows = list(kinds[kind].values())
            cells = [_shown([row[name] for row in rows]) for name in ("bits_per_dim", "bits_of_pixels")]
            cells += [_shown([row[name] for row in rows]) for name in ("bits_of_latents", "conditioning_gap")]
            lines.append(f"| {' | '.join([steps, KINDS[kind], str(len(rows)), *cells, PAPER.get(kind, '')])} |")
    return "\n".join(lines) + "\n"


def _shown(values: list[float]) -> str:
    spread = f" ({min(values):.3f} to {max(values):.3f})" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{spread}"


def plot(png: Path) -> None:
    """Bar plot: bits of pixels and latents, range over seeds, and the values of the paper as dotted lines."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    found = [
        (f"{KINDS[kind]}\n{steps} steps", kind, list(kinds[kind].values()))
        for steps, kinds in sorted(results().items(), key=lambda item: int(item[0]))
        for kind in filter(kinds.__contains__, KINDS)
    ]
    figure, ax = plt.subplots(figsize=(1.5 * len(found) + 1, 3.6), layout="constrained")
    for i, (_, kind, rows) in enumerate(found):
        pixels, latents = (statistics.mean(row[name] for row in rows) for name in ("bits_of_pixels", "bits_of_latents"))
        ax.bar(i, pixels, color="C0", label="pixels" if i == 0 else None)
        ax.bar(i, latents, bottom=pixels, color="C1", label="latents" if i == 0 else None)
        bits = [row["bits_per_dim"] for row in rows]
        ax.vlines(i, min(bits), max(bits), color="black", lw=4)
        if kind in PAPER:
            ax.hlines(float(PAPER[kind]), i - 0.4, i + 0.4, color="black", ls=":", label="paper" if i == 0 else "_")
    ax.set_xticks(range(len(found)), [name for name, _, _ in found], fontsize=8)
    ax.set(ylabel="bits per dimension", ylim=(0, 9))
    ax.legend(fontsize=8)
    with atomic_file(png, overwrite=True) as path:
        figure.savefig(path, dpi=90)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1, help="number of parallel runs, with one CPU thread each")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=1200, help="number of training steps of each run")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=["vimco", "vqvae", "vae", "gumbel"])
    parser.add_argument("--table", action="store_true", help="print the table without training")
    chosen = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # two runs with one thread are faster than one run with two
    torch.set_num_threads(1)
    if not chosen.table:
        with ThreadPoolExecutor(chosen.jobs) as pool:
            for _ in pool.map(train, [Run(kind, seed, chosen.steps) for kind in chosen.kinds for seed in chosen.seeds]):
                pass
    plot(PICTURE)
    print(table())


if __name__ == "__main__":
    main()
