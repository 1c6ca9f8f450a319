"""The counts that the range coder receives: integers that are equal on every machine and that it uses unchanged."""

from __future__ import annotations

import numpy as np
import pytest

from vqaudio.tokens.archive_coding import constriction, counts, decode_fixed, encode_fixed


def test_counts_are_integers_close_to_the_probabilities() -> None:
    logits = np.random.default_rng(0).normal(size=(300, 40)).astype(np.float32) * 6
    logits[0], logits[1, 3], logits[2, :] = 5.0, 3e38, -3e38
    result = counts(logits)
    assert (result == np.floor(result)).all() and (result >= 0).all()
    assert (result.sum(1) == 2**24 - 40).all()
    expected = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    expected /= expected.sum(1, keepdims=True)
    assert np.abs(result / (2**24 - 40) - expected).max() < 40 / 2**24
    assert np.array_equal(
        np.concatenate([counts(row[None]) for row in logits]), result
    )  # rows do not depend on each other


def test_the_range_coder_uses_the_counts_unchanged() -> None:
    stream = constriction().stream
    logits = np.random.default_rng(0).normal(size=(2000, 40)).astype(np.float32) * 6
    result, chosen = counts(logits), logits.argmin(axis=1).astype(np.int32)
    encoder = stream.queue.RangeEncoder()
    encoder.encode(chosen, stream.model.Categorical(perfect=False), result)
    expected = -np.log2((result[np.arange(2000), chosen] + 1) / 2**24).sum()
    assert expected > 2000 * 15  # improbable codes, whose length would change by a different count
    assert abs(encoder.num_bits() - expected) < 64


def test_fixed_length_coding_concatenates_the_bits() -> None:
    codes = [np.array([5, 0, 7]), np.array([2])]
    assert encode_fixed(codes, 8) == bytes([0b10100011, 0b10100000])
    decoded = decode_fixed(bytes([0b10100011, 0b10100000]), [3, 1], 8)
    assert [sequence.tolist() for sequence in decoded] == [[5, 0, 7], [2]]
    with pytest.raises(ValueError, match="4 codes of 3 bits require 2 bytes, got 1"):
        decode_fixed(b"0", [3, 1], 8)
