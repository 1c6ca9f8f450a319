"""Metrics of a prior over speech codes on held-out utterances.

Letters: K codebook size.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from vqaudio.metrics.bitrate import Bits, prior_bits
from vqaudio.speech.prior import CodePrior
from vqaudio.tokens.chunks import CodeSequences


def code_prior_metrics(prior: CodePrior, found: CodeSequences, unigram: Bits) -> dict[str, float]:
    """Utterances, and code probabilities (K,) of the training utterances -> metrics in bits per code, in float32.

    bits_per_code: under the prior, given the speaker. bits_null_speaker: given the null speaker, if the prior has
    speakers. label_gap: increase of bits_per_code when another speaker is given, if it has several. unigram_bits: under
    the code probabilities alone, which a trained prior must beat. uniform_bits: log2 K.
    """

    def bits_per_code(speaker_ids: np.ndarray) -> float:
        return float(prior_bits(replace(found, speaker_ids=speaker_ids), prior).sum() / found.num_codes)

    own, null_speaker = found.speaker_ids, prior.null_speaker
    metrics = {
        "bits_per_code": bits_per_code(own),
        "unigram_bits": float(-np.log2(unigram)[np.concatenate(found.codes)].mean()),
        "uniform_bits": math.log2(found.codebook_size),
    }
    if prior.cfg.speakers:
        metrics["bits_null_speaker"] = bits_per_code(np.full_like(own, null_speaker))
    if len(prior.cfg.speakers) > 1:
        metrics["label_gap"] = bits_per_code((own + 1) % null_speaker) - metrics["bits_per_code"]
    return metrics
