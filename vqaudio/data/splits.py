"""Train, valid and test: a split by utterance within each speaker."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from vqaudio.data.manifest import Utterance


class Split(NamedTuple):
    train: list[Utterance]
    valid: list[Utterance]
    test: list[Utterance]


def split(utterances: Iterable[Utterance], *, valid: float = 0.05, test: float = 0.05, seed: int = 0) -> Split:
    """Split by utterance within each speaker; the order of listing does not matter.

    `valid` and `test` are shares of each speaker's utterances, rounded. A speaker with 3 or more
    has at least one in valid, with 4 or more one in test (unless the share is 0), and every
    speaker keeps one in train. Speakers may read the same sentence on both sides.
    """
    if not (valid >= 0 and test >= 0 and valid + test < 1):
        raise ValueError(f"valid and test must be at least 0 and below 1 together, got {valid} and {test}")
    by_speaker: dict[str, list[Utterance]] = defaultdict(list)
    for utterance in utterances:
        by_speaker[utterance.speaker].append(utterance)
    parts = Split([], [], [])
    for _, own in sorted(by_speaker.items()):
        # Ordered by a hash, so that the draw knows nothing of listing order or other speakers.
        own.sort(key=lambda u: hashlib.sha256(f"{seed}/{u.id}".encode()).digest())
        num_valid = _share(len(own), valid, at_least_one_from=3)
        num_test = _share(len(own), test, at_least_one_from=4)
        num_valid = min(num_valid, len(own) - 1)
        num_test = min(num_test, len(own) - 1 - num_valid)
        parts.valid.extend(own[:num_valid])
        parts.test.extend(own[num_valid : num_valid + num_test])
        parts.train.extend(own[num_valid + num_test :])
    for part in parts:
        part.sort(key=lambda u: (u.speaker, u.id))
    return parts


def _share(count: int, share: float, *, at_least_one_from: int) -> int:
    rounded = int(count * share + 0.5)
    return max(rounded, 1) if share > 0 and count >= at_least_one_from else rounded
