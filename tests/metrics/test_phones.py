"""Phone metrics: cases by hand, scikit-learn's mutual information, perfect codes and random codes."""

import os
import time
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import mutual_info_score

from vqaudio.data.alignments import Alignment, Segment, find_alignments
from vqaudio.metrics.boundaries import boundaries, hits, r_value
from vqaudio.metrics.confidence import Estimate
from vqaudio.metrics.phone_classes import CLASSES, fold
from vqaudio.metrics.phones import frame_phones, phone_metrics

RATE = 100.0
TIMIT = Path(os.environ.get("VQAUDIO_DATA", Path(__file__).resolve().parents[3] / "shared" / "data")) / "timit8"
needs_timit = pytest.mark.skipif(
    not TIMIT.is_dir(), reason=f"{TIMIT} is absent; set VQAUDIO_DATA to the folder of timit8"
)


def _speech(labels: str, frames: int = 5) -> Alignment:
    """Phones of as many frames each; _ is a gap."""
    seconds = frames / RATE
    return [Segment(i * seconds, (i + 1) * seconds, label) for i, label in enumerate(labels.split()) if label != "_"]


def _metrics(codes, alignments, speakers, k: int, **options) -> dict[str, Estimate]:
    return phone_metrics(
        [np.array(c) for c in codes], alignments, speakers, frame_rate=RATE, codebook_size=k, **options
    )


def _corpus(num_speakers: int = 4, utterances: int = 6, seed: int = 0) -> tuple[list[Alignment], list[str]]:
    """Random phones of 2 to 12 frames, silence four times as often as any other."""
    rng = np.random.default_rng(seed)
    labels = np.array(["SIL"] * 4 + ["AA", "IY", "S", "T", "N"])
    alignments, speakers = [], []
    for i in range(num_speakers * utterances):
        ends = np.cumsum(rng.integers(2, 13, size=40)) / RATE
        starts = [0.0, *ends[:-1]]
        alignments.append([Segment(*s) for s in zip(starts, ends, rng.choice(labels, 40).tolist(), strict=True)])
        speakers.append(f"s{i % num_speakers}")
    return alignments, speakers


def _phones(alignments: list[Alignment]) -> list[np.ndarray]:
    return [frame_phones(a, round(a[-1].end * RATE), RATE, CLASSES) for a in fold(alignments).alignments]


def test_two_speakers_by_hand() -> None:
    """Code 0 is AA of one speaker and mostly AA of the other, code 1 IY; code 2 is known to one only."""
    alignments = [_speech("AA IY AA", 4), _speech("AA IY", 4)]
    codes = [[0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2], [0, 0, 0, 1, 1, 1, 1, 1]]
    found = _metrics(codes, alignments, ["a", "b"], k=3)
    # a: codes 0 and 1 as b has them, 8 right; code 2, which b has not, falls to b's commonest: of 4 AA and 4 IY the
    # first, AA, 4 right. b: 0 is AA, 1 is IY, 7 of 8 right
    assert found["accuracy"].value == pytest.approx(19 / 20)
    assert (found["accuracy"].low, found["accuracy"].high) == (7 / 8, 1.0) and found["accuracy"].count == 2
    # the commonest is AA for both halves: 8 of a's 12, 4 of b's 8
    assert found["majority_accuracy"].value == pytest.approx(12 / 20)
    # counts: code 0: 7 AA; code 1: 1 AA, 8 IY; code 2: 4 AA
    assert found["phone_purity"].value == pytest.approx((7 + 8 + 4) / 20)
    assert found["cluster_purity"].value == pytest.approx((7 + 8) / 20)
    # boundaries at 4 and 8, at 4; codes change at 4 and 8, at 3
    assert all(found[f"boundary_{name}"][:3] == (1, 1, 1) for name in ("precision", "recall", "f1", "r_value"))


def test_code_bigrams_predict_better_than_single_codes() -> None:
    """Code 1 is IY after 0 and S after 2; alone it is IY, which is the commoner."""
    speech, codes = _speech("AA IY AA IY T S", 1), [0, 1, 0, 1, 2, 1]
    found = _metrics([codes, codes], [speech, speech], ["a", "b"], k=3)
    assert found["accuracy"].value == pytest.approx(5 / 6)
    assert found["bigram_accuracy"].value == 1
    other = _metrics([codes, [1, 1, 1, 1, 1, 1]], [speech, speech], ["a", "b"], k=3)
    assert other["bigram_accuracy"].value == other["accuracy"].value  # no pair is known: each code for itself


