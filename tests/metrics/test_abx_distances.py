"""Dynamic time warping: cases by hand, a naive search of all paths, and librosa."""

from functools import cache

import librosa
import numpy as np
import pytest

from vqaudio.metrics import abx_distances
from vqaudio.metrics.abx_distances import frame_sequences


def _distance(first, second, distance: str) -> float:
    pair = frame_sequences([np.array(first), np.array(second)], distance)  # pyright: ignore[reportArgumentType]
    return float(pair.distances(np.array([0]), np.array([1]))[0, 0])


def _naive(costs: np.ndarray) -> float:
    """(N, M) costs of frame pairs -> of the cheapest paths the shortest, by trying all that lead to each pair."""

    @cache
    def best(n: int, m: int) -> tuple[float, int]:
        steps = [(n - 1, m - 1), (n - 1, m), (n, m - 1)]
        before = [best(*step) for step in steps if min(step) >= 0] or [(0.0, 0)]
        cost, length = min((round(cost, 9), length) for cost, length in before)
        return cost + float(costs[n, m]), length + 1

    cost, length = best(costs.shape[0] - 1, costs.shape[1] - 1)
    return cost / length


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([1], [1], 0),
        ([1], [2], 1),
        ([1, 1, 2], [1, 2, 2, 2], 0),
        ([1, 2], [3], 1),
        ([1, 2, 3], [1, 3], 1 / 3),
        (
            [1, 2],
            [2, 1],
            1,
        ),  # two pairs that differ; a path with an equal pair between them costs as much and is longer
        ([1, 2, 3, 4], [1, 5, 6, 4], 1 / 2),
    ],
)
def test_codes_by_hand(first, second, expected: float) -> None:
    assert _distance(first, second, "identity") == expected == _distance(second, first, "identity")


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((1, 0), (0, 1), 0.5),
        ((1, 0), (-2, 0), 1),
        ((1, 1), (0, 7), 0.25),
        ((3, 4), (3, 4), 0),
        ((3, 4), (6, 8), 0),
        ((0, 0), (3, 4), 0.5),
        ((0, 0), (0, 0), 0),
    ],
)
def test_angles_by_hand(first, second, expected: float) -> None:
    assert _distance([first], np.array([second], np.float32), "angular") == pytest.approx(expected, abs=1e-9)


def test_lengths_by_hand() -> None:
    assert _distance([[0.0], [1.0]], [[3.0]], "euclidean") == pytest.approx(2.5, rel=1e-8)
    assert _distance([[0.0, 0.0]], [[3.0, 4.0]], "euclidean") == pytest.approx(5, rel=1e-8)
    assert _distance([[0.0]], [[0.0]], "euclidean") == 0


@pytest.mark.parametrize("most", [2048, 0], ids=["table", "vectors"])
@pytest.mark.parametrize("distance", ["angular", "euclidean"])
def test_vectors_as_a_naive_search_and_librosa_find_them(monkeypatch, distance: str, most: int) -> None:
    monkeypatch.setattr(abx_distances, "MAX_TABLE_FRAMES", most)
    monkeypatch.setattr(abx_distances, "FRAME_PAIRS_AT_ONCE", 200)  # so that there are several parts
    rng = np.random.default_rng(0)
    items = [rng.normal(1, 1, (n, 5)) for n in rng.integers(1, 12, size=12)]
    found = frame_sequences(items, distance).distances(np.arange(12), np.arange(3, 12))  # pyright: ignore[reportArgumentType]
    assert found.shape == (12, 9)
    for i, first in enumerate(items):
        for j, second in enumerate(items[3:]):
            cosines = (first @ second.T) / np.linalg.norm(first, axis=1)[:, None] / np.linalg.norm(second, axis=1)
            angles = np.arccos(np.clip(cosines, -1, 1)) / np.pi
            lengths = np.linalg.norm(first[:, None] - second[None], axis=2)
            costs = angles if distance == "angular" else lengths
            assert found[i, j] == pytest.approx(_naive(costs), abs=1e-6)
            added, path = librosa.sequence.dtw(C=costs)
            assert found[i, j] == pytest.approx(added[-1, -1] / len(path), abs=1e-6)


@pytest.mark.parametrize("most", [2048, 0], ids=["table", "codes"])
def test_codes_as_a_naive_search_finds_them(monkeypatch, most: int) -> None:
    """Of a codebook of 64,000 the table would take 16 GB."""
    monkeypatch.setattr(abx_distances, "MAX_TABLE_FRAMES", most)
    rng = np.random.default_rng(1)
    items = [rng.integers(0, 3, size=n) for n in rng.integers(1, 14, size=25)]
    compared = frame_sequences(items, "identity")
    assert (compared.table is None) == (most < 3)
    found = compared.distances(np.arange(25), np.arange(25))
    for i, first in enumerate(items):
        for j, second in enumerate(items):
            assert found[i, j] == pytest.approx(_naive(first[:, None] != second), abs=1e-12)
    assert np.array_equal(found, found.T)


@pytest.mark.parametrize("most", [2048, 0], ids=["table", "vectors"])
@pytest.mark.parametrize("distance", ["angular", "euclidean"])
def test_equal_frames_have_distance_0(monkeypatch, distance: str, most: int) -> None:
    """Equal frames are 0 apart, and the same costs in another order add up to the same."""
    monkeypatch.setattr(abx_distances, "MAX_TABLE_FRAMES", most)
    a, b, c, zero = np.random.default_rng(2).normal(10, 1, (4, 64)).astype(np.float32)
    items = [np.stack([zero] * 3), np.stack([a, b, c]), np.stack([c, a, b]), np.stack([zero] * 7)]
    found = frame_sequences(items, distance).distances(np.arange(4), np.arange(4))  # pyright: ignore[reportArgumentType]
    assert found[0, 3] == found[0, 0] == found[1, 1] == 0
    assert found[0, 1] == found[0, 2] > 0


def test_sequences_are_taken_in_any_order() -> None:
    items = [np.array([0, 1, 1]), np.array([2]), np.array([1, 0])]
    own = frame_sequences(items, "identity")
    whole = own.distances(np.arange(3), np.arange(3))
    assert np.array_equal(own.distances(np.array([2, 0]), np.array([1, 2, 0])), whole[[2, 0]][:, [1, 2, 0]])


@pytest.mark.parametrize(
    ("frames", "distance", "message"),
    [
        ([], "angular", "none"),
        ([np.zeros((2, 3)), np.zeros((2, 4))], "angular", r"one width, got \[\(3,\), \(4,\)\]"),
        ([np.zeros((2, 3)), np.zeros(2, int)], "angular", "one width"),
        ([np.zeros(2, int)], "angular", "'angular' got codes"),
        ([np.zeros((2, 3))], "identity", "'identity' got vectors"),
        ([np.zeros((2, 3))], "cosine", "one of angular, euclidean, identity, got 'cosine'"),
        ([np.zeros(2, int), np.zeros(0, int)], "identity", "got 0 to 2"),
        ([np.zeros(2**15 + 1, int)], "identity", "32769"),
    ],
)
def test_what_cannot_be_compared_is_refused(frames, distance, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        frame_sequences(frames, distance)
