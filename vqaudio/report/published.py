"""Published results, shown for orientation only, not as a ranking.

They were measured on other data, at other bitrates and often with other protocols; each names its source.
"""

from __future__ import annotations

from typing import NamedTuple


class Published(NamedTuple):
    task: str  # keys of the task and of the metric in the registry
    metric: str
    system: str
    value: float  # in the unit of the metric
    source: str
    note: str


PAPER = "van den Oord et al., Neural Discrete Representation Learning, arXiv 1711.00937, section 4.2"
ZEROSPEECH = "Dunbar et al., The Zero Resource Speech Challenge 2019, arXiv 1904.11469"
NIEKERK = "van Niekerk, Nortje and Kamper, ZeroSpeech 2020, arXiv 2005.09409"
PUBLISHED = (
    Published("phones", "accuracy", "VQ-VAE", 0.493, PAPER, "41 classes, 25 Hz, 128 codes, LibriSpeech"),
    Published("phones", "majority_accuracy", "prior", 0.072, PAPER, "best guess of the prior, 41 classes"),
    Published("abx", "abx_across", "challenge baseline", 0.356, ZEROSPEECH, "English, triphones, test set"),
    Published("abx", "abx_across", "VQ-VAE + WaveNet", 0.203, ZEROSPEECH, "English, submission to the challenge"),
    Published("abx", "abx_across", "log-mel VQ-VAE", 0.140, NIEKERK, "English, 412 bits per second"),
    Published("bitrate", "merged", "log-mel VQ-VAE", 412, NIEKERK, "English, bitrate as defined by the challenge"),
)
