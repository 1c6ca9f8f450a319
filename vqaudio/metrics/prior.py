"""What a prior over speech codes has learned, on utterances that it was not trained on.

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
    """Utterances, and the shares (K,) of the codes that it was trained on -> figures, in bits per code; float32.

    bits_per_code: under the prior, told who speaks; bits_null_speaker: not told, where it knows speakers; label_gap: told
    another speaker instead, less bits_per_code, where it knows several. unigram_bits: what the codes cost by their
    shares alone: a prior that is no better has learned nothing. uniform_bits: log2 K.
    """

    def told(speaker_ids: np.ndarray) -> float:
        return float(prior_bits(replace(found, speaker_ids=speaker_ids), prior).sum() / found.num_codes)

    own, nobody = found.speaker_ids, prior.null_speaker
    figures = {
        "bits_per_code": told(own),
        "unigram_bits": float(-np.log2(unigram)[np.concatenate(found.codes)].mean()),
        "uniform_bits": math.log2(found.codebook_size),
    }
    if prior.cfg.speakers:
        figures["bits_null_speaker"] = told(np.full_like(own, nobody))
    if len(prior.cfg.speakers) > 1:
        figures["label_gap"] = told((own + 1) % nobody) - figures["bits_per_code"]
    return figures
