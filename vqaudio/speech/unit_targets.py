"""The targets of the unit objective: speaker-normalised cepstra, and clusters of MFCC with derivatives.

Computed once from the training speech, before training, and cached with it. No network is involved.

Shapes: A frames, S speakers, F mel bands, L cepstral coefficients, K clusters, T samples, N frames of an utterance.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from vqaudio.data.crops import CropTargets
from vqaudio.data.frame_targets import Targets, cached_targets, num_target_frames
from vqaudio.data.packed import PackedSpeech
from vqaudio.nn.mel import MelConfig, MelFilterbank
from vqaudio.nn.moments import Moments
from vqaudio.nn.units import UnitsConfig
from vqaudio.nn.vector_quantizer import kmeans, nearest
from vqaudio.speech.config import SpeechVQVAEConfig

VERSION = 1  # of how targets are computed; a change makes cached ones invalid
DYNAMIC_RANGE, SPEECH_RANGE = 60.0, 35.0  # dB below the loudest frame of the utterance: floor, and what is speech
SILENCE = 1e-15  # added to powers
PRIOR_FRAMES = 200.0  # weight of all speakers' mean and variance in those of each, in frames of speech (2 s)
MFCC, DELTA_FRAMES = 13, 9  # coefficients that are clustered, at most, and window of their derivatives
MAX_FRAMES = 100_000  # that k-means is fitted to: 1,000 for each of 100 clusters, about 17 minutes of speech
ITERATIONS = 100


@dataclass(frozen=True)
class UnitTargetStatistics:
    """Statistics of the training speech: all that the targets of an utterance depend on."""

    cfg: UnitsConfig
    sample_rate: int
    mean: Tensor
    """(S, L) mean of each speaker's cepstra, in dB"""
    std: Tensor
    """(S, L) their standard deviation, in dB"""
    feature_mean: Tensor
    """(3 * 13,) mean of the clustered features over speech"""
    feature_std: Tensor
    """(3 * 13,) their standard deviation"""
    centres: Tensor
    """(K, 3 * 13) cluster centres of standardised features"""

    @classmethod
    def fit(cls, speech: PackedSpeech, cfg: UnitsConfig, seed: int = 0) -> UnitTargetStatistics:
        """Speaker statistics of all speech, and k-means on at most MAX_FRAMES frames, evenly spread over utterances.

        The same speech and seed give the same statistics. Raises ValueError for less speech than clusters.
        """
        cepstra = Cepstra(cfg, speech.sample_rate)
        mean, std = speaker_statistics(cepstra, speech)
        parts, activity = [], []
        for i in _evenly_spread(speech, MAX_FRAMES * cfg.hop_length):
            cepstrum, active = cepstra(torch.from_numpy(speech.waveform(i)))
            speaker = speech.speaker_ids[i]
            parts.append(with_deltas((cepstrum - mean[speaker]) / std[speaker]))
            activity.append(active)
        features, active = torch.cat(parts), torch.cat(activity)
        moments = Moments()
        moments.add(features[active])
        feature_mean, feature_std = moments.mean.float(), moments.std.float().clamp(min=1e-3)
        if len(features) < cfg.num_clusters:
            raise ValueError(
                f"{cfg.num_clusters} clusters need as many frames of speech, got {len(features)}: give more speech, or "
                "fewer --model.units.num_clusters"
            )
        generator = torch.Generator().manual_seed(seed)
        sample = torch.randperm(len(features), generator=generator)[:MAX_FRAMES]
        rows = (features[sample] - feature_mean) / feature_std
        centres = kmeans(rows, cfg.num_clusters, ITERATIONS, generator)
        return cls(cfg, speech.sample_rate, mean, std, feature_mean, feature_std, centres)

    def targets(self, speech: PackedSpeech) -> Iterator[Targets]:
        """Clusters (N,) and normalised cepstra (N, L) of each utterance, by the training statistics of its speaker."""
        cepstra = Cepstra(self.cfg, self.sample_rate)
        for i in _progress(speech, "targets of units"):
            speaker = speech.speaker_ids[i]
            normalised = (cepstra(torch.from_numpy(speech.waveform(i)))[0] - self.mean[speaker]) / self.std[speaker]
            clusters = nearest((with_deltas(normalised) - self.feature_mean) / self.feature_std, self.centres)
            yield clusters.numpy().astype(np.int16), normalised.numpy().astype(np.float16)


class Cepstra:
    """Utterance -> cepstra without level, and which frames are speech."""

    def __init__(self, cfg: UnitsConfig, sample_rate: int):
        mel = MelConfig(cfg.n_mels, cfg.hop_length, cfg.win_length, cfg.f_min, cfg.f_max)
        self.hop, self.bank = cfg.hop_length, MelFilterbank(mel, sample_rate)
        self.dct = dct_matrix(cfg.num_cepstra, cfg.n_mels)

    def __call__(self, wav: Tensor) -> tuple[Tensor, Tensor]:
        """(T,) in [-1, 1] -> (N, L) in dB, (N,) bool, N = ceil(T / hop); windows are centred on the frames.

        The orthonormal cosine transform (DCT-II) of the log power in mel bands below the loudest frame.
        """
        num_frames = num_target_frames(len(wav), self.hop)
        power = self.bank.power(self.bank.centre(wav[None], num_frames)[..., None])[0][0] + SILENCE  # (N, F)
        level = 10 * torch.log10(power.mean(1))  # (N,) dB
        below = 10 * torch.log10(power * 10 ** (-level.max() / 10) + 10 ** (-DYNAMIC_RANGE / 10))
        return below @ self.dct.T, level > level.max() - SPEECH_RANGE


