"""How a class is drawn from logits: one rule for all backends, so that they can be compared step by step.

Letters: B streams, T steps, Q classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from vqaudio.sampling.config import SamplingConfig

Generators = torch.Generator | Sequence[torch.Generator]


def uniforms(streams: int, steps: int, generator: Generators) -> Tensor:
    """(B, T) float32 numbers in [0, 1): all the randomness of a generation, drawn on the CPU in advance.

    With one generator for each stream, a stream does not depend on the others in its batch. Raises ValueError for
    another number of generators than streams.
    """
    if isinstance(generator, Sequence):
        if len(generator) != streams:
            raise ValueError(f"{streams} streams need as many generators (or a single one), got {len(generator)}")
        return torch.stack([torch.rand(steps, generator=g) for g in generator]) if streams else torch.zeros(0, steps)
    return torch.rand(streams, steps, generator=generator)


def draw(logits: Tensor, uniform: Tensor, sampling: SamplingConfig) -> Tensor:
    """Logits (B, Q), uniform (B,) in [0, 1) -> classes (B,) int64.

    The rule, in this order:

    1. Temperature 0 and top_k 1 take the most likely class, of equally likely ones the first.
    2. top_k keeps the k most likely classes, and all that are equal to the k-th.
    3. softmax(logits / temperature) over the classes kept gives their probabilities, in float32.
    4. top_p keeps the shortest prefix of the classes, ordered by decreasing probability and, for equal probabilities,
       by increasing index, whose probability reaches p; at least one class (nucleus sampling, Holtzman et al., arXiv
       1904.09751). A p up to the largest probability is therefore greedy.
    5. The class is found by inverting the cumulative distribution, in the order of the indices, at `uniform` times its
       total.
    """
    if sampling.greedy:
        return logits.argmax(1)
    logits = logits.float()
    if sampling.top_k is not None and sampling.top_k < logits.shape[1]:
        threshold = logits.topk(sampling.top_k, dim=1).values[:, -1:]
        logits = logits.masked_fill(logits < threshold, float("-inf"))
    # the largest is subtracted first: a tiny temperature must not turn all of them into infinities
    probabilities = torch.softmax((logits - logits.amax(1, keepdim=True)) / sampling.temperature, 1)
    if sampling.top_p is not None and sampling.top_p < 1:
        probabilities = nucleus(probabilities, sampling.top_p)
    cumulative = probabilities.cumsum(1)
    # scaled by the total, which rounding and top_p leave below 1; "right" skips classes of probability 0
    found = torch.searchsorted(cumulative, (uniform[:, None] * cumulative[:, -1:]), right=True)
    return found.squeeze(1).clamp(max=logits.shape[1] - 1)


def nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """(B, Q) -> the same with 0 for all classes outside the smallest set that reaches top_p (rule 4 of `draw`)."""
    ordered, order = probabilities.sort(dim=1, descending=True, stable=True)
    more_likely = F.pad(ordered.cumsum(1)[:, :-1], (1, 0), value=-1.0)  # -1: the first one is kept for any p
    kept = ordered.masked_fill(more_likely >= top_p, 0.0)
    return torch.zeros_like(probabilities).scatter(1, order, kept)
