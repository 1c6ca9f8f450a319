"""Plots an utterance, its codes and its conversions: figure.py AUDIO TOKENS CONVERTED_DIR OUT.png"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from vqaudio.data.audio import read_audio
from vqaudio.tokens.files import read_tokens

RATE = 16000


def spectrogram(ax: Axes, wav: np.ndarray, title: str) -> None:
    ax.specgram(wav + 1e-5 * np.random.default_rng(0).standard_normal(len(wav)), NFFT=400, Fs=RATE, noverlap=240,
                cmap="magma", vmin=-130, vmax=-40)  # fmt: skip
    ax.set_title(title, fontsize=9)
    ax.set_ylim(0, 8000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("audio", "tokens", "converted", "out"):
        parser.add_argument(name, type=Path)
    args = parser.parse_args()
    wav = read_audio(args.audio, RATE)
    (row,) = read_tokens(args.tokens)
    codes = row.tokens.codes.numpy()
    converted = sorted(args.converted.glob("*.wav"))
    figure, axes = plt.subplots(3 + len(converted), 1, figsize=(11, 5 + 1.5 * len(converted)), constrained_layout=True)
    seconds = np.arange(len(wav)) / RATE
    axes[0].plot(seconds, wav, lw=0.4)
    axes[0].set_title(f"{args.audio.name}: waveform", fontsize=9)
    spectrogram(axes[1], wav, "spectrogram, Hz")
    axes[2].plot(np.arange(len(codes)) * row.tokens.hop / RATE, codes, ".", ms=2)
    axes[2].set_title(f"{len(codes)} codes over time, {len(np.unique(codes))} different ones", fontsize=9)
    for ax, path in zip(axes[3:], converted, strict=True):
        spectrogram(ax, read_audio(path, RATE), path.stem)
    for ax in axes:
        ax.set_xlim(0, len(wav) / RATE)
    axes[-1].set_xlabel("seconds")
    figure.savefig(args.out, dpi=80)
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
