"""Crops are contiguous parts of the utterances, and a pure function of the step."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vqaudio.speech.tokens import Tokens
from vqaudio.tokens.chunks import CodeCropConfig, CodeCrops, CodeSequences, sequences, whole_utterances
from vqaudio.tokens.rows import TokenRow


def _row(id: str, speaker: str | None, codes: list[int], model: str = "m") -> TokenRow:
    return TokenRow(id, speaker, Tokens(torch.tensor(codes), 4 * len(codes), 16000, 4, model))


@pytest.fixture
def utterances() -> CodeSequences:
    rng = np.random.default_rng(0)
    rows = [
        _row(f"u{i}", ("anna", "bert", None)[i % 3], rng.integers(0, 9, length).tolist())
        for i, length in enumerate((20, 3, 8, 11))
    ]
    return sequences(rows, ("anna", "bert"), 9, "m")


def test_every_crop_is_a_part_of_an_utterance_of_its_speaker(utterances: CodeSequences) -> None:
    crops = CodeCrops(utterances, CodeCropConfig(length=6, batch_size=50))
    batch = crops.batch(3)
    assert batch["codes"].shape == (50, 6)
    seen = set()
    for codes, speaker, length in zip(*(batch[name] for name in ("codes", "speaker", "lengths")), strict=True):
        origins = [
            u
            for u, sequence in enumerate(utterances.codes)
            if utterances.speaker_ids[u] == speaker
            and any(sequence[s : s + 6].tolist() == codes[:length].tolist() for s in range(len(sequence)))
        ]
        assert origins and length == min(6, max(len(utterances.codes[u]) for u in origins))
        assert not codes[length:].any()
        seen |= set(origins)
    assert seen == {0, 1, 2, 3}


def test_parts_make_up_the_batch_and_steps_are_reproducible(utterances: CodeSequences) -> None:
    crops = CodeCrops(utterances, CodeCropConfig(length=5, batch_size=7, seed=2))
    whole = crops.batch(4)
    parts = [crops.batch(4, part, 3) for part in range(3)]
    for name in whole:
        assert torch.equal(torch.cat([part[name] for part in parts]), whole[name])
        assert torch.equal(crops.batch(4)[name], whole[name])
    assert not torch.equal(crops.batch(5)["codes"], whole["codes"])


def test_every_position_is_drawn_equally_often() -> None:
    utterances = sequences([_row("a", None, list(range(8))), _row("b", None, [8, 9, 10])], (), 11, "m")
    crops = CodeCrops(utterances, CodeCropConfig(length=3, batch_size=700))
    first = torch.cat([crops.batch(step)["codes"][:, 0] for step in range(10)])
    frequencies = torch.bincount(first, minlength=11) / len(first)
    torch.testing.assert_close(frequencies[[0, 1, 2, 3, 4, 5, 8]], torch.full((7,), 1 / 7), atol=0.015, rtol=0)


def test_every_whole_utterance_occurs_once(utterances: CodeSequences) -> None:
    batches = [batch for _, batch in whole_utterances(utterances, 24)]
    assert sum(batch["lengths"].sum().item() for batch in batches) == utterances.num_codes
    assert [len(batch["codes"]) for batch in batches] == [1, 2, 1]
    assert all(batch["codes"].numel() <= 24 for batch in batches)


def test_unsuitable_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="'u' has tokens of model x, but the tokenizer is model m"):
        sequences([_row("u", None, [1], "x")], (), 9, "m")
    with pytest.raises(ValueError, match=r"codes of 'u' must lie in 0\.\.3, got 4\.\.4"):
        sequences([_row("u", None, [4])], (), 4, "m")
    with pytest.raises(ValueError, match="no token rows"):
        sequences([], (), 4, "m")
