"""ABX: cells by hand, a naive count over triples, perfect codes and random codes."""

import os
from collections import defaultdict
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from vqaudio import load_model
from vqaudio.data.alignments import find_alignments
from vqaudio.metrics.abx import abx_metrics
from vqaudio.metrics.abx_items import Item, items_of
from vqaudio.metrics.confidence import Estimate
from vqaudio.metrics.phone_classes import fold

TIMIT = Path(os.environ.get("VQAUDIO_DATA", Path(__file__).resolve().parents[3] / "shared" / "data")) / "timit8"
Tokens = Sequence[tuple[str, str, float]]  # speaker, phone (with its neighbours, as in a-p-b), value


def _corpus(tokens: Tokens) -> tuple[dict[str, np.ndarray], list[Item]]:
    """Items of one frame with one value each, one frame a second; an utterance for each speaker."""
    features: defaultdict[str, list[list[float]]] = defaultdict(list)
    items = []
    for speaker, name, value in tokens:
        previous, phone, following = name.split("-") if "-" in name else ("SIL", name, "SIL")
        start = float(len(features[speaker]))
        items.append(Item(speaker, start, start + 1, phone, previous, following, speaker))
        features[speaker].append([float(value)])
    return {speaker: np.array(values) for speaker, values in features.items()}, items


def _abx(tokens: Tokens, **options) -> dict[str, Estimate]:
    return abx_metrics(*_corpus(tokens), frame_rate=1, **{"distance": "euclidean", "context": "any", **options})


def test_one_speaker_by_hand() -> None:
    """A, X = p: 2 of 4 triples are wrong; A, X = q: 3 of 4. Across speakers there is nothing."""
    found = _abx([("s", "p", 0), ("s", "q", 0.6), ("s", "p", 1), ("s", "q", 3)])
    assert found["abx_within"] == Estimate(0.625, 0.625, 0.625, 1)
    assert np.isnan(found["abx_across"].value) and found["abx_cells_across"].value == 0
    assert found["abx_cells_within"].value == 2 and found["abx_items"] == Estimate(4, 4, 4, 4)


def test_across_two_speakers_by_hand() -> None:
    """X of s, A and B of t: p right, q wrong; X of t: both wrong. No speaker has two tokens of a phone."""
    found = _abx([("t", "p", 0), ("t", "q", 1), ("s", "p", 0.4), ("s", "q", 0.3)])
    assert found["abx_across"] == Estimate(0.75, 0.75, 0.75, 2)
    assert found["abx_cells_across"].value == 4 and found["abx_cells_within"].value == 0
    assert np.isnan(found["abx_within"].value)


def test_equal_distances_are_half_wrong() -> None:
    """X = 0 is nearer to 2 than to 4; X = 2 is as near to 0 as to 4."""
    assert _abx([("s", "p", 0), ("s", "p", 2), ("s", "q", 4)])["abx_within"].value == 0.25


def test_speakers_are_averaged_before_pairs_of_phones() -> None:
    """The other way round it were (0.625 + 0) / 2."""
    one = [("s", "p", 0), ("s", "q", 0.6), ("s", "p", 1), ("s", "q", 3)]
    other = [("t", "p", 0), ("t", "p", 0.1), ("t", "q", 9)]
    assert _abx(one + other)["abx_within"].value == ((0.5 + 0) / 2 + 0.75) / 2


def test_contexts_are_averaged_before_speakers() -> None:
    tokens = [
        ("s", f"{edge}-{phone}-{edge}", value) for edge, phone, value in [("a", "p", 0), ("a", "p", 0), ("a", "q", 1)]
    ]
    tokens += [
        ("s", f"{edge}-{phone}-{edge}", value) for edge, phone, value in [("b", "p", 0), ("b", "p", 2), ("b", "q", 1)]
    ]
    tokens += [("t", "a-p-a", 0), ("t", "a-p-a", 2), ("t", "a-q-a", 0.5)]
    found = _abx(tokens, context="triphone")
    assert found["abx_within"].value == ((0 + 1) / 2 + 1) / 2
    assert found["abx_cells_within"].value == 3 and found["abx_triphone_context"].value == 1
    assert _abx(tokens)["abx_triphone_context"].value == 0 == _abx(tokens, context="auto")["abx_triphone_context"].value


