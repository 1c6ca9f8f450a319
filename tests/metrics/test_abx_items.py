"""Items by hand, and the files that others read: .item tables and features, to and fro."""

import math
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
import torch

from vqaudio.data.alignments import Segment
from vqaudio.metrics.abx_items import (
    Item,
    choose_context,
    frames_of,
    items_of,
    load_features,
    save_for_fastabx,
    write_items,
)

SPEECH = [
    Segment(0.0, 0.1, "SIL"),
    Segment(0.1, 0.2, "HH"),
    Segment(0.2, 0.35, "AY"),
    Segment(0.35, 0.4, "T"),
    Segment(0.5, 0.6, "T"),  # after a gap
]


def _item(start: float, end: float, phone: str = "p", sides: str = "ab", speaker: str = "s") -> Item:
    return Item("u", start, end, phone, sides[0], sides[1], speaker)


def test_phones_and_what_is_around_them() -> None:
    assert items_of({"u": SPEECH}, {"u": "s"}) == [
        Item("u", 0.1, 0.2, "HH", "SIL", "AY", "s"),
        Item("u", 0.2, 0.35, "AY", "HH", "T", "s"),
        Item("u", 0.35, 0.4, "T", "AY", "SIL", "s"),
        Item("u", 0.5, 0.6, "T", "SIL", "SIL", "s"),
    ]


def test_triphones_reach_over_both_neighbours_and_touch_no_silence() -> None:
    assert items_of({"u": SPEECH}, {"u": "s"}, span="triphone") == [Item("u", 0.1, 0.4, "AY", "HH", "T", "s")]
    with pytest.raises(ValueError, match="no triphones in 1 alignments"):
        items_of({"u": SPEECH[:3]}, {"u": "s"}, span="triphone")


def test_silence_labels_are_configurable() -> None:
    found = items_of({"u": SPEECH}, {"u": "s"}, silences=("hh",))
    assert [item.phone for item in found] == ["SIL", "AY", "T", "T"]


@pytest.mark.parametrize(
    ("alignments", "message"),
    [({}, "0 alignments"), ({"u": SPEECH[:1]}, "no phones"), ({"v": SPEECH}, "v has no speaker")],
)
def test_what_has_no_items_is_refused(alignments, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        items_of(alignments, {"u": "s"})


def test_triphones_are_chosen_where_there_are_enough() -> None:
    """Cells: of (s, ab) p and q, and p and r; of (s, cd) none, for p comes once; of t none, for there is one phone."""
    items = [_item(0, 1, phone) for phone in "ppqr"] + [_item(0, 1, phone, "cd") for phone in "pq"]
    items += [_item(0, 1, "p", speaker="t")] * 3
    assert choose_context(items, least=2) == "triphone" and choose_context(items, least=3) == "any"
    assert choose_context(items) == "any" == choose_context([])


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (0.0, 0.1, range(0, 10)),
        (0.004, 0.016, range(0, 2)),  # the middles of 0 and 1 are at 0.005 and 0.015
        (0.005, 0.015, range(0, 2)),  # which belong to what begins or ends there
        (0.006, 0.014, range(1, 2)),  # none is in it: the frame around 0.010
        (0.991, 1.0, range(99, 100)),
        (0.98, 1.02, range(98, 100)),  # two frames are lacking
    ],
)
def test_frames_whose_middles_are_in_an_item(start: float, end: float, expected: range) -> None:
    assert range(100)[frames_of(_item(start, end), 100, 100)] == expected


def test_an_item_beyond_the_features_is_refused() -> None:
    with pytest.raises(ValueError, match=r"u has 100 frames; at 100 a second its item that ends at 1.030 s needs 103"):
        frames_of(_item(0.98, 1.03), 100, 100)


def test_features_are_read_as_they_were_saved(tmp_path: Path) -> None:
    vectors, codes = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32), np.arange(4)
    np.save(tmp_path / "v.npy", vectors)
    np.save(tmp_path / "c.npy", codes)
    found = load_features(tmp_path, ["c", "v"])
    assert list(found) == ["c", "v"]
    assert np.array_equal(found["v"], vectors) and np.array_equal(found["c"], codes)
    with pytest.raises(FileNotFoundError, match=r"2 of 3 utterances, such as a.npy"):
        load_features(tmp_path, ["a", "b", "c"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.zeros((2, 3, 4)), r"\(2, 3, 4\) float64"),
        (np.zeros(3), r"\(3,\) float64"),
        (np.zeros((3, 2), np.int64), r"\(3, 2\) int64"),
        (np.zeros((0, 2)), "no frames"),
        (np.array([[np.inf]]), "not finite"),
        (np.array([{"a": 1}], dtype=object), "not an array of numbers"),
        (b"text", "not an array of numbers"),
        (b"", "not an array of numbers"),
    ],
)
def test_a_file_of_something_else_is_named(tmp_path: Path, content, message: str) -> None:
    path = tmp_path / "odd.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content, allow_pickle=True)
    with pytest.raises(ValueError, match=message) as raised:
        load_features(tmp_path, ["odd"])
    assert str(path) in str(raised.value)


