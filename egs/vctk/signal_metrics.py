"""Signal-level metrics of synthesised speech: signal_metrics.py MODEL MANIFEST [--count 8]

For one utterance of each speaker in the manifest: level, median F0, and log-mel distance to the original, for its
reconstruction (same speaker) and its conversion to the next speaker. The log-mel distance of two unrelated utterances
is printed for comparison.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import librosa
import numpy as np

import vqaudio
from vqaudio.data.audio import read_audio
from vqaudio.data.manifest import read_manifest
from vqaudio.speech.vocoders import VOCODERS


def median_f0(wav: np.ndarray, rate: int) -> float:
    """Median F0 in Hz over voiced frames; NaN if there are none."""
    f0, voiced, _ = librosa.pyin(wav, fmin=60, fmax=400, sr=rate, frame_length=1024)
    return float(np.median(f0[voiced])) if voiced.any() else float("nan")


def log_mel(wav: np.ndarray, rate: int) -> np.ndarray:
    """(40, frames) in dB, 100 frames per second, relative to full scale, floored at -80 dB."""
    power = librosa.feature.melspectrogram(y=wav, sr=rate, n_fft=512, hop_length=rate // 100, n_mels=40)
    return librosa.power_to_db(power, ref=1.0, amin=1e-8)


def distance(first: np.ndarray, second: np.ndarray) -> float:
    """Mean absolute difference of two log-mel spectrograms over their common length, in dB."""
    frames = min(first.shape[1], second.shape[1])
    return float(np.abs(first[:, :frames] - second[:, :frames]).mean())


def level(wav: np.ndarray) -> float:
    """RMS in dB relative to full scale."""
    return float(20 * np.log10(np.sqrt(np.mean(wav**2)) + 1e-9))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--count", type=int, default=8, help="number of speakers")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--vocoder", choices=VOCODERS, help="default: that of the model")
    args = parser.parse_args()
    model = vqaudio.load_model(args.model)
    rate = model.sample_rate
    first_of = {u.speaker: u for u in reversed(read_manifest(args.manifest)) if u.speaker in model.speakers}
    chosen = sorted(first_of.values(), key=lambda u: u.speaker)[: args.count]
    wavs = [read_audio(u.path, rate) for u in chosen]
    tokens = [model.tokenize(wav) for wav in wavs]
    own = [u.speaker for u in chosen]
    other = own[1:] + own[:1]
    decoded = model.decode_batch(tokens * 2, own + other, vocoder=args.vocoder, temperature=args.temperature)
    mels, pitches = [log_mel(wav, rate) for wav in wavs], [median_f0(wav, rate) for wav in wavs]
    print("            level, dB             median F0, Hz                            log-mel distance, dB")
    print("speaker     orig recon conv       orig recon conv target speaker           recon  conv  unrelated")
    rows = []
    for i, speaker in enumerate(own):
        recon, conv = decoded[i].numpy(), decoded[len(own) + i].numpy()
        nxt = (i + 1) % len(own)
        row = [level(wavs[i]), level(recon), level(conv), pitches[i], median_f0(recon, rate), median_f0(conv, rate)]
        row += [pitches[nxt], distance(mels[i], log_mel(recon, rate)), distance(mels[i], log_mel(conv, rate))]
        row += [distance(mels[i], mels[nxt])]
        rows.append(row)
        print(f"{speaker:>7}   {row[0]:6.1f}{row[1]:6.1f}{row[2]:5.1f}     {row[3]:6.0f}{row[4]:6.0f}{row[5]:5.0f}"
              f"{row[6]:7.0f} ({own[nxt]:>4}){row[7]:18.1f}{row[8]:6.1f}{row[9]:11.1f}")  # fmt: skip
    mean = np.nanmean(rows, axis=0)
    print(f"mean log-mel distance: reconstruction {mean[7]:.1f}, conversion {mean[8]:.1f}, unrelated {mean[9]:.1f} dB")


if __name__ == "__main__":
    main()
