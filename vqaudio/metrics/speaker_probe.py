"""Speaker probes: classifiers that predict the speaker from codes, trained on some utterances and tested on others.

Letters: M segments, N codes, K codebook size, V speakers, P spans of a segment, E, H widths.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vqaudio.metrics.confidence import Estimate, ratio
from vqaudio.nn.quantizer_protocol import check_codes
from vqaudio.training.launch import cpu_threads

Codes = npt.NDArray[np.int64]
FOLDS = 2
PENALTY = 1e-3  # L2 penalty on the linear weights, per segment: chosen once on the shipped model's codes
STEPS, SEGMENTS_AT_ONCE, LEARNING_RATE = 100, 32, 5e-3  # of the recurrent probe
WIDTH, STATE, DROPOUT = 32, 64, 0.3
SPANS_PER_SECOND = 12.5  # time steps of the recurrent probe


class _Segments(NamedTuple):
    """Utterances cut into segments of about equal length."""

    codes: list[Tensor]  # M times (N,)
    roots: Tensor  # (M, K): square roots of the codes' frequencies
    speaker: Tensor  # (M,)
    fold: Tensor  # (M,)
    utterance: list[int]  # (M,)


def speaker_probe_metrics(
    codes: Sequence[Codes],
    speakers: Sequence[str],
    *,
    codebook_size: int,
    frame_rate: float,
    seconds: float = 2.0,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Codes (N,) of utterances, in 0..K-1, and their speakers -> speaker accuracies over segments (0 to 1).

    linear_accuracy: logistic regression on the square roots of the code frequencies of a segment, which ignores the
    order of the codes. recurrent_accuracy: a network with the same inputs and a GRU. chance: always the speaker with
    the most segments. Segments last about `seconds` at `frame_rate` codes per second. Each speaker's utterances are
    dealt to two folds; each fold is tested with probes trained on the other. The intervals cover other test utterances,
    not other training utterances: on random codes, 88 of 100 intervals of the linear probe contained the chance level.
    Speakers with a single utterance are left out. The speaker with the most utterances sets the chance level, so take
    about as many of each. `seed` is that of the network.

    Raises ValueError for fewer than two remaining speakers, codes out of range, segments of less than a code, and lists
    of different lengths.
    """
    found = _segments(codes, speakers, codebook_size, seconds * frame_rate)
    num_speakers = int(found.speaker.max()) + 1
    span = max(1, round(frame_rate / SPANS_PER_SECOND))
    linear, recurrent = torch.zeros(len(found.codes)), torch.zeros(len(found.codes))
    with cpu_threads(1):  # the computations are too small for more
        for fold in range(FOLDS):
            train, test = found.fold != fold, found.fold == fold
            mean, scale = found.roots[train].mean(0), found.roots[train].std(0).mean().clamp(min=1e-6)
            x, y = (found.roots - mean) / scale, found.speaker
            linear[test] = (linear_log_odds(x[train], y[train], x[test], num_speakers).argmax(1) == y[test]).float()
            network = _trained(found.codes, x, y, torch.where(train)[0], span, seed)
            recurrent[test] = (_predicted(network, found.codes, x, torch.where(test)[0]) == y[test]).float()
    most = (found.speaker == found.speaker.bincount().argmax()).float()
    correct = {"linear_accuracy": linear, "recurrent_accuracy": recurrent, "chance": most}
    ones = np.ones(len(found.codes))
    return {name: ratio(each.numpy(), ones, found.utterance) for name, each in correct.items()}


def linear_log_odds(x: Tensor, y: Tensor, test: Tensor, num_speakers: int) -> Tensor:
    """(M, K), (M,) to train on, (M', K) to test -> (M', V): logistic regression, convex, from 0, so without a seed."""
    weight = torch.zeros(x.shape[1], num_speakers, requires_grad=True)
    bias = torch.zeros(num_speakers, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(x @ weight + bias, y) + PENALTY * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)  # pyright: ignore[reportArgumentType]
    return (test @ weight + bias).detach()


