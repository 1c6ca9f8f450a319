"""Naturalness: DNSMOS P.835 (Reddy, Gopal and Cutler, 2022, arXiv 2110.01763), a network that predicts opinion scores.

It predicts the mean opinion scores, from 1 to 5, that listeners give after ITU-T P.835: of the speech alone, of the
background alone, and of the whole. Its published polynomials end at 4.0, 4.4 and 3.9, and clean recordings have about
3.2 overall. It was trained on the output of noise suppressors, where it correlates with listeners by 0.94 (speech) and
0.98 (background, whole) once averaged over all clips of a system: compare systems, not utterances. It has not been
validated on vocoders or on voice conversion, and does not measure intelligibility or speaker similarity.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from vqaudio.metrics.confidence import Estimate, mean
from vqaudio.metrics.waveform import SAMPLE_RATE, Wav, standardised

SCORES = {"mos_overall": "ovrl_mos", "mos_signal": "sig_mos", "mos_background": "bak_mos"}  # ours: those of speechmos
WINDOW = 144_160  # samples that the network takes at once: 9.01 s
SHORTEST = 0.1  # seconds


def naturalness_metrics(wavs: Sequence[Wav], sample_rate: int) -> dict[str, Estimate]:
    """Waveforms [(T,), ...] at any level -> mos_overall, mos_signal and mos_background, with intervals over waveforms.

    Audio that is silent or shorter than 0.1 s counts as 1, the lowest score: a system must not gain by silence.
    Raises ValueError for no waveforms and for what is not mono audio of finite samples; ModuleNotFoundError without
    speechmos.
    """
    scores = [_scores(wav, sample_rate) for wav in wavs]
    return {name: mean([own[name] for own in scores]) for name in SCORES}


def _scores(wav: Wav, sample_rate: int) -> dict[str, float]:
    """Of one waveform. Longer ones are averaged over windows, one every second; shorter ones are repeated to a window.

    The published program repeats up to twice as far, takes four times as long for it, and differs by 0.03 (root mean
    square over utterances of 2 to 9 s; 0.003 on average).
    """
    try:
        from speechmos import dnsmos
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("naturalness needs speechmos: pip install 'vqaudio[metrics]'") from error
    samples = standardised(wav, sample_rate)
    if len(wav) < SHORTEST * sample_rate or not samples.any():
        return dict.fromkeys(SCORES, 1.0)
    found: Any = dnsmos.run(np.resize(samples, max(len(samples), WINDOW)), sr=SAMPLE_RATE)
    return {name: float(found[key]) for name, key in SCORES.items()}
