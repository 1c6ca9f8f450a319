"""What the tokens of speech cost, in bits per second, by ever better models of the codes.

nominal   log2 K for every code
unigram   by how often each code occurs
bigram    by how often it follows the one before it
merged    the convention of the ZeroSpeech challenges, on runs of one code
prior     under a CodePrior

`unigram` and `bigram` are entropies: their shares are counted on the very utterances that they cost, so they flatter,
the bigram by much where there are few. `unigram_trained` and `bigram_trained` are what the same utterances cost under
shares counted on others, the training utterances: with those the prior is to be compared.

Letters: U utterances, K codes, R rates.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from vqaudio.speech.prior import CodePrior
from vqaudio.tokens.chunks import CodeSequences, sequences, whole_utterances
from vqaudio.tokens.rows import TokenRow

Codes = npt.NDArray[np.int64]
Bits = npt.NDArray[np.float64]
DRAWS = 1000  # of the bootstrap
CODES_AT_ONCE = 2**14  # of a prior's batches


class Rate(NamedTuple):
    """One price of the tokens."""

    bits_per_second: float  # of audio
    low: float  # of its 95 % interval: utterances are drawn again and again (percentile bootstrap)
    high: float
    bits_per_code: float  # of the codes as they are, merged or not


class Bitrates(NamedTuple):
    """The rates side by side, by their names."""

    overall: dict[str, Rate]
    by_speaker: dict[str | None, dict[str, Rate]]  # None: rows that name none


def bitrates(
    rows: Iterable[TokenRow],
    codebook_size: int,
    *,
    training: CodeSequences | None = None,
    prior: CodePrior | None = None,
) -> Bitrates:
    """Token rows of one model with codes in 0..K-1 -> all rates that can be told.

    `training`: utterances of the same model, for the rates whose names end in _trained. The prior is told who speaks
    where it knows the speaker, and else that it is nobody. A speaker's rates are what that speaker's utterances cost
    under counts of all utterances. The intervals say what other utterances would have cost under the same counts; of a
    single one they are a point. Raises ValueError for no rows, rows, training or a prior of several models or K, and
    codes out of range; RuntimeError for a prior in training mode.
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


def shares(found: CodeSequences) -> Bits:
    """(K,): how often each code occurs, one added to every count so that no code is impossible."""
    return _shares(np.bincount(_joined(found.codes), minlength=found.codebook_size) + 1)


def unigram_bits(codes: Sequence[Codes], training: CodeSequences | None = None) -> Bits:
    """Sequences (N,) -> (U,) bits by the shares of the codes in them; or in `training`, 1 added to each count."""
    costs = _costs(_shares(np.bincount(_joined(codes))) if training is None else shares(training))
    return np.array([costs[own].sum() for own in codes])


def bigram_bits(codes: Sequence[Codes], training: CodeSequences | None = None) -> Bits:
    """Sequences (N,) -> (U,) bits by what follows what in them, the first code of each by its share; or in `training`.

    There a pair (b, c) has the probability (n(b, c) + t(b) p(c)) / (n(b) + t(b)): n pairs in the training utterances,
    t(b) how many different codes followed b in them, p the shares of `unigram_bits`; where nothing followed b it is
    p(c). This is the interpolation of Witten and Bell (1991; Chen and Goodman, 1999, section 2.5), in which the rarer
    a context and the more varied what follows it, the more the unigram has to say; it has no number to be tuned.
    """
    if training is None:
        alone = _shares(np.bincount(_joined(codes)))
        counted, smooth = codes, False
    else:
        alone = shares(training)
        counted, smooth = training.codes, True
    size = len(alone)
    pairs, times = np.unique(_joined([own[:-1] * size + own[1:] for own in counted]), return_counts=True)
    before = np.bincount(pairs // size, times, minlength=size)  # pairs that begin with each code
    different = np.bincount(pairs // size, minlength=size) * float(smooth)

    def cost(own: Codes) -> float:
        asked = own[:-1] * size + own[1:]
        place = np.searchsorted(pairs, asked)
        seen = np.append(pairs, -1)[place] == asked
        count = np.where(seen, np.append(times, 0)[place], 0)
        begun, kinds = before[own[:-1]], different[own[:-1]]
        mixed = count + kinds * alone[own[1:]]
        chance = np.where(begun > 0, mixed / np.maximum(begun + kinds, 1), alone[own[1:]])
        return float(-np.log2(alone[own[:1]]).sum() - np.log2(chance).sum())

    return np.array([cost(own) for own in codes])


def merged_bits(codes: Sequence[Codes]) -> Bits:
    """Sequences (N,) -> (U,) bits of their runs: a run of one code is one symbol, whose length is not told.

    The bitrate of the ZeroSpeech challenges (Dunbar et al., arXiv 1904.11469) is the number of symbols times the
    entropy of their shares over the seconds of audio, whatever a system calls a symbol. To merge the runs of codes at a
    fixed rate first is the segment bitrate, or lossy run-length coding, that the authors of ResDAVEnet-VQ (Harwath, Hsu
    and Glass, arXiv 1911.09602) added to the challenge's script. The codes themselves cannot be sent at this rate: it
    is to be placed beside published ones.
    """
    return unigram_bits([merged(own) for own in codes])


def merged(codes: Codes) -> Codes:
    """(N,) -> one code for each run of equal ones."""
    return codes[np.append(True, codes[1:] != codes[:-1])[: len(codes)]]


@torch.no_grad()
def prior_bits(found: CodeSequences, prior: CodePrior) -> Bits:
    """Sequences with the speakers' indices in the prior -> (U,) bits under it, computed in padded batches."""
    if prior.training:
        raise RuntimeError("the prior is in training mode; call prior.eval() before it is evaluated")
    device, bits = prior.net.out.weight.device, np.zeros(len(found.codes))
    for own, batch in whole_utterances(found, CODES_AT_ONCE):
        nats = prior.nll(**{name: value.to(device) for name, value in batch.items()})
        bits[own] = nats.double().cpu().numpy() / math.log(2)
    return bits


def _joined(codes: Iterable[Codes]) -> Codes:
    return np.concatenate(list(codes))


def _shares(counts: npt.NDArray[np.int64]) -> Bits:
    return counts / counts.sum()


def _costs(alone: Bits) -> Bits:
    """Shares of codes -> bits of each; what does not occur costs nothing, because it is never asked for."""
    return -np.log2(alone, where=alone > 0, out=np.zeros_like(alone))


def _rates(bits: dict[str, Bits], seconds: Bits, lengths: npt.NDArray[np.int64], own: list[int]) -> dict[str, Rate]:
    """Bits of each utterance by the rates' names, and which utterances -> their rates."""
    costs = np.stack([values[own] for values in bits.values()], axis=1)  # (U, R)
    time, total, generator = seconds[own], costs.sum(0), np.random.default_rng(0)
    draws = (generator.integers(len(own), size=len(own)) for _ in range(DRAWS))
    drawn = np.array([costs[draw].sum(0) / time[draw].sum() for draw in draws])  # (DRAWS, R)
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    count = lengths[own].sum()
    return {
        name: Rate(float(total[r] / time.sum()), float(low[r]), float(high[r]), float(total[r] / count))
        for r, name in enumerate(bits)
    }