def _segments(codes: Sequence[Codes], speakers: Sequence[str], codebook_size: int, length: float) -> _Segments:
    if len(codes) != len(speakers):
        raise ValueError(f"{len(codes)} utterances have {len(speakers)} speakers; give as many of both")
    if not length >= 1:
        raise ValueError(f"seconds times frame_rate must be at least 1 code, got {length:g}")
    counts = Counter(name for name, sequence in zip(speakers, codes, strict=True) if len(sequence))
    several = sorted(name for name, count in counts.items() if count > 1)
    if len(several) < 2:
        raise ValueError(f"a speaker probe needs 2 or more speakers with 2 or more utterances, got {len(several)}")
    number = {name: index for index, name in enumerate(several)}
    dealt: defaultdict[str, int] = defaultdict(int)
    parts, labels, folds, utterances = [], [], [], []
    for utterance, (sequence, speaker) in enumerate(zip(codes, speakers, strict=True)):
        if speaker not in number or not len(sequence):
            continue
        check_codes(sequence, codebook_size)
        fold, dealt[speaker] = dealt[speaker] % FOLDS, dealt[speaker] + 1
        own = np.array_split(sequence, max(1, round(len(sequence) / length)))
        parts += own
        labels += [number[speaker]] * len(own)
        folds += [fold] * len(own)
        utterances += [utterance] * len(own)
    roots = np.stack([np.sqrt(np.bincount(part, minlength=codebook_size) / len(part)) for part in parts])
    cut = [torch.from_numpy(part.astype(np.int64)) for part in parts]
    return _Segments(cut, torch.from_numpy(roots).float(), torch.tensor(labels), torch.tensor(folds), utterances)


class _Recurrent(nn.Module):
    """Codes (M, N), padded with -1, and (M, K) -> log-odds (M, V).

    The linear probe's logits, and a GRU's states and the codes' embeddings, averaged over the segment. The GRU takes
    `span` codes at a step: at 250 codes per second it would otherwise take minutes.
    """

    def __init__(self, codebook_size: int, num_speakers: int, span: int):
        super().__init__()
        self.span = span
        self.linear = nn.Linear(codebook_size, num_speakers)
        nn.init.zeros_(self.linear.weight)
        self.embedding = nn.Embedding(codebook_size + 1, WIDTH, padding_idx=0)
        self.gru = nn.GRU(WIDTH * span, STATE, batch_first=True)
        self.dropout = nn.Dropout(DROPOUT)
        self.out = nn.Linear(STATE + WIDTH, num_speakers)

    def forward(self, codes: Tensor, x: Tensor) -> Tensor:
        codes = F.pad(codes, (0, -codes.shape[1] % self.span), value=-1)
        valid = (codes >= 0).float()[..., None]  # (M, N, 1)
        embedded = self.embedding(codes + 1)  # (M, N, E)
        states, _ = self.gru(embedded.unflatten(1, (-1, self.span)).flatten(2))  # (M, P, H)
        steps = valid[:, :: self.span]
        pooled = [(states * steps).sum(1) / steps.sum(1), (embedded * valid).sum(1) / valid.sum(1)]
        return self.linear(x) + self.out(self.dropout(torch.cat(pooled, 1)))


def _trained(codes: Sequence[Tensor], x: Tensor, y: Tensor, own: Tensor, span: int, seed: int) -> _Recurrent:
    """Trained on the segments with the indices `own`, each equally often."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _Recurrent(x.shape[1], int(y.max()) + 1, span)
        optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=STEPS)
        rounds = -(-STEPS * SEGMENTS_AT_ONCE // len(own))
        order = torch.cat([own[torch.randperm(len(own))] for _ in range(rounds)])
        for picked in order.split(SEGMENTS_AT_ONCE)[:STEPS]:
            log_odds = network(_padded(codes, picked), x[picked])
            loss = F.cross_entropy(log_odds, y[picked]) + PENALTY * network.linear.weight.square().sum()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    return network.eval()


@torch.no_grad()
def _predicted(network: _Recurrent, codes: Sequence[Tensor], x: Tensor, test: Tensor) -> Tensor:
    parts = test.split(SEGMENTS_AT_ONCE)
    return torch.cat([network(_padded(codes, part), x[part]).argmax(1) for part in parts])


def _padded(codes: Sequence[Tensor], picked: Tensor) -> Tensor:
    """The segments with these indices: (M, N), padded with -1."""
    return nn.utils.rnn.pad_sequence([codes[i] for i in picked.tolist()], batch_first=True, padding_value=-1)
