"""Draws docs/images/examples.png from the shipped model's examples: python docs/images/draw_examples.py [OUT.png]

The mel spectrogram of a recording, below it the codes that `mini` gives it, then the spectrograms of what the vocoder
makes of these codes for the original speaker and for another one. The audio is that beside the model card.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import librosa
import matplotlib
import numpy as np

matplotlib.use("agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from PIL import Image

import vqaudio
from vqaudio.data.audio import read_audio

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "vqaudio/pretrained/mini/examples"
UTTERANCE, TARGET = "p287_002", "p239"


def draw_spectrogram(ax: Axes, wav: np.ndarray, sample_rate: int, title: str) -> None:
    """`wav` (T,) in [-1, 1]; 80 mel bands, 25 ms windows every 10 ms, in dB below the loudest."""
    power = librosa.feature.melspectrogram(y=wav, sr=sample_rate, n_fft=512, win_length=400, hop_length=160, n_mels=80)
    ax.imshow(
        librosa.power_to_db(power, ref=np.max, top_db=70),
        origin="lower",
        aspect="auto",
        cmap="magma",
        interpolation="nearest",
        extent=(0, len(wav) / sample_rate, 0, 80),
    )
    ax.set_title(title, fontsize=10, loc="left")
    ax.set_yticks([0, 40, 80])
    ax.set_ylabel("mel band", fontsize=8)


def main(out: Path) -> None:
    model = vqaudio.load_model("mini")
    paths = {kind: EXAMPLES / f"{UTTERANCE}_{kind}.flac" for kind in ("original", "reconstruction", f"as_{TARGET}")}
    wavs = [read_audio(path, model.sample_rate) for path in paths.values()]
    codes = model.tokenize(paths["original"]).codes.numpy()
    source = UTTERANCE.partition("_")[0]
    titles = [
        f"recording of speaker {source}",
        f"reconstruction: the codes decoded for speaker {source}",
        f"voice conversion: the same codes decoded for speaker {TARGET}",
    ]
    figure, axes = plt.subplots(4, 1, figsize=(9, 7), height_ratios=[3, 2, 3, 3], sharex=True, layout="constrained")
    for ax, wav, title in zip((axes[0], axes[2], axes[3]), wavs, titles, strict=True):
        draw_spectrogram(ax, wav, model.sample_rate, title)
    axes[1].plot((np.arange(len(codes)) + 0.5) / model.frame_rate, codes, ".", ms=3, color="black")
    axes[1].set_title(
        f"its tokens: {len(codes)} codes, {model.frame_rate:.0f} per second, each one of {model.codebook_size}",
        fontsize=10,
        loc="left",
    )
    axes[1].set_ylim(0, model.codebook_size)
    axes[1].set_ylabel("code", fontsize=8)
    axes[-1].set_xlim(0, len(wavs[0]) / model.sample_rate)
    axes[-1].set_xlabel("seconds", fontsize=9)
    for ax in axes:
        ax.tick_params(labelsize=8)
    png = io.BytesIO()
    figure.savefig(png, dpi=80)
    Image.open(png).convert("RGB").quantize(64).save(out, optimize=True)  # a third of the size, and looks the same
    print(f"wrote {out}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("examples.png"))
