"""Bits per code of a video prior and of simple baselines on held-out episodes.

Shapes: B windows, T frames, h x w positions, K codes.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vqaudio.nn.modes import check_evaluating
from vqaudio.video.crops import CodeSequences, spaced_starts, unigram_probabilities
from vqaudio.video.prior import VideoPrior

BATCH_SIZE = 32
Z95 = 1.96  # half-width of a 95 % interval of the mean, in standard errors
MIN_EPSILON = 1e-6
EM_STEPS = 50  # of the EM algorithm for one parameter


class Baselines(NamedTuple):
    """Simple predictions, fitted on training episodes."""

    unigram: Tensor  # (K,) relative frequency of each code, with add-one smoothing
    epsilon: float  # weight of the unigram in the copy model

    def copy_bits(self, codes: Tensor) -> Tensor:
        """(B, T, h, w) -> bits (B, T - 1, h, w): p = (1 - epsilon) [same as in the frame before] + epsilon unigram."""
        same = (codes[:, 1:] == codes[:, :-1]).float()
        return -((1 - self.epsilon) * same + self.epsilon * self.unigram[codes[:, 1:]]).log2()


def fit_baselines(sequences: CodeSequences) -> Baselines:
    """Unigram frequencies, and the epsilon of largest likelihood, by EM. Raises ValueError without two frames.

    epsilon is at least 1e-6, so that a change has finite bits even if no code of the training episodes changes.
    """
    unigram = unigram_probabilities(sequences)
    same, frequency = [], []
    for codes, _ in sequences.episodes():
        same.append((codes[1:] == codes[:-1]).flatten())
        frequency.append(unigram[codes[1:]].flatten())
    stays, p = torch.cat(same).double(), torch.cat(frequency).double()
    if not len(stays):
        raise ValueError("the training episodes have no two frames in a row; record longer ones")
    epsilon = torch.tensor(0.5, dtype=torch.float64)
    for _ in range(EM_STEPS):
        of_unigram = epsilon * p
        epsilon = (of_unigram / (of_unigram + (1 - epsilon) * stays)).mean()
    return Baselines(unigram, max(float(epsilon), MIN_EPSILON))


@torch.no_grad()
def video_prior_metrics(
    prior: VideoPrior, sequences: CodeSequences, baselines: Baselines, count: int | None = None
) -> dict[str, float]:
    """Held-out episodes -> metrics in bits per code, over all frames with a context or `count` of them.

    bits_per_code        NLL under the prior
    bits_per_code_error  half-width of its 95 % interval over frames (which resemble each other: it is too narrow)
    copy_bits            NLL under the copy model: the code of the frame before, or a code of the unigram
    unigram_bits         NLL under the unigram probabilities
    uniform_bits         log2 K
    conditioning_gap     increase of the NLL with the context frames of other windows
    action_gap           increase of the NLL with the last actions of other windows

    Of n windows in order, each gets the context or the action of the one n / 2 before it, never its own.

    Raises ValueError for fewer than two frames with a context.
    """
    check_evaluating(prior, "prior")
    n, device = prior.cfg.context, prior.device
    starts = spaced_starts(sequences, n + 1, count)
    if len(starts) < 2:
        raise ValueError(f"at least 2 frames after {n} others are needed; record longer episodes")
    other_starts = np.roll(starts, len(starts) // 2)  # far away: neighbouring windows resemble each other
    own, copied, unigram, of_other_context, of_other_action = [], [], [], [], []
    for first in range(0, len(starts), BATCH_SIZE):
        batch, other = (sequences.windows(each[first : first + BATCH_SIZE], n + 1) for each in (starts, other_starts))
        codes, actions = batch["codes"], batch["actions"]
        own.append(_nats(prior, codes, actions, device))
        copied.append(baselines.copy_bits(codes[:, n - 1 :]).mean((1, 2, 3)))
        unigram.append(-baselines.unigram[codes[:, n]].log2().mean((1, 2)))
        other_codes = torch.cat([other["codes"][:, :n], codes[:, n:]], 1)
        of_other_context.append(_nats(prior, other_codes, actions, device))
        other_actions = torch.cat([actions[:, :-1], other["actions"][:, -1:]], 1)
        of_other_action.append(_nats(prior, codes, other_actions, device))
    bits = torch.cat(own) / (math.log(2) * math.prod(prior.cfg.map_shape))
    scale = bits.mean() / torch.cat(own).mean()
    return {
        "bits_per_code": bits.mean().item(),
        "bits_per_code_error": Z95 * bits.std().item() / math.sqrt(len(bits)),
        "copy_bits": torch.cat(copied).mean().item(),
        "unigram_bits": torch.cat(unigram).mean().item(),
        "uniform_bits": math.log2(sequences.codebook_size),
        "conditioning_gap": ((torch.cat(of_other_context) - torch.cat(own)).mean() * scale).item(),
        "action_gap": ((torch.cat(of_other_action) - torch.cat(own)).mean() * scale).item(),
    }


def _nats(prior: VideoPrior, codes: Tensor, actions: Tensor, device: torch.device) -> Tensor:
    """(B, N + 1, h, w), (B, N) -> NLL of the last frames, (B,)."""
    return prior.nll(codes.to(device), actions.to(device))[:, 0].cpu()
