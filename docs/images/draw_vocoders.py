"""Draws docs/images/spectrograms.png: one utterance by every vocoder of `mini`: python docs/images/draw_vocoders.py"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
from draw_examples import EXAMPLES, TARGET, UTTERANCE, draw_spectrogram
from matplotlib import pyplot as plt
from PIL import Image

import vqaudio
from vqaudio.data.audio import read_audio
from vqaudio.nn.log_mel import MEAN_DB, STD_DB


def main(out: Path) -> None:
    model, path = vqaudio.load_model("mini"), EXAMPLES / f"{UTTERANCE}_original.flac"
    wav, tokens, speaker = read_audio(path, model.sample_rate), model.tokenize(path), UTTERANCE.partition("_")[0]
    figure, axes = plt.subplots(6, 1, figsize=(9, 11), sharex=True, layout="constrained")
    draw_spectrogram(axes[0], np.asarray(wav), model.sample_rate, "original")
    level = model.predict_spectrum(tokens, speaker).T.numpy() * STD_DB + MEAN_DB
    shown = {"origin": "lower", "aspect": "auto", "cmap": "magma", "interpolation": "nearest"}
    axes[1].imshow(level, extent=(0, tokens.seconds, 0, len(level)), vmin=level.max() - 70, **shown)
    axes[1].set_title("spectrum that the codes predict", loc="left", fontsize=9)
    for ax, vocoder in zip(axes[2:5], ("istft", "griffin-lim", "wavenet"), strict=True):
        draw_spectrogram(ax, model.decode(tokens, speaker, vocoder=vocoder).numpy(), model.sample_rate, vocoder)
    draw_spectrogram(axes[5], model.convert(path, TARGET).numpy(), model.sample_rate, f"istft, converted to {TARGET}")
    for ax in axes:
        ax.set_ylabel("mel band")
    axes[-1].set_xlabel("seconds")
    png = io.BytesIO()
    figure.savefig(png, dpi=80)
    Image.open(png).convert("RGB").quantize(64).save(out, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("spectrograms.png"))
