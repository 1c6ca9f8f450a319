"""Statistics of samples from a prior: prior_statistics.py MODEL SAMPLES REAL.jsonl [--phones TIMIT] [--png PICTURE]

SAMPLES is the output folder of `vqaudio sample`, and REAL.jsonl contains tokens of real utterances by the same model.
Prints the Jensen-Shannon divergence (in bits, 0 to 1) of code unigrams and bigrams from those of one half of the real
utterances; for comparison also for the other half, and for real codes in random order. With a folder in TIMIT layout
(wav16/SPEAKER/ID.flac, phn/SPEAKER/ID.phn), every code is assigned to the phone class in which it occurs most often,
and the relative frequencies of phone classes are printed.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import librosa
import numpy as np

import vqaudio
from vqaudio.atomic import atomic_file
from vqaudio.data.audio import read_audio
from vqaudio.tokens.files import read_tokens

PHONE_CLASSES = {
    "silence": "h# pau epi sil",
    "closures": "bcl dcl gcl kcl pcl tcl q",
    "vowels": "iy ih eh ae aa ah ao uh uw ux er ax ix axr ax-h ey aw ay oy ow",
    "fricatives": "s sh z zh f th v dh jh ch hh hv",
    "stops": "b d g p t k dx",
    "nasals": "m n ng em en eng nx",
    "glides": "l r w y el",
}
CLASS_OF = {phone: name for name, phones in PHONE_CLASSES.items() for phone in phones.split()}
FLOOR = -60.0  # dB relative to full scale; windows below this level count as silent


def divergence(first: Counter, second: Counter) -> float:
    """Jensen-Shannon divergence of two sets of counts, in bits."""
    keys = sorted(first.keys() | second.keys())
    p, q = (np.array([counts[key] for key in keys], dtype=float) for counts in (first, second))
    p, q = p / p.sum(), q / q.sum()
    mean = (p + q) / 2
    return float(sum((x[x > 0] * np.log2(x[x > 0] / mean[x > 0])).sum() for x in (p, q)) / 2)


def ngram_counts(sequences: list[np.ndarray], length: int) -> Counter:
    """Counts of code n-grams, n = `length`."""
    return Counter(
        tuple(run) for codes in sequences for run in zip(*(codes[i:].tolist() for i in range(length)), strict=False)
    )


def level_and_silence(wav: np.ndarray, rate: int) -> tuple[float, float]:
    """RMS in dB relative to full scale; fraction of 10 ms windows that are silent."""
    windows = wav[: len(wav) // (rate // 100) * (rate // 100)].reshape(-1, rate // 100)
    levels = 20 * np.log10(np.sqrt((windows**2).mean(1)) + 1e-9)
    return float(20 * np.log10(np.sqrt((wav**2).mean()) + 1e-9)), float((levels < FLOOR).mean())


def phone_classes(model: vqaudio.SpeechVQVAE, corpus: Path) -> list[str]:
    """(K,) the phone class in which each code occurs most often; unused codes count as silence."""
    counts_of = [Counter[str]() for _ in range(model.codebook_size)]
    for path in sorted((corpus / "phn").glob("*/*.phn")):
        wav = next((corpus / "wav16" / path.parent.name).glob(f"{path.stem}.*"))
        codes = model.tokenize(wav).codes.tolist()
        spans = [(int(start), int(end), phone) for start, end, phone in map(str.split, path.read_text().splitlines())]
        for n, code in enumerate(codes):
            middle = n * model.hop + model.hop // 2
            phone = next((phone for start, end, phone in spans if start <= middle < end), "h#")
            counts_of[code][CLASS_OF[phone]] += 1
    return [counts.most_common(1)[0][0] if counts else "silence" for counts in counts_of]


def draw(png: Path, wavs: dict[str, np.ndarray], rate: int) -> None:
    """Plot spectrograms of a few utterances below each other."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(len(wavs), 1, figsize=(8, 1.5 * len(wavs)), layout="constrained", squeeze=False)
    for ax, (name, wav) in zip(axes[:, 0], wavs.items(), strict=True):
        power = librosa.feature.melspectrogram(y=wav, sr=rate, n_fft=512, hop_length=rate // 100, n_mels=80)
        decibels = librosa.power_to_db(power, ref=1.0, amin=1e-8)
        ax.imshow(decibels, origin="lower", aspect="auto", extent=(0, len(wav) / rate, 0, 80), vmin=-70, vmax=20)
        ax.set_ylabel(name, fontsize=8)
        ax.set_yticks([])
    axes[-1, 0].set_xlabel("seconds")
    with atomic_file(png, overwrite=True) as path:
        figure.savefig(path, dpi=80)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("samples", type=Path)
    parser.add_argument("real", type=Path)
    parser.add_argument("--phones", type=Path, help="a corpus with manual phone labels, in TIMIT layout")
    parser.add_argument("--png", type=Path, help="output file for spectrograms of the first samples")
    args = parser.parse_args()
    model, rng = vqaudio.load_model(args.model), np.random.default_rng(0)
    samples = list(read_tokens(args.samples / "tokens.jsonl"))
    real = [row.tokens.codes.numpy() for row in read_tokens(args.real)]
    sets = {
        "samples": [row.tokens.codes.numpy() for row in samples],
        "real, the other half": real[1::2],
        "real, in random order": [rng.permutation(codes) for codes in real[1::2]],
    }
    classes = phone_classes(model, args.phones) if args.phones else []
    print(f"{'':24}{'codes':>8}{'pairs':>8}" + "".join(f"{name:>11}" for name in PHONE_CLASSES if classes))
    for name, codes in {"real": real[::2], **sets}.items():
        divergences = [divergence(ngram_counts(codes, n), ngram_counts(real[::2], n)) for n in (1, 2)]
        of_class = Counter(classes[code] for sequence in codes for code in sequence.tolist()) if classes else Counter()
        frequencies = "".join(f"{of_class[name] / of_class.total():11.3f}" for name in PHONE_CLASSES if classes)
        print(f"{name:24}{divergences[0]:8.3f}{divergences[1]:8.3f}{frequencies}")
    print(f"\n{'speaker':12}{'level, dB':>12}{'silent':>9}")
    wavs = {row.id: read_audio(args.samples / f"{row.id}.wav", model.sample_rate) for row in samples}
    for speaker in dict.fromkeys(row.speaker for row in samples):
        own = np.concatenate([wavs[row.id] for row in samples if row.speaker == speaker])
        level, silent = level_and_silence(own, model.sample_rate)
        print(f"{speaker or '-':12}{level:12.1f}{silent:9.3f}")
    if args.png:
        draw(args.png, dict(list(wavs.items())[::4][:6]), model.sample_rate)


if __name__ == "__main__":
    main()
