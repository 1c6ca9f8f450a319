"""Speaker verification with the pretrained speaker encoder of Resemblyzer.

It is the network of Wan et al., *Generalized End-to-End Loss for Speaker Verification* (arXiv 1710.10467). Its authors
trained it on VoxCeleb and, according to some of their statements, on a part of LibriSpeech (issues 76, 32 and 8 of
Resemblyzer), so it may have seen the speakers of LibriSpeech. Only the weights of the package (Apache-2.0) are used,
because its imports can fail (webrtcvad, which needs pkg_resources; a module that SciPy has removed).

Letters: T samples, M mel frames, W windows, S trials.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vqaudio.data.audio import resampled

Wav = npt.NDArray[np.float32]
Vector = npt.NDArray[np.float32]  # (256,), of length 1
SAMPLE_RATE = 16000
MEL_BANDS, MEL_WINDOW, MEL_STEP = 40, 400, 160  # 25 ms every 10 ms, in samples
WINDOW_FRAMES, WINDOW_STEP = 160, 77  # window and step of the network in frames: 1.6 s and 0.77 s
MIN_FILLED = 0.75  # fraction of the last window, padded with zeros; it is dropped if it has less speech
LEVEL = 10 ** (-30 / 20)  # -30 dBFS, root mean square


class SpeakerVerifier:
    """Recordings -> vectors whose cosine similarity is high for the same speaker."""

    def __init__(self) -> None:
        """Raises ModuleNotFoundError where the weights are not installed."""
        self.net = _Network()
        weights = torch.load(_weights(), map_location="cpu", weights_only=True)["model_state"]
        self.net.load_state_dict({name: weights[name] for name in self.net.state_dict()})
        self.net.eval().requires_grad_(False)

    @torch.inference_mode()
    def embed(self, wav: npt.ArrayLike, sample_rate: int) -> Vector:
        """(T,) -> (256,) float32 of length 1: the mean over windows of 1.6 s.

        The level is normalised to -30 dBFS (Resemblyzer only raises lower levels). Pauses are kept, because removing
        them does not reduce the error rate on clean speech. Raises ValueError for an empty waveform and for what is not
        (T,).
        """
        wave = np.asarray(wav, np.float32)
        if wave.ndim != 1 or not len(wave) or not np.isfinite(wave).all():
            raise ValueError(f"speaker verification takes finite samples (T,), T at least 1, got {wave.shape}")
        if sample_rate < 1:
            raise ValueError(f"sample_rate must be at least 1 Hz, got {sample_rate}")
        wave = _levelled(resampled(wave, sample_rate, SAMPLE_RATE))
        of_windows = self.net(torch.from_numpy(_windows(wave)))
        return F.normalize(of_windows.mean(0), dim=0).numpy()


def equal_error_rate(scores: npt.ArrayLike, same: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> float:
    """Scores (S,), whether each trial is of the same speaker (S,), weights (S,) -> the equal error rate (EER), 0 to 1.

    At the threshold where the false rejection rate equals the false acceptance rate; both are interpolated between two
    thresholds. NaN where there are no trials of one kind.
    """
    score, own = np.asarray(scores, np.float64), np.asarray(same, bool)
    weight = np.ones(len(score)) if weights is None else np.asarray(weights, np.float64)
    _, place = np.unique(-score, return_inverse=True)  # highest first, ties together
    hits, false = (np.append(0, np.bincount(place, weight * kind).cumsum()) for kind in (own, ~own))
    if not hits[-1] or not false[-1]:
        return float("nan")
    accepted, rejected = false / false[-1], 1 - hits / hits[-1]
    above = int(np.argmax(accepted >= rejected))  # at least 1: at first everything is rejected
    difference = rejected - accepted
    part = difference[above - 1] / (difference[above - 1] - difference[above])
    return float(accepted[above - 1] + part * (accepted[above] - accepted[above - 1]))


class _Network(nn.Module):
    """Mel frames (W, M, 40) -> (W, 256) of length 1."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(MEL_BANDS, 256, num_layers=3, batch_first=True)
        self.linear = nn.Linear(256, 256)

    def forward(self, mel: Tensor) -> Tensor:
        _, (hidden, _) = self.lstm(mel)
        return F.normalize(F.relu(self.linear(hidden[-1])), dim=1)


def _weights() -> Path:
    package = importlib.util.find_spec("resemblyzer")  # found, not imported
    if package is None or package.origin is None:
        raise ModuleNotFoundError(
            "speaker verification needs the weights of Resemblyzer: pip install 'vqaudio[metrics]'"
        )
    return Path(package.origin).parent / "pretrained.pt"


def _levelled(wave: Wav) -> Wav:
    """At the RMS level LEVEL; silence is returned unchanged."""
    level = float(np.sqrt(np.mean(np.square(wave, dtype=np.float64))))
    return wave * np.float32(LEVEL / level) if level > 0 else wave


def _windows(wave: Wav) -> npt.NDArray[np.float32]:
    """(T,) at 16 kHz -> (W, 160, 40): power in mel bands, no logarithm."""
    import librosa

    frames = -(-(len(wave) + 1) // MEL_STEP)
    starts = list(range(0, max(1, frames - WINDOW_FRAMES + WINDOW_STEP + 1), WINDOW_STEP))
    if len(starts) > 1 and len(wave) - starts[-1] * MEL_STEP < MIN_FILLED * WINDOW_FRAMES * MEL_STEP:
        starts.pop()
    padded = np.pad(wave, (0, max(0, (starts[-1] + WINDOW_FRAMES) * MEL_STEP - len(wave))))
    mel = librosa.feature.melspectrogram(
        y=padded, sr=SAMPLE_RATE, n_fft=MEL_WINDOW, hop_length=MEL_STEP, n_mels=MEL_BANDS
    )
    return np.stack([mel.T[start : start + WINDOW_FRAMES] for start in starts]).astype(np.float32)
