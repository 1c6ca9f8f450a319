"""Baselines for a tokenizer: k-means of spectral features, and random codes.

Letters: T samples, N = ceil(T / hop) frames, D features, K codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch

from vqaudio.nn.vector_quantizer import nearest

Codes = npt.NDArray[np.int64]
Wav = npt.NDArray[np.float32]
Features = npt.NDArray[np.float32]
FeatureKind = Literal["log_mel", "mfcc"]
WINDOW_SECONDS, BANDS, CEPSTRA, DELTA_FRAMES = 0.025, 40, 13, 9
FLOOR = 1e-10  # of the power of a band, so that the logarithm of silence is finite
MAX_FRAMES = 60_000  # more than 100 for each of 512 codes; about ten seconds on one core
ITERATIONS = 100


@dataclass(frozen=True)
class KMeansTokenizer:
    """A tokenizer without a trained encoder: each frame of log-mel or MFCC features gets its nearest of K centroids."""

    vectors: Features
    """(K, D) centroids of standardised features"""
    mean: Features
    """(D,) mean of the training frames"""
    scale: Features
    """(D,) standard deviations of the training frames"""
    kind: FeatureKind
    sample_rate: int
    hop: int

    @classmethod
    def fit(
        cls,
        wavs: Sequence[Wav],
        *,
        sample_rate: int,
        hop: int,
        codes: int,
        features: FeatureKind = "log_mel",
        seed: int = 0,
        max_frames: int = MAX_FRAMES,
    ) -> KMeansTokenizer:
        """Fits the centroids to waveforms (T,) in [-1, 1], of which at most `max_frames` random frames are used.

        `codes` is K. k-means++ and Lloyd's algorithm of scikit-learn on one thread: the same waveforms and seed give
        the same centroids. Raises ValueError for other features and for fewer frames than codes.
        """
        from sklearn.cluster import KMeans
        from threadpoolctl import threadpool_limits

        if features not in get_args(FeatureKind):
            raise ValueError(f"features must be one of {', '.join(get_args(FeatureKind))}, got {features!r}")
        lengths = [-(-len(wav) // hop) for wav in wavs]
        total = sum(lengths)
        if not 1 <= codes <= min(total, max_frames):
            raise ValueError(
                f"codes must lie between 1 and the number of frames, got {codes} for {min(total, max_frames)} frames; "
                "give more audio or fewer codes"
            )
        chosen = np.zeros(total, dtype=bool)
        chosen[np.random.default_rng(seed).permutation(total)[:max_frames]] = True
        parts = np.split(chosen, np.cumsum(lengths)[:-1])
        rows = np.concatenate(
            [spectral_features(wav, sample_rate, hop, features)[own] for wav, own in zip(wavs, parts, strict=True)]
        )
        mean, scale = rows.mean(0), np.maximum(rows.std(0), 1e-6)
        found = KMeans(codes, n_init=1, max_iter=ITERATIONS, random_state=seed)  # pyright: ignore[reportArgumentType]
        with threadpool_limits(1):
            found.fit((rows - mean) / scale)
        return cls(found.cluster_centers_.astype(np.float32), mean, scale, features, sample_rate, hop)

    def features(self, wav: Wav) -> Features:
        """(T,) at `sample_rate` -> (N, D), standardised features."""
        return (spectral_features(wav, self.sample_rate, self.hop, self.kind) - self.mean) / self.scale

    def encode(self, wav: Wav) -> Codes:
        """(T,) at `sample_rate` -> (N,) in 0..K-1."""
        return nearest(torch.from_numpy(self.features(wav)), torch.from_numpy(self.vectors)).numpy()


def spectral_features(wav: Wav, sample_rate: int, hop: int, kind: FeatureKind) -> Features:
    """(T,) -> (N, D): windows of 25 ms centred on the frames, with zeros before the start and after the end.

    log_mel: logarithms of 40 mel bands. mfcc: 13 cepstral coefficients of those, with their first and second
    derivatives over 9 frames, D = 39. Raises ValueError for a waveform that is not (T,) with T > 0 or not finite.
    """
    import librosa

    wav = np.asarray(wav, np.float32)
    if wav.ndim != 1 or not len(wav) or not np.isfinite(wav).all():
        raise ValueError(f"a waveform must be (T,) with T > 0 and all values finite, got {wav.shape}")
    window = round(WINDOW_SECONDS * sample_rate)
    size = 2 ** (window - 1).bit_length()
    num_frames = -(-len(wav) // hop)
    start = hop // 2 - size // 2  # of the first frame's FFT, whose window is in its middle
    padded = np.pad(wav[max(0, start) :], (max(0, -start), hop + size))[: (num_frames - 1) * hop + size]
    power = librosa.feature.melspectrogram(
        y=padded, sr=sample_rate, n_fft=size, win_length=window, hop_length=hop, n_mels=BANDS, center=False
    )
    log_mel = np.log(np.maximum(power, FLOOR))  # (BANDS, N)
    if kind == "log_mel":
        return np.ascontiguousarray(log_mel.T)
    cepstra = librosa.feature.mfcc(S=log_mel, n_mfcc=CEPSTRA)
    slopes = [librosa.feature.delta(cepstra, width=DELTA_FRAMES, order=order, mode="nearest") for order in (1, 2)]
    return np.ascontiguousarray(np.concatenate([cepstra, *slopes]).T)


def random_codes(like: Sequence[Codes], codebook_size: int, seed: int = 0) -> list[Codes]:
    """Codes of the same lengths, uniformly distributed and independent."""
    generator = np.random.default_rng(seed)
    return [generator.integers(codebook_size, size=len(own)) for own in like]
