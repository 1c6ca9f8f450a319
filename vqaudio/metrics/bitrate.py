"""Bitrates of tokens in bits per second of audio, under increasingly strong models of the code sequence.

nominal   log2 K bits per code
unigram   code frequencies
bigram    frequencies of pairs of successive codes
merged    unigram after runs of equal codes have been merged: the rule of the ZeroSpeech challenges
prior     negative log-likelihood under a CodePrior

`unigram` and `bigram` are empirical entropies of the evaluated utterances themselves and therefore too low, the bigram
by much on little speech. `unigram_trained` and `bigram_trained` use counts of training utterances: these are what the
prior should be compared with.

Letters: U utterances, N codes of one, K codebook size.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from vqaudio.metrics.confidence import Estimate, ratio
from vqaudio.nn.modes import check_evaluating
from vqaudio.speech.prior import CodePrior
from vqaudio.tokens.chunks import CodeSequences, sequences, whole_utterances
from vqaudio.tokens.rows import TokenRow

Codes = npt.NDArray[np.int64]
Bits = npt.NDArray[np.float64]
CODES_AT_ONCE = 2**14  # in a batch of the prior


class Rate(NamedTuple):
    """One bitrate, with the 95 % interval of `confidence.ratio` over utterances."""

    bits_per_second: float  # of audio
    low: float
    high: float
    count: int  # utterances
    bits_per_code: float  # of the original codes, also where runs were merged

    @property
    def estimate(self) -> Estimate:
        """In bits per second."""
        return Estimate(*self[:4])


class Bitrates(NamedTuple):
    """Rates by name."""

    overall: dict[str, Rate]
    by_speaker: dict[str | None, dict[str, Rate]]  # None: rows without a speaker


def bitrates(
    rows: Iterable[TokenRow],
    codebook_size: int,
    *,
    training: CodeSequences | None = None,
    prior: CodePrior | None = None,
) -> Bitrates:
    """Token rows of one model with codes in 0..K-1 -> all rates that can be computed.

    `training`: utterances of the same model, for the rates whose names end in _trained. The prior is given the speaker
    if it has that speaker, else the null speaker. A speaker's rates use counts of all utterances. The intervals are
    over utterances, with the counts kept fixed. Raises ValueError for no rows, for rows, training or a prior of several
    models or K, and for codes out of range; RuntimeError for a prior in training mode.
    """
    rows = list(rows)
    if not rows:
        raise ValueError("there are no token rows")
    known = prior.cfg.speakers if prior is not None else ()
    found = sequences(rows, known, codebook_size, rows[0].tokens.model)
    makers = [] if training is None else [("training utterances have", training.model, training.codebook_size)]
    makers += [] if prior is None else [("prior has", prior.cfg.model, prior.cfg.net.num_classes)]
    for name, model, size in makers:
        if (model, size) != (found.model, codebook_size):
            raise ValueError(
                f"the {name} {size} codes of model {model}, the rows {codebook_size} of model {found.model}; "
                "take all from one tokenizer"
            )
    bits = {
        "nominal": np.array([len(own) * math.log2(codebook_size) for own in found.codes]),
        "unigram": unigram_bits(found.codes),
        "bigram": bigram_bits(found.codes),
        "merged": merged_bits(found.codes),
    }
    if training is not None:
        bits["unigram_trained"] = unigram_bits(found.codes, training)
        bits["bigram_trained"] = bigram_bits(found.codes, training)
    if prior is not None:
        bits["prior"] = prior_bits(found, prior)
    seconds = np.array([row.tokens.seconds for row in rows])
    lengths = np.array([len(own) for own in found.codes])
    speakers: dict[str | None, list[int]] = {}
    for u, row in enumerate(rows):
        speakers.setdefault(row.speaker, []).append(u)
    names = sorted(speakers, key=lambda name: (name is None, name or ""))
    return Bitrates(
        _rates(bits, seconds, lengths, list(range(len(rows)))),
        {name: _rates(bits, seconds, lengths, speakers[name]) for name in names},
    )


def smoothed_unigram(found: CodeSequences) -> Bits:
    """Probabilities (K,) of the codes, with add-one smoothing so that none is 0."""
    return _normalised(np.bincount(_joined(found.codes), minlength=found.codebook_size) + 1)


def unigram_bits(codes: Sequence[Codes], training: CodeSequences | None = None) -> Bits:
    """Sequences (N,) -> (U,) bits under their own code frequencies, or under the smoothed ones of `training`."""
    costs = _costs(_normalised(np.bincount(_joined(codes))) if training is None else smoothed_unigram(training))
    return np.array([costs[own].sum() for own in codes])


def bigram_bits(codes: Sequence[Codes], training: CodeSequences | None = None) -> Bits:
    """Sequences (N,) -> (U,) bits under their own bigrams, or under smoothed ones of `training`; first codes: unigram.

    Smoothed, a pair (b, c) has the probability (n(b, c) + t(b) p(c)) / (n(b) + t(b)): n pairs in the training
    utterances, t(b) the number of different codes that follow b, p the unigram; where nothing follows b it is p(c).
    This is the interpolation of Witten and Bell (1991; Chen and Goodman, 1999, section 2.5): the rarer and the more
    varied a context, the larger the weight of the unigram. It has no parameter to tune.
    """
    if training is None:
        alone = _normalised(np.bincount(_joined(codes)))
        counted, smooth = codes, False
    else:
        alone = smoothed_unigram(training)
        counted, smooth = training.codes, True
    size = len(alone)
    pairs, times = np.unique(_joined([own[:-1] * size + own[1:] for own in counted]), return_counts=True)
    before = np.bincount(pairs // size, times, minlength=size)  # pairs that begin with each code
    different = np.bincount(pairs // size, minlength=size) * float(smooth)

    def cost(own: Codes) -> float:
        wanted = own[:-1] * size + own[1:]
        place = np.searchsorted(pairs, wanted)
        seen = np.append(pairs, -1)[place] == wanted
        count = np.where(seen, np.append(times, 0)[place], 0)
        begun, kinds = before[own[:-1]], different[own[:-1]]
        mixed = count + kinds * alone[own[1:]]
        chance = np.where(begun > 0, mixed / np.maximum(begun + kinds, 1), alone[own[1:]])
        return float(-np.log2(alone[own[:1]]).sum() - np.log2(chance).sum())

    return np.array([cost(own) for own in codes])


def merged_bits(codes: Sequence[Codes]) -> Bits:
    """Sequences (N,) -> (U,) bits of their runs: a run of equal codes is one symbol, and its length is discarded.

    The bitrate of the ZeroSpeech challenges (Dunbar et al., arXiv 1904.11469) is the number of symbols times the
    entropy of their distribution, over the seconds of audio. Merging runs first is the segment bitrate, or lossy
    run-length coding, that the authors of ResDAVEnet-VQ (Harwath, Hsu and Glass, arXiv 1911.09602) added to the
    challenge's script. The codes cannot be recovered at this rate; it is for comparison with published results.
    """
    return unigram_bits([merged(own) for own in codes])


def merged(codes: Codes) -> Codes:
    """(N,) -> one code per run of equal codes."""
    return codes[np.append(True, codes[1:] != codes[:-1])[: len(codes)]]


@torch.no_grad()
def prior_bits(found: CodeSequences, prior: CodePrior) -> Bits:
    """Sequences, with speaker indices of the prior -> (U,) bits under the prior, computed in padded batches."""
    check_evaluating(prior, "prior")
    device, bits = prior.net.out.weight.device, np.zeros(len(found.codes))
    for own, batch in whole_utterances(found, CODES_AT_ONCE):
        nats = prior.nll(**{name: value.to(device) for name, value in batch.items()})
        bits[own] = nats.double().cpu().numpy() / math.log(2)
    return bits


def _joined(codes: Iterable[Codes]) -> Codes:
    return np.concatenate(list(codes))


def _normalised(counts: npt.NDArray[np.int64]) -> Bits:
    return counts / counts.sum()


def _costs(alone: Bits) -> Bits:
    """Probabilities of codes -> bits of each; 0 for codes that do not occur, which are never looked up."""
    return -np.log2(alone, where=alone > 0, out=np.zeros_like(alone))


def _rates(bits: dict[str, Bits], seconds: Bits, lengths: npt.NDArray[np.int64], chosen: list[int]) -> dict[str, Rate]:
    """Bits (U,) by rate, seconds (U,), numbers of codes (U,), and the utterances to take -> rates."""
    count = lengths[chosen].sum()
    return {
        name: Rate(*ratio(costs[chosen], seconds[chosen]), float(costs[chosen].sum() / count))
        for name, costs in bits.items()
    }
