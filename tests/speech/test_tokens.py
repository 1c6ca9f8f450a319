import pytest
import torch

from vqaudio import Tokens


def test_duration() -> None:
    tokens = Tokens(torch.zeros(3, dtype=torch.long), num_samples=20, sample_rate=10, hop=8, model="abc")
    assert tokens.seconds == 2.0


@pytest.mark.parametrize("num_samples", [1, 7, 8, 9, 16, 17])
def test_the_number_of_codes_follows_from_the_hop(num_samples) -> None:
    right = -(-num_samples // 8)
    assert len(Tokens(torch.zeros(right, dtype=torch.long), num_samples, 10, 8, "abc").codes) == right
    for wrong in (right - 1, right + 1):
        with pytest.raises(ValueError, match=f"{num_samples} samples .* {right} codes, got {wrong}"):
            Tokens(torch.zeros(wrong, dtype=torch.long), num_samples, 10, 8, "abc")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"codes": torch.zeros(1, 2, dtype=torch.long)}, r"codes must be \(N,\) int64, got \(1, 2\)"),
        ({"codes": torch.zeros(2)}, "int64, got .*float32"),
        ({"num_samples": 0}, "num_samples"),
        ({"sample_rate": -1}, "sample_rate"),
        ({"hop": 0}, "hop"),
    ],
)
def test_invalid_tokens_are_refused(change, message) -> None:
    facts = {"codes": torch.zeros(2, dtype=torch.long), "num_samples": 9, "sample_rate": 10, "hop": 8, "model": "abc"}
    with pytest.raises(ValueError, match=message):
        Tokens(**{**facts, **change})