def _naive(tokens: Tokens, across: bool) -> float:
    """Cells as sets of triples of all tokens, and their means one after the other."""
    cells: defaultdict[tuple, list[float]] = defaultdict(list)
    for (i, a), (j, x), b in product(enumerate(tokens), enumerate(tokens), tokens):
        (_, phone_a, _), (_, phone_x, _), (_, phone_b, _) = (token[1].split("-") for token in (a, x, b))
        contexts = {tuple(token[1].split("-")[::2]) for token in (a, x, b)}
        if i == j or len(contexts) > 1 or a[0] != b[0] or phone_a != phone_x or phone_a == phone_b:
            continue
        if (a[0] != x[0]) == across:
            to_a, to_b = abs(a[2] - x[2]), abs(b[2] - x[2])
            cells[phone_a, phone_b, a[0], contexts.pop(), x[0]].append((to_a > to_b) + 0.5 * (to_a == to_b))
    for length in (3, 2, 0):  # what is left of the cell's name
        averaged: defaultdict[tuple, list[float]] = defaultdict(list)
        for name, errors in cells.items():
            averaged[name[:length]].append(float(np.mean(errors)))
        cells = averaged
    return float(np.mean(cells[()]))


def test_as_a_naive_count_over_all_triples() -> None:
    rng = np.random.default_rng(0)
    tokens = [
        (f"s{rng.integers(4)}", f"{'ab'[rng.integers(2)]}-{'pqr'[rng.integers(3)]}-c", float(rng.integers(9)))
        for _ in range(45)
    ]
    found = _abx(tokens, context="triphone")
    assert found["abx_within"].value == pytest.approx(_naive(tokens, across=False))
    assert found["abx_across"].value == pytest.approx(_naive(tokens, across=True))
    found = _abx([(speaker, name[2], value) for speaker, name, value in tokens])
    loose = [(speaker, f"x-{name[2]}-x", value) for speaker, name, value in tokens]
    assert found["abx_within"].value == pytest.approx(_naive(loose, across=False))
    assert found["abx_across"].value == pytest.approx(_naive(loose, across=True))


def _speech(seed: int = 0, speakers: int = 8, tokens: int = 6, frames: int = 5) -> tuple[dict[str, int], list[Item]]:
    """Four phones in turns, each five frames long at 100 a second -> utterances' numbers of frames, and items."""
    rng = np.random.default_rng(seed)
    items, lengths = [], {}
    for s in range(speakers):
        for n, phone in enumerate(rng.permutation(np.repeat(list("abcd"), tokens))):
            start = n * frames / 100
            items.append(Item(f"u{s}", start, start + frames / 100, str(phone), "SIL", "SIL", f"s{s}"))
        lengths[f"u{s}"] = 4 * tokens * frames
    return lengths, items


def test_codes_that_are_the_phones_make_no_error_and_one_code_makes_half() -> None:
    lengths, items = _speech()
    perfect = {name: np.zeros(length, np.int64) for name, length in lengths.items()}
    for item in items:
        perfect[item.utterance][round(item.start * 100) : round(item.end * 100)] = ord(item.phone)
    found = abx_metrics(perfect, items, frame_rate=100, distance="identity")
    assert found["abx_within"] == found["abx_across"] == Estimate(0, 0, 0, 8)
    one = {name: np.full(length, 7) for name, length in lengths.items()}
    found = abx_metrics(one, items, frame_rate=100, distance="identity")
    assert found["abx_within"] == found["abx_across"] == Estimate(0.5, 0.5, 0.5, 8)
    silent = {name: np.zeros((length, 3), np.float32) for name, length in lengths.items()}
    assert abx_metrics(silent, items, frame_rate=100)["abx_within"] == Estimate(0.5, 0.5, 0.5, 8)


def test_random_codes_are_at_chance_within_their_interval() -> None:
    """Of 12 corpora; an interval of 95 % over so few speakers is too narrow, hence not of 11 of them."""
    hits = {"abx_within": 0, "abx_across": 0}
    for seed in range(12):
        lengths, items = _speech(seed, tokens=4)
        rng = np.random.default_rng(seed)
        codes = {name: rng.integers(0, 16, length) for name, length in lengths.items()}
        found = abx_metrics(codes, items, frame_rate=100, distance="identity")
        for name in hits:
            assert found[name].value == pytest.approx(0.5, abs=0.06)
            hits[name] += found[name].low <= 0.5 <= found[name].high
    assert min(hits.values()) >= 9


