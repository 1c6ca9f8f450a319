"""Evaluation sets: manifests, their phone alignments, and subsets of their utterances."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from vqaudio.data.alignments import Segment, write_alignments
from vqaudio.data.manifest import Utterance
from vqaudio.report.datasets import EvaluationSet, open_sets, round_robin, spread


def _utterance(id: str, speaker: str = "anna", text: str | None = None) -> Utterance:
    return Utterance(id, Path(f"/audio/{id}.wav"), speaker, 1.5, text)


@pytest.fixture
def corpus(tmp_path: Path, write_manifest: Callable[..., None]) -> Path:
    """A folder of `vqaudio prepare`."""
    (tmp_path / "corpus").mkdir()
    write_manifest(tmp_path / "corpus/test.jsonl", [_utterance("a1", text="so"), _utterance("b1", "bert")])
    write_manifest(tmp_path / "corpus/train.jsonl", [_utterance("a2")])
    return tmp_path / "corpus"


def test_a_prepared_folder_brings_its_training_utterances_and_a_manifest_none(
    corpus: Path, tmp_path: Path, write_manifest: Callable[..., None]
) -> None:
    (one,) = open_sets([corpus], [], 16000)
    assert (one.name, one.speakers, one.seconds) == ("corpus", ["anna", "bert"], 3.0)
    assert [u.id for u in one.training] == ["a2"] and one.available == ["texts", "training"]
    write_manifest(tmp_path / "few.jsonl", [_utterance("c1")])
    first, second = open_sets([corpus, tmp_path / "few.jsonl"], [], 16000)
    assert (first.name, second.name, second.training, second.available) == ("corpus", "few", [], [])


def test_phones_go_to_the_set_whose_utterances_they_are_of(
    corpus: Path, tmp_path: Path, write_manifest: Callable[..., None]
) -> None:
    write_manifest(tmp_path / "few.jsonl", [_utterance("c1")])
    phones = {"b1": [Segment(0.0, 0.5, "s")], "c1": [Segment(0.1, 0.2, "iy")], "d": [Segment(0.1, 0.2, "iy")]}
    write_alignments(tmp_path / "phones.tsv", phones)
    first, second = open_sets([corpus, tmp_path / "few.jsonl"], [tmp_path / "phones.tsv"], 16000)
    assert first.alignments == {"b1": phones["b1"]} and second.alignments == {"c1": phones["c1"]}
    assert "phones" in first.available


def test_utterances_without_labels_are_counted(corpus: Path, tmp_path: Path) -> None:
    (one,) = open_sets([corpus], [], 16000)
    assert one.unlabelled == {"texts": 1}  # no set of labels at all is not worth a sentence: see `available`
    write_alignments(tmp_path / "phones.tsv", {"b1": [Segment(0.0, 0.5, "s")]})
    (one,) = open_sets([corpus], [tmp_path / "phones.tsv"], 16000)
    assert one.unlabelled == {"texts": 1, "phones": 1}
    assert one.limited(1).unlabelled == {}
    blank = replace(one, utterances=[_utterance("b1", text=" ..."), _utterance("b2", text="so")])
    assert blank.unlabelled == {"texts": 1, "phones": 1}


def test_what_is_no_set_is_refused(corpus: Path, tmp_path: Path, write_manifest: Callable[..., None]) -> None:
    with pytest.raises(FileNotFoundError, match=f"there is no manifest {tmp_path}/test.jsonl"):
        open_sets([tmp_path], [], 16000)
    (tmp_path / "other/corpus").mkdir(parents=True)
    write_manifest(tmp_path / "other/corpus/test.jsonl", [_utterance("c1")])
    with pytest.raises(ValueError, match="two sets are called 'corpus'"):
        open_sets([corpus, tmp_path / "other/corpus"], [], 16000)
    write_manifest(tmp_path / "again.jsonl", [_utterance("a1")])
    with pytest.raises(ValueError, match="the id 'a1' is in two sets"):
        open_sets([corpus, tmp_path / "again.jsonl"], [], 16000)
    write_manifest(tmp_path / "empty.jsonl", [])
    with pytest.raises(ValueError, match="has no utterances"):
        open_sets([tmp_path / "empty.jsonl"], [], 16000)


def test_items_are_spread_over_their_groups_and_keep_their_order() -> None:
    items = ["a1", "a2", "a3", "b1", "c1", "c2"]
    assert spread(items, 4, lambda item: item[0]) == ["a1", "a2", "b1", "c1"]
    assert spread(items, 5, lambda item: item[0]) == ["a1", "a2", "b1", "c1", "c2"]
    assert spread(items, 9, lambda item: item[0]) == items
    assert spread(items, 0, lambda item: item[0]) == []
    assert round_robin(items, lambda item: item[0]) == ["a1", "b1", "c1", "a2", "c2", "a3"]


def test_a_limited_set_keeps_the_utterances_with_phones_first() -> None:
    utterances = [_utterance(f"a{i}") for i in range(4)] + [_utterance("b0", "bert")]
    whole = EvaluationSet("s", utterances, [], {"a3": [Segment(0, 1, "s")]}, 16000)
    assert [u.id for u in whole.limited(2).utterances] == ["a0", "a3"]
    assert [u.id for u in whole.limited(3).utterances] == ["a0", "a3", "b0"]
    assert whole.limited(1).alignments == whole.alignments and whole.limited(9) == replace(whole)