def test_items_are_written_in_the_form_of_the_challenges(tmp_path: Path) -> None:
    """Header and columns of the ZeroSpeech challenges, times to the sample at 16 kHz."""
    items = [Item("u1", 2260 / 16000, 4071 / 16000, "SH", "SIL", "IY", "faem0"), _item(0, 1 / 16000)]
    write_items(tmp_path / "x.item", items)
    assert (tmp_path / "x.item").read_text().splitlines() == [
        "#file onset offset #phone prev-phone next-phone speaker",
        "u1 0.1412500 0.2544375 SH SIL IY faem0",
        "u 0.0000000 0.0000625 p a b s",
    ]
    with pytest.raises(FileExistsError):
        write_items(tmp_path / "x.item", items)
    write_items(tmp_path / "x.item", items[:1], overwrite=True)
    assert (tmp_path / "x.item").read_text().count("\n") == 2
    assert [path.name for path in tmp_path.iterdir()] == ["x.item"]


@pytest.mark.parametrize("name", ["two words", "", "line\nbreak", " edge"])
def test_names_that_would_break_the_table_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="without spaces"):
        write_items(tmp_path / "x.item", [_item(0, 1, phone=name)])
    assert not list(tmp_path.iterdir())


def test_a_folder_for_fastabx_holds_what_it_reads_and_nothing_that_it_stops_at(tmp_path: Path) -> None:
    """By its rule, in exact decimals: frames whose middles lie from onset to offset, at least one, all in the file."""
    features = {"a/u": np.arange(12), "v": np.ones((7, 2), np.float64)}
    items = [
        Item("a/u", 0.0, 0.04, "p", "x", "y", "s"),
        Item("v", 0.02, 0.0699, "q", "x", "y", "s"),
        Item("v", 0.011, 0.014, "q", "x", "y", "s"),  # between two middles
        Item("v", 0.05, 0.09, "q", "x", "y", "s"),  # beyond the features
    ]
    assert save_for_fastabx(tmp_path / "out", features, items, 100) == 2
    lines = (tmp_path / "out" / "items.item").read_text().splitlines()[1:]
    assert [line.split()[0] for line in lines] == ["a/u", "v"]
    for line in lines:
        name, onset, offset = line.split()[:3]
        loaded = torch.load(tmp_path / "out" / "features" / f"{name}.pt")
        first, last = (Decimal(value) * 100 - Decimal("0.5") for value in (onset, offset))
        assert 0 <= math.ceil(first) <= math.floor(last) < len(loaded)
        assert loaded.shape == ((12, 1) if name == "a/u" else (7, 2))
        assert loaded.dtype == (torch.int64 if name == "a/u" else torch.float32)
        assert np.array_equal(loaded.numpy().reshape(features[name].shape), features[name])


def test_an_existing_folder_is_replaced_only_on_request(tmp_path: Path) -> None:
    items = [Item("u", 0.0, 1.0, "p", "x", "y", "s")]
    save_for_fastabx(tmp_path / "out", {"u": np.zeros(5, int)}, items, 1)
    with pytest.raises(FileExistsError, match="--overwrite"):
        save_for_fastabx(tmp_path / "out", {"u": np.ones(5, int)}, items, 1)
    with pytest.raises(ValueError, match="not finite"):
        save_for_fastabx(tmp_path / "out", {"u": np.full((5, 1), np.nan)}, items, 1, overwrite=True)
    with pytest.raises(ValueError, match="u has items and no features"):
        save_for_fastabx(tmp_path / "out", {}, items, 1, overwrite=True)
    assert torch.load(tmp_path / "out" / "features" / "u.pt").sum() == 0
    save_for_fastabx(tmp_path / "out", {"u": np.ones(5, int)}, items, 1, overwrite=True)
    assert torch.load(tmp_path / "out" / "features" / "u.pt").sum() == 5
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
