"""Which tokenizer for which use: codes of several rates, codebook sizes and objectives, trained and judged alike.

    python egs/vctk/rates.py --train data/vctk/train.jsonl --valid data/vctk/valid.jsonl --words data/vctk/test.jsonl \
        --prior-speech data/vctk/train.jsonl --phones-data data/timit8 --phones PATH/TO/timit8/phn
    python egs/vctk/rates.py --table        print the table and draw the picture without training

Every run has 800 steps of 16 one-second crops, and a small prior of 300 steps over its codes. Runs are written to
exp/rates/ and their metrics to egs/vctk/rates.json, which also marks them as finished.

Objectives: `units` predicts clusters of MFCC and cepstra without level and speaker (conf/units50.yaml), `spectrum` the
log-mel spectrum (conf/cpu/codes.yaml).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch

from vqaudio.atomic import atomic_file
from vqaudio.checkpoint import load_model
from vqaudio.data.manifest import read_manifest
from vqaudio.metrics.asr import WhisperASR
from vqaudio.metrics.wer import wer_metrics

ROOT = Path(__file__).parent.parent.parent
OUT = ROOT / "exp/rates"
RESULTS = ROOT / "egs/vctk/rates.json"  # {variant: {seed: {metric: [value, low, high]}}}
PICTURE = ROOT / "docs/images/rates.png"
STRIDES = {25: 4, 50: 2, 100: 1}  # codes per second -> stride of the encoder, over frames of 10 ms
SCHEDULE = ("--fit.steps", "800", "--fit.lr", "1e-3", "--fit.lr_warmup_steps", "200", "--fit.lr_decay_fraction", "0.6")
DECODER = ("--model.context.dilations", "1", "2", "4", "--model.spectrum.n_mels", "80")  # for decoding with Griffin-Lim
TASKS = ("phones", "abx", "speaker_probe", "robustness", "bitrate")


class Variant(NamedTuple):
    """One tokenizer of the table."""

    objective: str  # units or spectrum
    rate: int  # codes per second
    quantizer: tuple[str, ...]  # flags
    shown: str  # the codebook in the table
    more: tuple[str, ...] = ()  # other flags
    note: str = ""

    @property
    def name(self) -> str:
        return f"{self.objective} {self.rate} Hz, {self.shown}{self.note}"

    @property
    def order(self) -> tuple[str, int, int, str]:
        """In the table: by objective, rate and size of the codebook."""
        size = math.prod(int(flag) for flag in self.quantizer if flag.isdigit())
        return self.objective, self.rate, size, self.name

    @property
    def flags(self) -> list[str]:
        conf = ROOT / "egs/vctk/conf" / {"units": "units50.yaml", "spectrum": "cpu/codes.yaml"}[self.objective]
        strides = ("--model.encoder.strides", str(STRIDES[self.rate]))
        return [str(conf), *strides, *self.quantizer, *SCHEDULE, *DECODER, *self.more]


LEVEL_FREE = ("--model.encoder.frontend.kind", "log_mel_cmn", "--crops.past", "38400", "--crops.future", "800")
FSQ = ("--model.quantizer.kind", "fsq", "--model.quantizer.levels", "8", "8", "8")
VARIANTS = {
    variant.name: variant
    for variant in (
        *(
            Variant(objective, rate, ("--model.quantizer.codebook_size", str(k)), f"K = {k:,}")
            for k in (512, 128, 2048)
            for rate in STRIDES
            for objective in ("units", "spectrum")
        ),
        *(Variant(objective, 50, FSQ, "FSQ 8 x 8 x 8") for objective in ("units", "spectrum")),
        Variant("spectrum", 100, ("--model.quantizer.codebook_size", "512"), "K = 512", LEVEL_FREE, ", level-free"),
    )
}


def results() -> dict[str, dict[str, dict[str, Any]]]:
    """{variant: {seed: metrics}} of the finished runs."""
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def run(variant: Variant, seed: int, args: argparse.Namespace) -> None:
    """Train a tokenizer and a prior over its codes and judge them, unless that is done already."""
    if str(seed) in results().get(variant.name, {}):
        return
    folder = OUT / f"{variant.name.replace(', ', '-').replace(' ', '')}-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    seeds = ["--fit.seed", str(seed), "--crops.seed", str(seed)]
    model, prior, report = folder / "model", folder / "prior", folder / "report"
    with (folder / "log.txt").open("w") as log:

        def call(*command: object) -> None:
            subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, stdout=log, stderr=log, check=True)

        speech = ["--train", *args.train, "--valid", *args.valid]
        call("recipes/train.py", *variant.flags, *speech, "--out", model, *seeds)
        for name, manifests in (("train", args.prior_speech), ("valid", args.valid)):
            call(
                "-m",
                "vqaudio",
                "tokenize",
                *manifests,
                "--model",
                model,
                "--out",
                folder / f"{name}.jsonl",
                "--overwrite",
            )
        tokens = ["--tokens", folder / "train.jsonl", "--valid_tokens", folder / "valid.jsonl"]
        seconds = ["--crops.length", 4 * variant.rate, "--fit.steps", 300, "--fit.evaluate_every", 300]
        conf = ROOT / "egs/vctk/conf/cpu/prior.yaml"
        call("recipes/train_prior.py", conf, "--model", model, *tokens, *seconds, "--no-conditional", "--out", prior)
        judged = ["--data", args.phones_data, "--phones", *args.phones, "--prior", prior, "--only", *TASKS]
        call("-m", "vqaudio", "evaluate", "--model", model, *judged, "--no-html", "--out", report, "--overwrite")
    metrics = {"wer": word_error_rate(model, args.words), **reported(report / "report.json")}
    with atomic_file(RESULTS, overwrite=True) as path:
        kept = results()
        kept.setdefault(variant.name, {})[str(seed)] = metrics
        path.write_text(json.dumps(kept, indent=1) + "\n")
    print(f"{variant.name}, seed {seed}: phones {metrics['phones/accuracy'][0]:.3f}", flush=True)


def word_error_rate(folder: Path, manifests: list[Path]) -> list[float]:
    """Of the speech that Griffin-Lim makes of the spectrum that the codes predict: value and interval."""
    model, asr = load_model(folder), WhisperASR()
    spoken = [u for manifest in manifests for u in read_manifest(manifest) if u.text and u.speaker in model.speakers]
    wavs = [model.decode(model.tokenize(u.path), speaker=u.speaker, vocoder="griffin-lim") for u in spoken]
    texts = [asr.transcribe(wav.numpy(), model.sample_rate) for wav in wavs]
    wer = wer_metrics([str(u.text) for u in spoken], texts)["wer"]
    return [wer.value, wer.low, wer.high]


def reported(path: Path) -> dict[str, list[float]]:
    """Those metrics of a report that are shown: {task/metric: value and interval}, of k-means with its name before."""
    found, shown = {}, {name for name, _ in COLUMNS.values()}
    for metric in json.loads(path.read_text())["metrics"]:
        name = f"{metric['task']}/{metric['metric']}"
        system = "" if metric["system"] in ("tokens", "prior") else f"{metric['system']}: "
        if name in shown and metric["system"] != "random codes":
            found[system + name] = [metric["value"], metric["low"], metric["high"]]
    return found


COLUMNS = {  # heading -> metric, format
    "bits/s: nominal": ("bitrate/nominal", "integer"),
    "repeats merged": ("bitrate/merged", "integer"),
    "small prior": ("bitrate/prior", "integer"),
    "phones": ("phones/accuracy", "percent"),
    "PNMI": ("phones/pnmi", "percent"),
    "ABX by code": ("abx/abx_across", "percent"),
    "ABX by vector": ("abx/abx_across_vectors", "percent"),
    "speaker probe": ("speaker_probe/linear_accuracy", "percent"),
    "edits at -6 dB": ("robustness/edit_rate_gain_minus6", "decimals"),
    "noise 20 dB": ("robustness/edit_rate_noise_20", "decimals"),
    "WER": ("wer", "percent"),
}
COLOURS, MARKERS = {"units": "C0", "spectrum": "C1"}, {25: "v", 50: "o", 100: "^"}  # of the picture
LABELS = {25: (0, -12, "center"), 50: (-6, -3, "right"), 100: (6, -3, "left")}  # where they stand, in points
FORMATS = {"integer": "{:.0f}", "percent": "{:.1%}", "decimals": "{:.2f}"}


def value(metrics: list[dict[str, list[float]]], name: str) -> float | None:
    """Mean over seeds; None where a run lacks the metric."""
    found = [each[name][0] for each in metrics if name in each]
    return sum(found) / len(found) if found and len(found) == len(metrics) else None


def table() -> str:
    """Markdown: a row per tokenizer, means over its seeds, and k-means of MFCC at the same rate and size."""
    lines = [f"| codes | seeds | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 2) + "|"]
    kept = results()
    for name in sorted(kept, key=lambda name: VARIANTS[name].order):
        metrics = list(kept[name].values())
        for system in ("", "k-means MFCC: ") if VARIANTS[name].objective == "units" else ("",):
            cells = [value(metrics, system + metric) for metric, _ in COLUMNS.values()]
            if any(cell is not None for cell in cells):
                shown = [
                    "" if cell is None else FORMATS[kind].format(cell)
                    for cell, (_, kind) in zip(cells, COLUMNS.values(), strict=True)
                ]
                title = "k-means of MFCC, the same" if system else name
                lines.append(f"| {title} | {len(metrics)} | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


def draw(png: Path) -> None:
    """Phones and words over the bits per second under the small prior."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    kept = results()
    groups = {
        (objective, rate): [v for name in kept if (v := VARIANTS[name]).objective == objective and v.rate == rate]
        for objective in COLOURS
        for rate in MARKERS
    }

    def mean(variant: Variant, metric: str) -> float:
        return statistics.mean(metrics[metric][0] for metrics in kept[variant.name].values())

    panels = (("phones/accuracy", "frame-level phone accuracy, %"), ("wer", "word error rate, %"))
    figure, axes = plt.subplots(1, len(panels), figsize=(10, 4.2), layout="constrained")
    for ax, (metric, label) in zip(axes, panels, strict=True):
        for (objective, rate), variants in groups.items():
            bits, percent = ([mean(v, "bitrate/prior") for v in variants], [100 * mean(v, metric) for v in variants])
            style = {"c": COLOURS[objective], "marker": MARKERS[rate], "label": f"{objective}, {rate} Hz"}
            ax.scatter(bits, percent, **style)
            for *at, v in zip(bits, percent, variants, strict=True):
                text = v.shown.removeprefix("K = ").replace("FSQ 8 x 8 x 8", "FSQ") + v.note
                *place, side = LABELS[rate]
                ax.annotate(text, at, place, textcoords="offset points", ha=side, fontsize=7, color="0.35")
        ax.set(xlabel="bits per second under a small prior", ylabel=label)
        ax.margins(x=0.12, y=0.08)
        ax.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    with atomic_file(png, overwrite=True) as path:
        figure.savefig(path, dpi=110, format="png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    speech = {"type": Path, "nargs": "+", "default": []}
    parser.add_argument("--train", help="manifests of training speech", **speech)
    parser.add_argument("--valid", help="manifests of validation speech", **speech)
    parser.add_argument("--prior-speech", help="manifests of speech on whose codes the priors are trained", **speech)
    parser.add_argument("--words", help="manifests with texts, by training speakers, for the word error rate", **speech)
    parser.add_argument("--phones-data", type=Path, help="folder with test.jsonl, and train.jsonl for k-means")
    parser.add_argument("--phones", help="phones of the former", **speech)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="tokenizers to run")
    parser.add_argument("--table", action="store_true", help="print the table without training")
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # two runs with one thread are faster than one run with two
    torch.set_num_threads(1)
    if not args.table:
        for name in ("train", "valid", "prior_speech", "words", "phones_data", "phones"):
            if not getattr(args, name):
                parser.error(f"--{name.replace('_', '-')} is missing; without training: --table")
        for seed in args.seeds:
            for name in args.only:
                run(VARIANTS[name], seed, args)
    print(table())
    draw(PICTURE)


if __name__ == "__main__":
    main()