def test_the_interval_is_over_speakers() -> None:
    """Half of them are perfect, half at chance: the interval is due to speakers only."""
    lengths, items = _speech()
    codes = {name: np.zeros(length, np.int64) for name, length in lengths.items()}
    for item in items[: len(items) // 2]:
        codes[item.utterance][round(item.start * 100) : round(item.end * 100)] = ord(item.phone)
    found = abx_metrics(codes, items, frame_rate=100, distance="identity")["abx_within"]
    assert found.value == pytest.approx(0.25) and found.count == 8
    half = 1.96 * 0.25 / 8**0.5  # the standard error of the mean of eight
    assert found.low == pytest.approx(0.25 - half, abs=0.07) and found.high == pytest.approx(0.25 + half, abs=0.07)


def test_items_and_speaker_pairs_are_limited_and_counted() -> None:
    lengths, items = _speech()
    codes = {name: np.random.default_rng(0).integers(0, 9, length) for name, length in lengths.items()}
    options = {"frame_rate": 100, "distance": "identity", "max_items_per_cell": 3}
    drawn = abx_metrics(codes, items, **options)
    assert drawn["abx_items"] == Estimate(96, 96, 96, 192)
    assert drawn == abx_metrics(codes, items, **options)
    assert drawn["abx_within"] != abx_metrics(codes, items, **options, seed=1)["abx_within"]
    assert drawn["abx_cells_within"].value == 8 * 12 and drawn["abx_cells_across"].value == 8 * 7 * 12
    few = abx_metrics(codes, items, **options, max_speaker_pairs=5)
    assert few["abx_cells_across"].value == 5 * 2 * 12 and few["abx_within"] == drawn["abx_within"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"items": []}, "no items"),
        ({"items": [Item("s", 0, 1, "p", "SIL", "SIL", "s")] * 2}, "no phone of the 2 items"),
        ({"context": "same"}, "'triphone', 'any' or 'auto', got 'same'"),
        ({"distance": "identity"}, "'identity' got vectors"),
        ({"max_items_per_cell": 0}, "at least 1, got 0 and 100"),
        ({"frame_rate": 0}, "above 0 Hz, got 0"),
        ({"frame_rate": 100}, "s has 3 frames; at 100 a second"),
        ({"features": {}}, "s has items and no features"),
        ({"features": {"s": np.full((3, 1), np.nan)}}, "not finite"),
    ],
)
def test_invalid_inputs_are_refused(change: dict, message: str) -> None:
    features, items = _corpus([("s", "p", 0), ("s", "p", 1), ("s", "q", 2)])
    with pytest.raises(ValueError, match=message):
        abx_metrics(**{"features": features, "items": items, "frame_rate": 1, **change})


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.skipif(not TIMIT.is_dir(), reason=f"{TIMIT} is absent; set VQAUDIO_DATA to the folder of timit8")
def test_the_shipped_model_on_real_speech() -> None:
    """Its vectors discriminate phones better than its codes, and these better than random codes."""
    model = load_model("mini")
    tokens = {path.stem: model.tokenize(path).codes for path in sorted(TIMIT.glob("wav16/*/*.flac"))}
    found = find_alignments(TIMIT / "phn", tokens)
    alignments = dict(zip(found, fold(list(found.values())).alignments, strict=True))
    items = items_of(alignments, {name: name.split("_")[0] for name in tokens})
    rng = np.random.default_rng(0)
    vectors = abx_metrics(
        {name: model.quantizer.decode(codes[None])[0].T.numpy() for name, codes in tokens.items()},
        items,
        frame_rate=model.frame_rate,
    )
    codes, noise = (
        abx_metrics(own, items, frame_rate=model.frame_rate, distance="identity")
        for own in (
            {name: codes.numpy() for name, codes in tokens.items()},
            {name: rng.integers(0, 512, len(codes)) for name, codes in tokens.items()},
        )
    )
    for name in ("abx_within", "abx_across"):
        assert vectors[name].high < codes[name].low and codes[name].high < noise[name].low
        assert vectors[name].count == 8 and 0.48 < noise[name].value < 0.55
    assert vectors["abx_within"].value < vectors["abx_across"].value
