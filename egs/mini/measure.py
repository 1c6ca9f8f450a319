"""Print the table of speakers in README.md: seconds, bytes, level, fundamental frequency, timbre.

python egs/mini/measure.py          # about a minute: pyin is slow
"""

from pathlib import Path

import librosa
import numpy as np

HERE = Path(__file__).resolve().parent
SAMPLE_RATE = 16_000


def measure(folder: Path) -> str:
    """One row of the table for the folder of one speaker."""
    files = sorted(folder.glob("*.flac"))
    wavs = [librosa.load(file, sr=None)[0] for file in files]
    speech = np.concatenate(wavs)
    pitch, _, _ = librosa.pyin(speech, fmin=50, fmax=400, sr=SAMPLE_RATE, frame_length=1024)
    low, median, high = np.nanpercentile(pitch, [10, 50, 90])
    magnitude = np.abs(librosa.stft(speech, n_fft=1024, hop_length=256))
    centroid = librosa.feature.spectral_centroid(S=magnitude, sr=SAMPLE_RATE)[0]
    loudness = librosa.feature.rms(S=magnitude, frame_length=1024)[0]
    audible = loudness > 0.1 * loudness.max()
    peaks = [np.abs(wav).max() for wav in wavs]
    cells = (
        folder.name,
        f"{len(speech) / SAMPLE_RATE:.1f}",
        f"{sum(file.stat().st_size for file in files):,}",
        f"{median:.0f} ({low:.0f}-{high:.0f})",
        f"{np.median(centroid[audible]):.0f}",
        f"{np.sqrt(np.mean(speech**2)):.3f}",
        f"{min(peaks):.2f}-{max(peaks):.2f}",
    )
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    print("| speaker | seconds | bytes | F0 median (10-90 %), Hz | centroid, Hz | RMS | peaks |")
    print("|---|---|---|---|---|---|---|")
    for speaker in sorted((HERE / "wav16").iterdir()):
        print(measure(speaker))