def test_perfect_codes() -> None:
    alignments, speakers = _corpus()
    found = _metrics(_phones(alignments), alignments, speakers, k=len(CLASSES))
    for name in ("accuracy", "pnmi", "phone_purity", "cluster_purity", "bigram_accuracy"):
        assert found[name][:3] == pytest.approx((1, 1, 1)), name
    for name in ("boundary_f1", "boundary_r_value", "mapped_boundary_f1", "mapped_boundary_r_value"):
        assert found[name][:3] == pytest.approx((1, 1, 1)), name
    assert found["shuffled_accuracy"].high < 0.6


def test_random_codes_have_no_information() -> None:
    alignments, speakers = _corpus(utterances=20)
    rng = np.random.default_rng(1)
    codes = [rng.integers(8, size=len(phones)) for phones in _phones(alignments)]
    found = _metrics(codes, alignments, speakers, k=8)
    majority = found["majority_accuracy"].value
    assert found["accuracy"].low <= majority <= found["accuracy"].high
    assert found["shuffled_accuracy"].low <= majority <= found["shuffled_accuracy"].high
    assert found["pnmi"].value < 0.01 and found["pnmi"].value == pytest.approx(found["pnmi_shuffled"].value, abs=0.003)


def test_one_code_is_the_majority() -> None:
    alignments, speakers = _corpus()
    found = _metrics([np.zeros(len(p), int) for p in _phones(alignments)], alignments, speakers, k=4)
    assert found["accuracy"] == found["majority_accuracy"] == found["shuffled_accuracy"] == found["bigram_accuracy"]
    assert found["pnmi"][:3] == pytest.approx((0, 0, 0), abs=1e-12)
    assert found["cluster_purity"].value == 1
    assert found["boundary_recall"].value == 0 and np.isnan(found["boundary_precision"].value)
    assert found["boundary_f1"].value == 0


def test_mutual_information_is_that_of_scikit_learn() -> None:
    alignments, speakers = _corpus()
    rng = np.random.default_rng(2)
    phones = _phones(alignments)
    codes = [np.where(rng.random(len(p)) < 0.3, p, rng.integers(50, size=len(p))) for p in phones]
    phone, code = np.concatenate(phones), np.concatenate(codes)
    found = _metrics(codes, alignments, speakers, k=50)["pnmi"]
    assert found.value == pytest.approx(mutual_info_score(phone, code) / mutual_info_score(phone, phone))
    assert found.low < found.value < found.high


def test_gaps_are_left_out() -> None:
    """Frames before the first phone, between phones, and after the last: their codes do not matter."""
    alignments = [_speech("_ AA _ IY T", 4)] * 2
    phones = frame_phones(alignments[0], 24, RATE, ["AA", "IY", "T"])
    assert phones.tolist() == [-1] * 4 + [0] * 4 + [-1] * 4 + [1] * 4 + [2] * 4 + [-1] * 4
    found = [_metrics([np.where(phones < 0, gap, phones)] * 2, alignments, ["a", "b"], k=6) for gap in (3, 4)]
    assert found[0] == found[1] and found[0]["accuracy"].value == 1
    assert found[0]["boundary_f1"].value == 1  # of both edges of the gap, and of IY and T
    noisy = np.where(phones < 0, np.arange(24) % 2 + 3, phones)
    assert _metrics([noisy] * 2, alignments, ["a", "b"], k=6)["boundary_precision"].value == 1


def test_every_speaker_is_scored_with_the_mapping_of_other_speakers() -> None:
    """A code with a different phone for each speaker predicts nothing across speakers."""
    alignments = [_speech("AA IY AA IY"), _speech("IY AA IY AA")]
    codes = [np.repeat([0, 1, 0, 1], 5)] * 2
    assert _metrics(codes, alignments, ["a", "b"], k=2)["accuracy"].value == 0
    assert _metrics(codes * 2, alignments * 2, ["a", "b", "c", "d"], k=2)["accuracy"].count == 4


def test_shuffling_is_reproducible_and_the_order_of_utterances_does_not_matter() -> None:
    alignments, speakers = _corpus()
    codes = [p % 5 for p in _phones(alignments)]
    first = _metrics(codes, alignments, speakers, k=5)
    assert first == _metrics(codes, alignments, speakers, k=5)
    other = _metrics(codes, alignments, speakers, k=5, seed=1)
    assert "pnmi_shuffled" in (changed := {name for name in first if first[name] != other[name]})
    assert changed <= {"shuffled_accuracy", "pnmi_shuffled"}
    backwards = _metrics(codes[::-1], alignments[::-1], speakers[::-1], k=5)
    assert backwards["accuracy"].value == first["accuracy"].value


def test_a_table_of_ones_own_and_labels_as_they_are() -> None:
    alignments = [_speech("x y z")] * 2
    codes = [np.repeat([0, 1, 1], 5)] * 2
    table = {"x": "X", "y": "Y", "z": "Y"}
    assert _metrics(codes, alignments, ["a", "b"], k=2, table=table)["accuracy"].value == 1
    assert _metrics(codes, alignments, ["a", "b"], k=2, classes="labels")["accuracy"].value == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="'x' "):
        _metrics(codes, alignments, ["a", "b"], k=2)


