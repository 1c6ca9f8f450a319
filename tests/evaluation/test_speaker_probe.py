import numpy as np
import pytest

from vqaudio.evaluation.speaker_probe import speaker_probe

K = 16


def _corpus(own: float, seed: int = 0, per_speaker: int = 12) -> tuple[list[np.ndarray], list[str]]:
    """Utterances of three speakers; a share `own` of the codes comes from four codes that are a speaker's alone."""
    rng = np.random.default_rng(seed)
    codes, names = [], []
    for i in range(per_speaker * 3):
        speaker, length = i % 3, int(rng.integers(150, 400))
        mine = rng.integers(4 * speaker, 4 * speaker + 4, length)
        codes.append(np.where(rng.random(length) < own, mine, rng.integers(K, size=length)))
        names.append(f"s{speaker}")
    return codes, names


def test_codes_that_name_the_speaker_are_heard() -> None:
    found = speaker_probe(*_corpus(own=0.5), K, segment=100)
    assert found.accuracy > 0.95 and found.low <= found.accuracy <= found.high
    assert found.num_speakers == 3 and found.num_segments > 36


def test_codes_that_do_not_are_named_at_random() -> None:
    found = speaker_probe(*_corpus(own=0.0, per_speaker=40), K, segment=100)
    assert found.low < 1 / 3 + 0.05 and found.high < 0.5
    assert found.chance == pytest.approx(1 / 3, abs=0.05)


def test_the_interval_narrows_with_the_number_of_utterances() -> None:
    few, many = (speaker_probe(*_corpus(own=0.1, per_speaker=n), K, segment=50) for n in (4, 60))
    assert many.high - many.low < (few.high - few.low) / 2


def test_the_same_codes_give_the_same_figures() -> None:
    assert speaker_probe(*_corpus(own=0.1), K, 100) == speaker_probe(*_corpus(own=0.1), K, 100)


def test_speakers_with_one_utterance_are_left_out() -> None:
    codes, names = _corpus(own=0.5)
    found = speaker_probe([*codes, codes[0]], [*names, "alone"], K, 100)
    assert found == speaker_probe(codes, names, K, 100)


@pytest.mark.parametrize(
    "codes, speakers, segment, message",
    [
        ([np.array([1])], ["a", "b"], 10, "1 utterances have 2 speakers"),
        ([np.array([1])] * 3, ["a", "b", "b"], 10, "2 or more speakers .* got 1"),
        ([np.array([1]), np.array([K])] * 2, ["a", "b"] * 2, 10, f"0..{K - 1}, got {K} to {K}"),
        ([np.array([1])] * 4, ["a", "b"] * 2, 0, "segment must be at least 1"),
    ],
)
def test_what_cannot_be_probed_is_refused(codes, speakers, segment, message) -> None:
    with pytest.raises(ValueError, match=message):
        speaker_probe(codes, speakers, K, segment)
