"""Train, valid and test splits, by utterance within each speaker."""

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
    """Split by utterance within each speaker, independently of the order of `utterances`.

    A sentence that several speakers read may occur in more than one split.

    Args:
        utterances: the corpus
        valid: fraction of each speaker's utterances, rounded; at least one for speakers with 3 or more utterances
        test: likewise; at least one for speakers with 4 or more utterances. Every speaker keeps one utterance in train,
            unless one of the fractions is 1 (a corpus that is only evaluated on)
        seed: of the split
        held_out: speakers, and ids of utterances, that go to test before the others are split

    Raises:
        ValueError: fractions as in `check_fractions`
    """
    check_fractions(valid, test)
    by_speaker: dict[str, list[Utterance]] = defaultdict(list)
    parts, held_out = Split([], [], []), frozenset(held_out)
    for utterance in utterances:
        chosen = parts.test if {utterance.speaker, utterance.id} & held_out else by_speaker[utterance.speaker]
        chosen.append(utterance)
    for _, own in sorted(by_speaker.items()):
        for part, members in zip(
            parts, split_group(own, lambda u: u.id, valid=valid, test=test, seed=seed), strict=True
        ):
            part.extend(members)
    for part in parts:
        part.sort(key=lambda u: (u.speaker, u.id))
    return parts


def split_group(
    group: Iterable[Item], id_of: Callable[[Item], str], *, valid: float, test: float, seed: int
) -> tuple[list[Item], list[Item], list[Item]]:
    """(train, valid, test) of the utterances of one speaker or the images of one class, as in `split`; unordered."""
    # ordered by a hash, so that the split depends neither on the listing order nor on other speakers
    own = sorted(group, key=lambda item: hashlib.sha256(f"{seed}/{id_of(item)}".encode()).digest())
    num_valid = _rounded_count(len(own), valid, at_least_one_from=3)
    num_test = _rounded_count(len(own), test, at_least_one_from=4)
    most = len(own) if 1 in (valid, test) else len(own) - 1
    num_valid = min(num_valid, most)
    num_test = min(num_test, most - num_valid)
    return own[num_valid + num_test :], own[:num_valid], own[num_valid : num_valid + num_test]


def check_fractions(valid: float, test: float) -> None:
    """Raise ValueError unless both fractions are at least 0 and their sum is below 1, or one is 1 and the other 0."""
    if not (valid >= 0 and test >= 0 and (valid + test < 1 or (valid, test) in ((0, 1), (1, 0)))):
        raise ValueError(
            f"valid and test must be at least 0 and below 1 together, got {valid} and {test}; for a corpus "
            "that is only evaluated on, set one of them to 1 and the other to 0"
        )


def _rounded_count(count: int, fraction: float, *, at_least_one_from: int) -> int:
    rounded = int(count * fraction + 0.5)
    return max(rounded, 1) if fraction > 0 and count >= at_least_one_from else rounded
