"""What a report compares: systems that produce codes, and kinds of audio. The values are the names that it prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vqaudio.metrics.kmeans_baseline import FeatureKind

MODEL = "tokens"  # codes of the model under evaluation
RANDOM = "random codes"
KMEANS: dict[str, FeatureKind] = {"k-means log-mel": "log_mel", "k-means MFCC": "mfcc"}  # baselines without a network
ORIGINAL, RECONSTRUCTION, CONVERSION = "original", "reconstruction", "conversion"  # kinds of audio


class NotApplicableError(Exception):
    """A task cannot be computed for this model on this set; the message is the reason that the report gives."""
