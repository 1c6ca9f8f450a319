"""Every label of TIMIT and of the dictionary has one of 41 classes, and what has none is named."""

import os
from pathlib import Path
from typing import Any

import pytest

from vqaudio.data.alignments import Segment, find_alignments
from vqaudio.metrics.phone_classes import CLASSES, TABLE, fold

ROOT = Path(__file__).resolve().parents[2]
TIMIT = Path(os.environ.get("VQAUDIO_DATA", ROOT.parent / "shared" / "data")) / "timit8"
VOWELS = ("aa", "ae", "ah", "ao", "aw", "ax", "ax-h", "axr", "ay", "eh", "er", "ey", "ih", "ix", "iy", "ow", "oy")
STOPS = ("b", "d", "g", "p", "t", "k", "bcl", "dcl", "gcl", "pcl", "tcl", "kcl", "dx", "q", "ch", "jh")
OTHERS = ("dh", "f", "hh", "hv", "s", "sh", "th", "v", "z", "zh", "l", "el", "r", "w", "y", "m", "em", "n", "en", "nx")
LABELS = (*VOWELS, "uh", "uw", "ux", *STOPS, *OTHERS, "ng", "eng", "epi", "h#", "pau")


def _said(labels: str, classes: Any = "paper", table=None) -> str:
    """Labels of segments that touch -> the labels of what they are folded into."""
    segments = [Segment(i, i + 1, label) for i, label in enumerate(labels.split())]
    return " ".join(segment.label for segment in fold([segments], classes, table).alignments[0])


def test_61_labels_become_41_classes() -> None:
    assert len(set(LABELS)) == 61 and len(set(CLASSES)) == len(CLASSES) == 41
    assert {TABLE[label] for label in LABELS} == set(CLASSES)
    assert set(TABLE.values()) == set(CLASSES)


def test_the_folding_of_lee_and_hon_where_it_applies() -> None:
    assert _said("ax ax-h ix ux axr el em en eng nx hv") == "AH IH UW ER L M N NG N HH"
    assert _said("ao aa zh sh") == "AO AA ZH SH"  # which they merge
    assert _said("h# pau epi q") == "SIL SPN"


def test_a_closure_belongs_to_its_stop_or_affricate() -> None:
    assert _said("h# bcl b iy tcl t kcl iy dcl jh tcl ch dx") == "SIL B IY T K IY JH CH T"
    apart = [Segment(0, 1, "tcl"), Segment(2, 3, "ch")]
    assert [segment.label for segment in fold([apart]).alignments[0]] == ["T", "CH"]


def test_stress_and_position_and_capitals_do_not_matter() -> None:
    assert _said("AH0 AA1_B er2_E ih sil SP SPN +NOISE+ T_S") == "AH AA ER IH SIL SPN T"


def test_segments_of_one_class_are_one_where_they_touch() -> None:
    folded = fold([[Segment(0.5, 1, "bcl"), Segment(1, 1.25, "b"), Segment(2, 3, "b")]]).alignments
    assert folded == [[Segment(0.5, 1.25, "B"), Segment(2, 3, "B")]]


def test_unknown_labels_are_named_with_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"2 labels have no phone class: 'ʁ' \(2 times\), 'AH9' \(1 times\); .*table="):
        _said("aa ʁ aa ʁ AH9")


def test_a_table_of_ones_own() -> None:
    assert _said("ʁ a tcl ch", table={"ʁ": "R", "a": "V", "tcl": "C", "ch": "C"}) == "R V C"
    folded = fold([[Segment(0, 1, "a")]], table={"ʁ": "R", "a": "V"})
    assert folded.classes == ("R", "V")
    with pytest.raises(ValueError, match="'A' "):
        _said("A", table={"a": "V"})


def test_labels_as_they_are() -> None:
    assert _said("ʁ AH0 ah tcl ch", "labels") == "ʁ AH0 ah tcl ch"
    assert fold([[Segment(0, 1, "b")], [Segment(0, 1, "a")]], "labels").classes == ("a", "b")
    with pytest.raises(ValueError, match="contradicts"):
        _said("a", "labels", {"a": "b"})
    with pytest.raises(ValueError, match="'paper' or 'labels', got '39'"):
        _said("a", "39")


def test_no_label_of_real_alignments_is_unknown() -> None:
    folders = [folder for folder in (ROOT / "egs" / "mini" / "phones", TIMIT / "phn") if folder.is_dir()]
    for folder in folders:
        ids = [path.stem for path in folder.rglob("*_0*.*")]
        alignments = list(find_alignments(folder, ids).values())
        folded = fold(alignments)
        assert folded.classes == CLASSES
        for before, after in zip(alignments, folded.alignments, strict=True):
            assert (before[0].start, before[-1].end) == (after[0].start, after[-1].end)
