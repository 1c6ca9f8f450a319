"""The linear probe against scikit-learn, the recurrent one on codes whose order alone depends on the speaker."""

import numpy as np
import pytest
import torch

from vqaudio.metrics import speaker_probe as module
from vqaudio.metrics.confidence import Estimate
from vqaudio.metrics.speaker_probe import PENALTY, linear_log_odds, speaker_probe_metrics

K = 16


def _corpus(own: float, seed: int = 0, per_speaker: int = 12) -> tuple[list[np.ndarray], list[str]]:
    """Utterances of three speakers; a fraction `own` of the codes comes from four codes that only this speaker uses."""
    rng = np.random.default_rng(seed)
    codes, names = [], []
    for i in range(per_speaker * 3):
        speaker, length = i % 3, int(rng.integers(150, 400))
        mine = rng.integers(4 * speaker, 4 * speaker + 4, length)
        codes.append(np.where(rng.random(length) < own, mine, rng.integers(K, size=length)))
        names.append(f"s{speaker}")
    return codes, names


def _probe(codes: list[np.ndarray], names: list[str], segment: int = 100, rate: float = 250) -> dict[str, Estimate]:
    return speaker_probe_metrics(codes, names, codebook_size=K, frame_rate=rate, seconds=segment / rate)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that do not depend on the training of the recurrent probe."""
    monkeypatch.setattr(module, "STEPS", 5)


def test_the_linear_probe_is_logistic_regression() -> None:
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    y = rng.integers(3, size=90)
    x, test_x = (rng.normal(size=(90, K)) + np.eye(3, K)[y]).astype(np.float32), rng.normal(size=(50, K))
    ours = linear_log_odds(torch.from_numpy(x), torch.from_numpy(y), torch.from_numpy(test_x).float(), 3)
    theirs = LogisticRegression(C=1 / (2 * PENALTY * len(y)), tol=1e-8, max_iter=1000).fit(x, y)
    np.testing.assert_allclose(ours.softmax(1).numpy(), theirs.predict_proba(test_x), atol=2e-3)


def test_codes_that_identify_the_speaker_are_classified() -> None:
    found = _probe(*_corpus(own=0.5))
    for name in ("linear_accuracy", "recurrent_accuracy"):
        assert found[name].value > 0.95 and found[name].low <= found[name].value <= found[name].high
        assert found[name].count == 36


@pytest.mark.parametrize("rate", [50, 250])  # a code at each step of the recurrent probe, ten of them
def test_only_the_recurrent_probe_uses_the_order_of_codes(rate: float) -> None:
    """One speaker counts upwards, by one or two, the other downwards: as often any code, other neighbours."""
    rng = np.random.default_rng(0)
    up = [(rng.integers(K) + rng.integers(1, 3, 400).cumsum()) % K for _ in range(40)]
    found = _probe([own[:: 1 - i % 2 * 2] for i, own in enumerate(up)], ["a", "b"] * 20, 50, rate)
    assert found["linear_accuracy"].low < 0.5 < found["linear_accuracy"].high
    assert found["recurrent_accuracy"].value > 0.9
    assert found["chance"].value == 0.5


def test_codes_without_speaker_information_are_at_chance() -> None:
    found = _probe(*_corpus(own=0.0, seed=1, per_speaker=40))
    for name in ("linear_accuracy", "recurrent_accuracy", "chance"):
        assert found[name].low < 1 / 3 < found[name].high


def test_a_single_code_is_at_chance(quick) -> None:
    found = _probe([np.zeros(100, np.int64)] * 8, ["a", "b"] * 4)
    assert found["linear_accuracy"].value == found["recurrent_accuracy"].value == found["chance"].value == 0.5


def test_chance_is_the_fraction_of_the_most_frequent_speaker(quick) -> None:
    codes, names = _corpus(own=0.5)
    found = _probe([own[:100] for own in codes] + [codes[0][:100]] * 4, [*names, "s0", "s0", "s0", "s0"])
    assert found["chance"].value == pytest.approx(16 / 40) and found["chance"].count == 40


def test_the_interval_narrows_with_the_number_of_utterances(quick) -> None:
    few, many = (_probe(*_corpus(own=0.1, per_speaker=n), segment=50)["linear_accuracy"] for n in (4, 60))
    assert many.high - many.low < (few.high - few.low) / 2


def test_metrics_are_reproducible_and_do_not_change_global_state(quick) -> None:
    state = torch.random.get_rng_state()
    assert _probe(*_corpus(own=0.1)) == _probe(*_corpus(own=0.1))
    assert torch.equal(state, torch.random.get_rng_state())


def test_speakers_with_one_utterance_are_left_out(quick) -> None:
    codes, names = _corpus(own=0.5)
    assert _probe([*codes, codes[0]], [*names, "alone"]) == _probe(codes, names)


@pytest.mark.parametrize(
    "codes, speakers, segment, message",
    [
        ([np.array([1])], ["a", "b"], 10, "1 utterances have 2 speakers"),
        ([np.array([1])] * 3, ["a", "a", "a"], 10, "2 or more speakers .* got 1"),
        ([np.array([1])] * 3, ["a", "b", "b"], 10, "2 or more speakers .* got 1"),
        ([np.array([1]), np.array([K])] * 2, ["a", "b"] * 2, 10, f"0..{K - 1}, got {K}..{K}"),
        ([np.array([1])] * 4, ["a", "b"] * 2, 0, "at least 1 code, got 0"),
    ],
)
def test_what_cannot_be_probed_is_refused(codes, speakers, segment, message) -> None:
    with pytest.raises(ValueError, match=message):
        _probe(codes, speakers, segment)
