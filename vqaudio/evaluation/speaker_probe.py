"""How much do the codes say about who speaks? A linear probe, trained on some utterances, asked about others.

Letters: M segments, K codes, V speakers.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

FOLDS = 2
PENALTY = 1e-3  # on the squared weights, per segment: chosen once on the shipped model's codes
DRAWS = 1000  # of the bootstrap


class SpeakerProbe(NamedTuple):
    """What the probe found."""

    accuracy: float  # share of segments whose speaker it names
    low: float  # of its 95 % interval: utterances are drawn again and again (percentile bootstrap)
    high: float
    chance: float  # of always naming the speaker with the most segments
    num_speakers: int
    num_segments: int


def speaker_probe(
    codes: Sequence[np.ndarray], speakers: Sequence[str], codebook_size: int, segment: int
) -> SpeakerProbe:
    """Codes (N,) of utterances, each in 0..K-1, and who speaks; segments of so many codes -> what a linear probe hears.

    Multinomial logistic regression on the square roots of a segment's code frequencies: what order codes come in it
    does not know. Each speaker's utterances are dealt to two halves; each half is named by a probe trained on the
    other. Speakers with a single utterance are left out. Raises ValueError where fewer than two speakers remain, for
    codes out of range, and for lists of different lengths.
    """
    if len(codes) != len(speakers):
        raise ValueError(f"{len(codes)} utterances have {len(speakers)} speakers; give as many of both")
    if segment < 1:
        raise ValueError(f"segment must be at least 1 code, got {segment}")
    spoken = Counter(name for name, sequence in zip(speakers, codes, strict=True) if len(sequence))
    several = {name for name, count in spoken.items() if count > 1}
    if len(several) < 2:
        raise ValueError(f"a speaker probe needs 2 or more speakers with 2 or more utterances, got {len(several)}")
    names = sorted(several)
    dealt: defaultdict[str, int] = defaultdict(int)
    rows, voices, folds, utterances = [], [], [], []
    for number, (sequence, speaker) in enumerate(zip(codes, speakers, strict=True)):
        if speaker not in several or not len(sequence):
            continue
        if sequence.min() < 0 or sequence.max() >= codebook_size:
            raise ValueError(f"codes must lie in 0..{codebook_size - 1}, got {sequence.min()} to {sequence.max()}")
        fold, dealt[speaker] = dealt[speaker] % FOLDS, dealt[speaker] + 1
        for part in np.array_split(sequence, max(1, round(len(sequence) / segment))):
            rows.append(np.sqrt(np.bincount(part, minlength=codebook_size) / len(part)))
            voices.append(names.index(speaker))
            folds.append(fold)
            utterances.append(number)
    x, y, fold_of = torch.tensor(np.array(rows), dtype=torch.float32), torch.tensor(voices), torch.tensor(folds)
    right = torch.zeros(len(y))
    for fold in range(FOLDS):
        train, test = fold_of != fold, fold_of == fold
        if train.any() and test.any():
            right[test] = (_named(x[train], y[train], x[test], len(names)) == y[test]).float()
    low, high = _interval(right.numpy(), np.array(utterances))
    chance = float(y.bincount().max()) / len(y)
    return SpeakerProbe(float(right.mean()), low, high, chance, len(names), len(y))


def _named(x: Tensor, y: Tensor, asked: Tensor, num_speakers: int) -> Tensor:
    """(M, K), (M,) to learn from, (M', K) -> (M',): logistic regression, convex, from zero: no seed."""
    mean, scale = x.mean(0), x.std(0).mean().clamp(min=1e-6)
    weight = torch.zeros(x.shape[1], num_speakers, requires_grad=True)
    bias = torch.zeros(num_speakers, requires_grad=True)
    inputs = (x - mean) / scale
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(inputs @ weight + bias, y) + PENALTY * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)  # pyright: ignore[reportArgumentType]
    with torch.no_grad():
        return ((asked - mean) / scale @ weight + bias).argmax(1)


def _interval(right: np.ndarray, utterances: np.ndarray) -> tuple[float, float]:
    """95 % of the mean of (M,), whole utterances drawn with replacement."""
    _, group = np.unique(utterances, return_inverse=True)
    sums, counts = np.bincount(group, right), np.bincount(group)
    drawn = np.random.default_rng(0).integers(len(sums), size=(DRAWS, len(sums)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)
