"""What a report compares: systems that produce codes, and kinds of audio. The values are the names that it prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vqaudio.metrics.kmeans_baseline import FeatureKind
    from vqaudio.speech.vocoders import Vocoder

MODEL = "tokens"  # codes of the model under evaluation
RANDOM = "random codes"
KMEANS: dict[str, FeatureKind] = {"k-means log-mel": "log_mel", "k-means MFCC": "mfcc"}  # baselines without a network
RECONSTRUCTION, CONVERSION = "reconstruction", "conversion"  # in summaries: those of the model's default vocoder
# in the order of the report
TITLES: dict[Vocoder, str] = {"griffin-lim": "Griffin-Lim", "istft": "iSTFT", "wavenet": "WaveNet"}
ORIGINAL = "original"
INVERTED = f"{ORIGINAL} ({TITLES['griffin-lim']})"  # the original's log-mel spectrum as audio, without any code


def reconstruction(vocoder: Vocoder) -> str:
    """Name of the reconstructions by a vocoder."""
    return f"{RECONSTRUCTION} ({TITLES[vocoder]})"


def conversion(vocoder: Vocoder) -> str:
    """Name of the conversions by a vocoder."""
    return f"{CONVERSION} ({TITLES[vocoder]})"


class NotApplicableError(Exception):
    """A task cannot be computed for this model on this set; the message is the reason that the report gives."""
