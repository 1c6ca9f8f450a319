"""Puts what a stage returns into OUT, in the sizes that OUT may have.

    python egs/gpu/results.py speech OUT      the newest model of OUT/work/speech, and the metrics of its runs
    python egs/gpu/results.py images OUT      bits per dimension of the test images, and the metrics of the runs
    python egs/gpu/results.py check OUT       no file above 15 MB, and 60 MB in all, without OUT/work

OUT/work keeps what continues a run (checkpoints, decoded speech, caches of compilers), whatever its size. What a speech
model needs beside front-end, encoder and codebook is stored in half precision, as in the shipped model; those determine
codes and keep all their bits. Models of images, which are larger, stay in OUT/work: their figures are what is returned.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path
from typing import cast

import torch
from torch import nn

from vqaudio.atomic import atomic_file, save_json
from vqaudio.checkpoint import load_model, save_model
from vqaudio.images.codes import CodeMaps
from vqaudio.images.data import centre_batches, open_images
from vqaudio.images.encoding import codes_of
from vqaudio.images.metrics import ImageModel, image_metrics, image_prior_metrics, unigram_probabilities
from vqaudio.images.prior import ImagePrior
from vqaudio.images.vqvae import ImageVQVAE
from vqaudio.training import checkpoint

MEGABYTE = 10**6
MAX_FILE, MAX_TOTAL = 15 * MEGABYTE, 60 * MEGABYTE  # bytes of OUT without OUT/work
SPEECH_RUNS = ("codes", "context", "istft", "wavenet")  # each one initialised from the one before
IMAGE_RUNS = {"vae": "VAE", "vqvae": "VQ-VAE", "vimco": "VIMCO, 50 samples"}
PAPER = {"vae": "4.51", "vqvae": "4.67", "vimco": "5.14"}  # bits per dimension, arXiv 1711.00937
HALF = ("context", "spectrum", "pitch", "acoustic", "istft", "decoder")  # parts of a speech model beside its codes


def newest(run: Path) -> Path | None:
    """The newest checkpoint of a run, which is a model too; None if it has not saved one."""
    found = checkpoint.complete(run / "checkpoints")
    return found[-1] if found else None


def keep_metrics(runs: list[Path], out: Path) -> None:
    """Copies the metrics of runs to OUT/RUN.metrics.jsonl."""
    for run in runs:
        if (run / "metrics.jsonl").exists():
            with atomic_file(out / f"{run.name}.metrics.jsonl", overwrite=True) as path:
                shutil.copyfile(run / "metrics.jsonl", path)


def speech(out: Path) -> None:
    """OUT/speech: the model of the last run that has saved one, in half precision, and the metrics of all runs."""
    work, results = out / "work/speech", out / "speech"
    runs = [work / name for name in SPEECH_RUNS]
    saved = [(run.name, found) for run in runs if (found := newest(run)) is not None]
    results.mkdir(parents=True, exist_ok=True)
    keep_metrics(runs, results)
    if not saved:
        print("no run of speech has saved a model yet", flush=True)
        return
    name, folder = saved[-1]
    model = load_model(folder)
    parts = {name.partition(".")[0] for name in model.state_dict()} - untrained(model)
    save_model(model, results / "model", float16=[part for part in HALF if part in parts])
    shutil.copyfile(folder / "config.yaml", results / "model/config.yaml")
    print(f"{results / 'model'}: the model of the run {name}, after step {int(folder.name)}", flush=True)


def untrained(model: nn.Module) -> set[str]:
    """Parts whose weights are not stored, because they were never trained."""
    return {name.partition(".")[0] for name in getattr(model, "untrained_weights", ())}


def images(out: Path, device: str) -> None:
    """OUT/images: figures.json and figures.md, of the newest model of each run, and the metrics of all runs."""
    work, results = out / "work/images", out / "images"
    results.mkdir(parents=True, exist_ok=True)
    keep_metrics([work / name for name in (*IMAGE_RUNS, "prior")], results)
    test = open_images(work / "data/test")
    figures: dict[str, dict[str, float]] = {}
    for kind in IMAGE_RUNS:
        if (folder := newest(work / kind)) is not None:
            model = cast(ImageModel, load_model(folder, device, kind=nn.Module))
            metrics = image_metrics(model, centre_batches(test, model.cfg.size, 32))
            figures[kind] = {"steps": int(folder.name), **metrics}
    if (folder := newest(work / "prior")) is not None:
        figures["prior"] = {"steps": int(folder.name), **prior_figures(folder, work, device)}
        codes, pixels = figures["prior"]["bits_of_codes"], figures["vqvae"]["bits_of_pixels"]
        figures["prior"]["bits_per_dim"] = codes + pixels
    save_json(results / "figures.json", figures, overwrite=True)
    with atomic_file(results / "figures.md", overwrite=True) as path:
        path.write_text(table(figures), encoding="utf-8")
    print(table(figures), flush=True)


def prior_figures(folder: Path, work: Path, device: str) -> dict[str, float]:
    """Metrics of the prior on the codes of the test images, and bits_of_codes, per dimension of the image."""
    prior, first = load_model(folder, device, kind=ImagePrior), load_model(work / "vqvae", device, kind=ImageVQVAE)
    codes = work / "codes" / first.fingerprint
    maps = {
        part: codes_of(first, open_images(work / "data" / part), codes / f"{part}.safetensors", mirrored=mirrored)
        for part, mirrored in (("train", True), ("test", False))
    }
    found = image_prior_metrics(prior, maps["test"], unigram_probabilities(maps["train"]))
    return {**found, "bits_of_codes": found["bits_per_code"] * codes_per_image(maps["test"]) / first.cfg.num_dims}


def codes_per_image(maps: CodeMaps) -> int:
    return maps.codes[0].numel()


def table(figures: dict[str, dict[str, float]]) -> str:
    """Markdown: bits per dimension of the test images."""
    lines = ["| model | steps | bits per dim | pixels | latents | conditioning gap | paper |", "|" + "---|" * 7]
    for kind in filter(figures.__contains__, IMAGE_RUNS):
        of = figures[kind]
        bits = f"{of['bits_per_dim']:.3f} +- {of['bits_per_dim_error']:.3f}"
        cells = [f"{of[name]:.3f}" for name in ("bits_of_pixels", "bits_of_latents", "conditioning_gap")]
        lines.append(f"| {' | '.join([IMAGE_RUNS[kind], str(of['steps']), bits, *cells, PAPER[kind]])} |")
    if "prior" in figures:
        of = figures["prior"]
        pixels = of["bits_per_dim"] - of["bits_of_codes"]
        cells = [str(of["steps"]), f"{of['bits_per_dim']:.3f}", f"{pixels:.3f}", f"{of['bits_of_codes']:.3f}"]
        lines.append(f"| {' | '.join(['VQ-VAE, codes by the prior', *cells, '', ''])} |")
    return "\n".join(lines) + "\n"


def sizes(out: Path) -> dict[Path, int]:
    """Bytes of all files below OUT, without OUT/work."""
    found: dict[Path, int] = {}
    for folder, names, files in os.walk(out):
        if Path(folder) == out and "work" in names:
            names.remove("work")
        found |= {Path(folder) / name: (Path(folder) / name).lstat().st_size for name in files}
    return found


def check(out: Path, max_file: int = MAX_FILE, max_total: int = MAX_TOTAL) -> None:
    """Raises ValueError if a file of OUT, or all together without OUT/work, are larger than allowed."""
    found = sizes(out)
    if large := [path for path, size in found.items() if size > max_file]:
        raise ValueError(f"{large[0]} has {found[large[0]]} bytes, more than {max_file}; move it out of {out}")
    if (total := sum(found.values())) > max_total:
        raise ValueError(f"the results in {out} have {total} bytes, more than {max_total}; use another --out")
    print(f"{out}: {len(found)} files, {total / MEGABYTE:.1f} MB", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["speech", "images", "check"])
    parser.add_argument("out", type=Path, help="folder of the results")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    chosen = parser.parse_args()
    try:
        if chosen.what == "speech":
            speech(chosen.out)
        elif chosen.what == "images":
            images(chosen.out, chosen.device)
        else:
            check(chosen.out)
    except (ValueError, OSError) as error:  # ModelError is a ValueError
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