def dct_matrix(count: int, size: int) -> Tensor:
    """(count, size): the first rows of the orthonormal DCT-II."""
    k, n = torch.arange(count, dtype=torch.float64)[:, None], torch.arange(size, dtype=torch.float64)
    rows = torch.cos(math.pi * k * (2 * n + 1) / (2 * size)) * math.sqrt(2 / size)
    rows[0] /= math.sqrt(2)
    return rows.float()


def speaker_statistics(cepstra: Cepstra, speech: PackedSpeech) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (S, L) of each speaker's speech, shrunk towards those of all with PRIOR_FRAMES.

    A speaker without speech has those of all. Raises ValueError without any speech.
    """
    each = [Moments() for _ in speech.speakers]
    total = Moments()
    for i in _progress(speech, "statistics of speakers"):
        cepstrum, active = cepstra(torch.from_numpy(speech.waveform(i)))
        each[speech.speaker_ids[i]].add(cepstrum[active])
        total.add(cepstrum[active])
    means, stds = [], []
    for own in each:
        count = own.count
        own_mean, own_std = (own.mean, own.std) if count else (total.mean, total.std)
        mean = (own_mean * count + total.mean * PRIOR_FRAMES) / (count + PRIOR_FRAMES)
        square = own_std.square() + (own_mean - mean).square()  # mean squared distance from the mean that is used
        variance = (square * count + total.std.square() * PRIOR_FRAMES) / (count + PRIOR_FRAMES)
        means.append(mean.float())
        stds.append(variance.sqrt().float().clamp(min=1e-3))
    return torch.stack(means), torch.stack(stds)


def with_deltas(cepstra: Tensor) -> Tensor:
    """(N, L) of a whole utterance -> (N, 3 * 13): the first 13, and their first and second derivatives.

    The derivative is the slope of a regression line over 9 frames; the ends are repeated outwards.
    """
    reach = DELTA_FRAMES // 2
    x = F.pad(cepstra[:, :MFCC].T[None], (2 * reach, 2 * reach), mode="replicate")[0]  # (13, N + 4 * reach)
    steps = torch.arange(-reach, reach + 1, dtype=x.dtype)
    kernel = (steps / steps.square().sum())[None, None]
    slopes = F.conv1d(x[:, None], kernel)[:, 0]  # (13, N + 2 * reach)
    curves = F.conv1d(slopes[:, None], kernel)[:, 0]  # (13, N)
    return torch.cat([x[:, 2 * reach : -2 * reach], slopes[:, reach:-reach], curves]).T


def unit_targets(
    model: SpeechVQVAEConfig, train: PackedSpeech, held_out: PackedSpeech, folder: Path
) -> tuple[CropTargets, CropTargets] | tuple[None, None]:
    """Targets of the crops of training and held-out speech, which have the same speakers; None if training needs none.

    They are cached below `folder`, and found again by the content of the speech and the options, wherever its files
    lie. Raises ValueError for less speech than clusters, OSError if they cannot be written.
    """
    if not model.predicts_units:
        return None, None
    cfg, teacher = model.units, list[UnitTargetStatistics]()
    facts = [VERSION, cfg.num_clusters, cfg.num_cepstra, cfg.n_mels, cfg.win_length, cfg.f_min, cfg.f_max]
    key = json.dumps([*facts, cfg.hop_length, train.content_hash()])

    def targets_of(speech: PackedSpeech) -> Iterator[Targets]:
        if not teacher:
            teacher.append(UnitTargetStatistics.fit(train, cfg))
        yield from teacher[0].targets(speech)

    def cached(speech: PackedSpeech, key: str) -> CropTargets:
        digest = hashlib.sha256(key.encode()).hexdigest()
        own = folder / f"units-{digest[:16]}"
        found = cached_targets(own, speech, cfg.hop_length, digest, lambda: targets_of(speech))
        return CropTargets(found, cfg.margin, model.encoder.hop)

    return cached(train, key), cached(held_out, json.dumps([key, held_out.content_hash()]))


def _evenly_spread(speech: PackedSpeech, num_samples: int) -> list[int]:
    """Utterances at equal distances in the corpus that have about `num_samples` in all; all, if there are fewer."""
    count = math.ceil(len(speech) * min(1.0, num_samples / max(1, len(speech.samples))))
    return [i * len(speech) // count for i in range(count)]


def _progress(speech: PackedSpeech, work: str) -> Iterable[int]:
    """The indices of all utterances, with a progress bar if standard error is a terminal."""
    return tqdm(range(len(speech)), desc=work, unit="utterance", disable=None)