@pytest.mark.parametrize(
    ("codes", "speakers", "message"),
    [
        ([[0], [0]], ["a", "a"], "2 or more speakers with aligned speech, got 1"),
        ([[0], [0]], ["a"], "2 utterances have 1 speakers"),
        ([[0], [0], [0]], ["a", "b", "c"], "3 utterances have 2 alignments"),
        ([[0], [2]], ["a", "b"], r"0\.\.1, got 0\.\.2"),
        ([], [], "0 utterances have 2 alignments; give 1 or more"),
    ],
)
def test_invalid_inputs_are_refused(codes, speakers, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _metrics(codes, [_speech("AA"), _speech("IY")], speakers, k=2)


def test_a_speaker_without_aligned_speech_does_not_count() -> None:
    codes = [np.zeros(10, int)] * 3
    with pytest.raises(ValueError, match="got 1"):
        _metrics(codes[:2], [_speech("AA"), []], ["a", "b"], k=1)
    for silent in range(3):
        alignments = [[] if i == silent else _speech("AA IY") for i in range(3)]
        found = _metrics(codes, alignments, ["a", "b", "c"], k=1)
        assert found["accuracy"].count == 2 and found["boundary_recall"].count == 2


@pytest.mark.parametrize(
    ("reference", "found", "count"),
    [
        ([1.0, 2.0], [1.02, 1.98], 2),
        ([1.0], [0.979, 1.021], 0),
        ([1.0, 1.03], [1.015], 1),  # it cannot be both
        ([1.0, 1.03], [1.015, 1.04], 2),
        ([1.0, 1.01, 1.02], [0.99, 1.03], 2),
        ([], [1.0], 0),
        ([1.0], [], 0),
    ],
)
def test_boundaries_are_matched_one_to_one(reference, found, count: int) -> None:
    assert hits(np.array(reference), np.array(found)) == count


def test_the_matching_is_the_largest() -> None:
    """Against scipy's, of bipartite graphs."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import maximum_bipartite_matching

    rng = np.random.default_rng(4)
    for _ in range(50):
        reference, found = np.sort(rng.random(rng.integers(1, 30))), np.sort(rng.random(rng.integers(1, 60)))
        near = csr_array(np.abs(reference[:, None] - found) <= 0.02)
        assert hits(reference, found) == (maximum_bipartite_matching(near) >= 0).sum()


def test_the_r_value_by_hand() -> None:
    assert r_value(10, 10, 10) == 1
    # 8 of 10 found among 12: r1 = sqrt(0.2² + 0.2²), r2 = (-0.2 - 0.2) / sqrt 2
    assert r_value(8, 10, 12) == pytest.approx(1 - (np.sqrt(0.08) + 0.4 / np.sqrt(2)) / 2)
    assert r_value(0, 10, 0) == pytest.approx(1 - (np.sqrt(2) + 0) / 2)
    # a published table (kamperh/vqwordseg, Buckeye): recall 75.77 %, 14.08 % too many, R 72.44 %
    assert r_value(75.77, 100, 114.08) == pytest.approx(0.7244, abs=5e-5)
    assert r_value(10, 10, 30) < 0 and np.isnan(r_value(0, 0, 5))


def test_boundaries_of_an_alignment_are_those_within_it() -> None:
    assert boundaries(_speech("AA IY _ T")).tolist() == pytest.approx([0.05, 0.1, 0.15])
    assert boundaries([]).tolist() == [] and boundaries(_speech("AA")).tolist() == []


@needs_timit
@pytest.mark.data
def test_hand_labels_of_real_speech_within_seconds() -> None:
    """The phones themselves as codes, of 58,000 frames: all right; joined in two groups: still more than nothing."""
    ids = [path.stem for path in (TIMIT / "phn").rglob("*.phn")]
    found = find_alignments(TIMIT / "phn", ids)
    alignments, speakers = [found[id] for id in ids], [id.split("_")[0] for id in ids]
    phones = [frame_phones(a, int(a[-1].end * 250), 250, CLASSES) for a in fold(alignments).alignments]
    started_at = time.perf_counter()
    perfect = phone_metrics(phones, alignments, speakers, frame_rate=250, codebook_size=41)
    assert time.perf_counter() - started_at < 20
    assert perfect["accuracy"].value > 0.999 and perfect["accuracy"].count == 8  # half of them have no ZH
    assert perfect["pnmi"].value == pytest.approx(1)
    assert perfect["boundary_r_value"].value > 0.999
    two = phone_metrics([p // 21 for p in phones], alignments, speakers, frame_rate=250, codebook_size=41)
    assert two["majority_accuracy"].high < two["accuracy"].low
