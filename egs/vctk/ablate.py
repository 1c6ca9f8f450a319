"""Ablation study: runs of equal length that differ in one option, and a table of their metrics.

    python egs/vctk/ablate.py --jobs 2                  train all unfinished runs, then print the table
    python egs/vctk/ablate.py --only baseline --seeds 2 3
    python egs/vctk/ablate.py --table                   print the table without training

Needs the manifests of conf/ablation.yaml (vqaudio prepare vctk .../vctk_mini --out data/vctk_mini; likewise
libri3 and so762). Runs are written to exp/ablation/, and their metrics to egs/vctk/ablation.json, which also marks runs
as finished.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch

from vqaudio.atomic import atomic_file
from vqaudio.checkpoint import load_model
from vqaudio.data.manifest import Utterance, read_manifest
from vqaudio.metrics.speaker_probe import speaker_probe_metrics
from vqaudio.training.metrics_file import read_metrics

ROOT = Path(__file__).parent.parent.parent
CONF = ROOT / "egs/vctk/conf/ablation.yaml"
OUT = ROOT / "exp/ablation"
RESULTS = ROOT / "egs/vctk/ablation.json"  # {variant: {seed: metrics}}

VARIANTS: dict[str, tuple[str, ...]] = {  # name -> flags that differ from conf/ablation.yaml
    "baseline": (),
    "no commitment warm-up": ("--model.quantizer.commitment-warmup-steps", "0"),
    "no normaliser": ("--model.normalizer", "none"),
    "no normaliser, no warm-up": ("--model.normalizer", "none", "--model.quantizer.commitment-warmup-steps", "0"),
    "affine": ("--model.normalizer", "affine"),
    "affine, no warm-up": ("--model.normalizer", "affine", "--model.quantizer.commitment-warmup-steps", "0"),
    "batch": ("--model.normalizer", "batch"),
    "no restarts": ("--model.quantizer.restart-threshold", "0"),
    "codebook initialised at random": ("--model.quantizer.kmeans-iterations", "0"),
    "gradient codebook": ("--model.quantizer.codebook_update", "gradient"),
    "time-jitter 0.12": ("--model.time_jitter", "0.12"),
    "unit": ("--model.normalizer", "unit"),
    "unit-norm codes": ("--model.quantizer.unit-norm",),
    "input noise 0.3": ("--model.decoder.input-noise", "0.3"),
    "input dropout 0.3": ("--model.decoder.input-dropout", "0.3"),
    "target shift 128": ("--crops.target-shift", "128"),
    "receptive field 61": ("--model.decoder.layers_per_stack", "4"),
    "receptive field 1087": ("--model.decoder.layers_per_stack", "10"),
}
TWICE = (  # variants that are run with a second seed
    "baseline",
    "no commitment warm-up",
    "no normaliser",
    "no normaliser, no warm-up",
    "affine",
    "affine, no warm-up",
    "batch",
    "no restarts",
    "codebook initialised at random",
    "gradient codebook",
)


LOCK = threading.Lock()


class Run(NamedTuple):
    """One training run."""

    variant: str
    seed: int

    @property
    def folder(self) -> Path:
        return OUT / f"{self.variant.replace(', ', '+').replace(' ', '-')}-{self.seed}"


def results() -> dict[str, dict[str, dict[str, Any]]]:
    """{variant: {seed: metrics}} of the finished runs."""
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def train(run: Run) -> None:
    """Train a model, unless it is finished, and save its metrics; its output is written to log.txt."""
    if str(run.seed) in results().get(run.variant, {}):
        return
    run.folder.mkdir(parents=True, exist_ok=True)
    seeds = ["--fit.seed", str(run.seed), "--crops.seed", str(run.seed)]
    command = [sys.executable, str(ROOT / "recipes/train.py"), str(CONF), "--out", str(run.folder), *seeds]
    with (run.folder / "log.txt").open("w") as log:
        code = subprocess.run([*command, *VARIANTS[run.variant]], cwd=ROOT, stdout=log, stderr=log).returncode
    log_lines = (run.folder / "log.txt").read_text().splitlines()
    diverged = code == 1 and "the run diverged" in "".join(log_lines[-1:])  # also a result
    if code and not diverged:
        raise SystemExit(f"{run.variant}, seed {run.seed}: the run failed, see {run.folder}/log.txt")
    metrics = {"verdict": "diverged"} if diverged else run_metrics(run.folder)
    with LOCK, atomic_file(RESULTS, overwrite=True) as path:
        kept = results()
        kept.setdefault(run.variant, {})[str(run.seed)] = metrics
        path.write_text(json.dumps(kept, indent=1) + "\n")
    print(f"{run.variant}, seed {run.seed}: {metrics['verdict']}", flush=True)


def run_metrics(folder: Path) -> dict[str, Any]:
    """Metrics of the last evaluation, and the accuracy of a speaker probe on the codes."""
    last = next(row for row in reversed(read_metrics(folder / "metrics.jsonl")) if row["kind"] == "valid")
    model = load_model(folder)
    utterances = [u for corpus in ("vctk_mini", "libri3", "so762") for u in few_per_speaker(corpus)]
    codes = [model.tokenize(u.path).codes.numpy() for u in utterances]
    probes = speaker_probe_metrics(
        codes, [u.speaker for u in utterances], codebook_size=model.codebook_size, frame_rate=model.frame_rate
    )
    probe = probes["linear_accuracy"]
    return {
        **last,
        "probe": probe.value,
        "probe_low": probe.low,
        "probe_high": probe.high,
        "probe_recurrent": probes["recurrent_accuracy"].value,
        "chance": probes["chance"].value,
    }


def few_per_speaker(corpus: str) -> Iterator[Utterance]:
    """At most ten utterances of each speaker, for the speaker probe."""
    taken: dict[str, int] = {}
    for part in ("train", "valid", "test"):
        for utterance in read_manifest(ROOT / f"data/{corpus}/{part}.jsonl"):
            taken[utterance.speaker] = taken.get(utterance.speaker, 0) + 1
            if taken[utterance.speaker] <= 10:
                yield utterance


COLUMNS = {  # heading -> metric, digits
    "bits": ("bits_per_sample", 3),
    "conditioning gap": ("conditioning_gap", 3),
    "speaker gap": ("speaker_gap", 3),
    "perplexity": ("perplexity", 0),
    "usage": ("usage", 3),
    "speaker probe": ("probe", 3),
}


def table() -> str:
    """Markdown table: mean over seeds, with minimum and maximum if there are several."""
    lines = ["| changed | seeds | " + " | ".join(COLUMNS) + " | verdict |", "|---|---|" + "---|" * (len(COLUMNS) + 1)]
    kept = results()
    for variant in filter(kept.__contains__, VARIANTS):
        rows = list(kept[variant].values())
        cells = [shown([row.get(name, math.nan) for row in rows], digits) for name, digits in COLUMNS.values()]
        verdicts = ", ".join(sorted({row["verdict"] for row in rows}))
        lines.append(f"| {' | '.join([variant, str(len(rows)), *cells, verdicts])} |")
    return "\n".join(lines) + "\n"


def shown(values: list[float], digits: int) -> str:
    if not values or not all(map(math.isfinite, values)):
        return "-"
    spread = f" ({min(values):.{digits}f} to {max(values):.{digits}f})" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1, help="number of parallel runs, with one CPU thread each")
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1], help="only some variants use the second and later ones"
    )
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="variants to run")
    parser.add_argument("--table", action="store_true", help="print the table without training")
    chosen = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # two runs with one thread are faster than one run with two
    torch.set_num_threads(1)
    runs = [Run(v, s) for s in chosen.seeds for v in chosen.only if s == chosen.seeds[0] or v in TWICE]
    if not chosen.table:
        with ThreadPoolExecutor(chosen.jobs) as pool:
            for _ in pool.map(train, runs):
                pass
    print(table())


if __name__ == "__main__":
    main()
