from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vqaudio.data.manifest import Utterance
from vqaudio.data.splits import split


def _corpus(counts: dict[str, int]) -> list[Utterance]:
    return [
        Utterance(f"{speaker}_{i}", Path(f"{i}.wav"), speaker, 1.0)
        for speaker, count in counts.items()
        for i in range(count)
    ]


corpora = st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 40), max_size=4).map(_corpus)
shares = st.floats(0, 0.49)


@given(corpora, shares, shares, st.integers(0, 10), st.randoms(use_true_random=False))
def test_split_is_a_partition_that_ignores_listing_order(utterances, valid, test, seed, random) -> None:
    parts = split(utterances, valid=valid, test=test, seed=seed)
    joined = sorted((u for part in parts for u in part), key=lambda u: u.id)
    assert joined == sorted(utterances, key=lambda u: u.id)
    shuffled = utterances.copy()
    random.shuffle(shuffled)
    assert split(shuffled, valid=valid, test=test, seed=seed) == parts


@given(corpora, shares, shares)
def test_every_speaker_is_split_by_the_fractions(utterances, valid, test) -> None:
    parts = split(utterances, valid=valid, test=test)
    for speaker in {u.speaker for u in utterances}:
        train, val, tst = (sum(u.speaker == speaker for u in part) for part in parts)
        count = train + val + tst
        assert train >= 1
        assert (val >= 1) if valid > 0 and count >= 3 else True
        assert (tst >= 1) if test > 0 and count >= 4 else True
        assert val == 0 if valid == 0 else abs(val - valid * count) <= 1
        assert tst == 0 if test == 0 else abs(tst - test * count) <= 1


def test_other_speakers_do_not_change_a_speakers_split() -> None:
    alone = split(_corpus({"a": 30}), valid=0.2, test=0.1)
    together = split(_corpus({"b": 7, "a": 30}), valid=0.2, test=0.1)
    for left, right in zip(alone, together, strict=True):
        assert left == [u for u in right if u.speaker == "a"]


def test_seed_changes_the_split() -> None:
    utterances = _corpus({"a": 50})
    assert split(utterances, seed=0) == split(utterances)
    assert split(utterances, seed=1) != split(utterances)


def test_a_corpus_to_be_evaluated_on_alone() -> None:
    utterances = _corpus({"a": 30, "b": 1})
    assert split(utterances, valid=0, test=1) == ([], [], sorted(utterances, key=lambda u: (u.speaker, u.id)))


def test_held_out_utterances_are_in_the_test_split() -> None:
    utterances = _corpus({"a": 30, "b": 4})
    one = next(u.id for u in utterances if u.speaker == "a")
    parts = split(utterances, valid=0.1, test=0, held_out=["b", one, "of another corpus"])
    assert {u.id for u in parts.test} == {one, *(u.id for u in utterances if u.speaker == "b")}
    assert len(parts.valid) == 3 and len(parts.train) == 26


@pytest.mark.parametrize(("valid", "test"), [(-0.1, 0.1), (0.5, 0.5), (0.1, 1), (0.1, float("nan"))])
def test_fractions_are_checked(valid, test) -> None:
    with pytest.raises(ValueError, match="at least 0 and below 1 together"):
        split([], valid=valid, test=test)
