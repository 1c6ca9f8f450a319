"""Train, valid and test: a split by utterance within each speaker."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple, TypeVar

from vqaudio.data.manifest import Utterance

Item = TypeVar("Item")


class Split(NamedTuple):
    train: list[Utterance]
    valid: list[Utterance]
    test: list[Utterance]


def split(
    utterances: Iterable[Utterance],
    *,
    valid: float = 0.05,
    test: float = 0.05,
    seed: int = 0,
    held_out: Collection[str] = (),
) -> Split:
    """Split by utterance within each speaker; the order of listing does not matter.

    `valid` and `test` are shares of each speaker's utterances, rounded. A speaker with 3 or more
    has at least one in valid, with 4 or more one in test (unless the share is 0), and every
    speaker keeps one in train, unless a share is 1: a corpus that is not trained on. Speakers may
    read the same sentence on both sides. `held_out`: names of speakers, and ids of utterances, that go into test
    before the others are split.
    """
    check_fractions(valid, test)
    by_speaker: dict[str, list[Utterance]] = defaultdict(list)
    parts, held_out = Split([], [], []), frozenset(held_out)
    for utterance in utterances:
        chosen = parts.test if {utterance.speaker, utterance.id} & held_out else by_speaker[utterance.speaker]
        chosen.append(utterance)
    for _, own in sorted(by_speaker.items()):
        for part, share in zip(parts, split_group(own, lambda u: u.id, valid=valid, test=test, seed=seed), strict=True):
            part.extend(share)
    for part in parts:
        part.sort(key=lambda u: (u.speaker, u.id))
    return parts


def split_group(
    group: Iterable[Item], id_of: Callable[[Item], str], *, valid: float, test: float, seed: int
) -> tuple[list[Item], list[Item], list[Item]]:
    """(train, valid, test) of one speaker's utterances, or of one class's images, as `split` says; in no order."""
    # Ordered by a hash, so that the draw knows nothing of listing order or other speakers.
    own = sorted(group, key=lambda item: hashlib.sha256(f"{seed}/{id_of(item)}".encode()).digest())
    num_valid = _rounded_count(len(own), valid, at_least_one_from=3)
    num_test = _rounded_count(len(own), test, at_least_one_from=4)
    most = len(own) if 1 in (valid, test) else len(own) - 1
    num_valid = min(num_valid, most)
    num_test = min(num_test, most - num_valid)
    return own[num_valid + num_test :], own[:num_valid], own[num_valid : num_valid + num_test]


def check_fractions(valid: float, test: float) -> None:
    """Raises ValueError for shares below 0, or of 1 and more together; one of them may be 1 if the other is 0."""
    if not (valid >= 0 and test >= 0 and (valid + test < 1 or (valid, test) in ((0, 1), (1, 0)))):
        raise ValueError(
            f"valid and test must be at least 0 and below 1 together, got {valid} and {test}; 1 of one is for a corpus "
            "that is not trained on, and needs 0 of the other"
        )


def _rounded_count(count: int, share: float, *, at_least_one_from: int) -> int:
    rounded = int(count * share + 0.5)
    return max(rounded, 1) if share > 0 and count >= at_least_one_from else rounded
