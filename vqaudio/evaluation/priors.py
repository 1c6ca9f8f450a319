"""What a prior over speech codes has learned, on utterances that it was not trained on.

Letters: B batch, N codes, K codebook size.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vqaudio.models.prior import CodePrior
from vqaudio.tokens.chunks import CodeSequences, whole_utterances

CODES_AT_ONCE = 2**14


@torch.no_grad()
def code_prior_figures(prior: CodePrior, found: CodeSequences, unigram: Tensor) -> dict[str, float]:
    """Utterances, and the shares (K,) of the codes that it was trained on -> figures, in bits per code; float32.

    bits_per_code: under the prior, told who speaks; bits_unknown: not told, gap_labels: told the batch's next speaker
    instead, less bits_per_code (both where it knows speakers). unigram_bits: what the codes cost by their shares alone:
    a prior that is no better has learned nothing. uniform_bits: log2 K.
    """
    if prior.training:
        raise RuntimeError("the prior is in training mode; call prior.eval() before it is evaluated")
    device = prior.net.out.weight.device
    nats = torch.zeros(3, dtype=torch.float64)
    for batch in whole_utterances(found, CODES_AT_ONCE):
        codes, speaker, lengths = (batch[name].to(device) for name in ("codes", "speaker", "lengths"))
        nats[0] += prior.nll(codes, speaker, lengths).double().sum().cpu()
        if prior.cfg.speakers:
            nats[1] += prior.nll(codes, torch.full_like(speaker, prior.nobody), lengths).double().sum().cpu()
            nats[2] += prior.nll(codes, (speaker + 1) % prior.nobody, lengths).double().sum().cpu()
    told, unknown, other = (nats / found.num_codes / math.log(2)).tolist()
    costs = -unigram.double().log2()
    figures = {
        "bits_per_code": told,
        "unigram_bits": sum(costs[torch.from_numpy(c)].sum().item() for c in found.codes) / found.num_codes,
        "uniform_bits": math.log2(found.codebook_size),
    }
    return figures | ({"bits_unknown": unknown, "gap_labels": other - told} if prior.cfg.speakers else {})


def shares(found: CodeSequences) -> Tensor:
    """(K,): how often each code occurs, one added to every count so that no code is impossible."""
    counts = torch.ones(found.codebook_size)
    for codes in found.codes:
        counts += torch.bincount(torch.from_numpy(codes), minlength=found.codebook_size)
    return counts / counts.sum()
