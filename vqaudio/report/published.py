"""What others measured: for a sense of scale beside our figures, never as a ranking.

Other data, other rates, often other rules. Each number names where it was published.
"""

from __future__ import annotations

from typing import NamedTuple


class Published(NamedTuple):
    question: str  # key of the question that it belongs to
    name: str
    value: float
    unit: str
    source: str
    note: str


PAPER = "van den Oord et al., Neural Discrete Representation Learning, arXiv 1711.00937, section 4.2"
ZEROSPEECH = "Dunbar et al., The Zero Resource Speech Challenge 2019, arXiv 1904.11469"
NIEKERK = "van Niekerk, Nortje and Kamper, ZeroSpeech 2020, arXiv 2005.09409"
PUBLISHED = (
    Published("phones", "accuracy, VQ-VAE", 0.493, "share", PAPER, "41 classes, 25 Hz, 128 codes, LibriSpeech"),
    Published("phones", "accuracy, the prior's best guess", 0.072, "share", PAPER, "41 classes"),
    Published("abx", "abx_across, baseline", 0.356, "share", ZEROSPEECH, "English, triphones, test"),
    Published("abx", "abx_across, VQ-VAE + WaveNet", 0.203, "share", ZEROSPEECH, "English; a submission"),
    Published("abx", "abx_across, log-mel VQ-VAE", 0.140, "share", NIEKERK, "English, 412 bits per second"),
    Published("bits", "log-mel VQ-VAE", 412, "bits/s", NIEKERK, "English, by the convention of the challenge"),
)
