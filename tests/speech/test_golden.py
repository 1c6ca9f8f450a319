"""The shipped tokenizer reproduces the tokens in golden.jsonl from the audio examples beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

import vqaudio
from vqaudio.checkpoint import PRETRAINED, shipped_models
from vqaudio.tokens.files import read_tokens


@pytest.mark.parametrize("name", shipped_models())
def test_the_golden_tokens_are_reproduced(name: str) -> None:
    model, folder = vqaudio.load_model(name), PRETRAINED / name
    rows = list(read_tokens(folder / "golden.jsonl"))
    assert len(rows) >= 3
    for row in rows:
        tokens = model.tokenize(folder / "examples" / f"{row.id}_original.flac")
        assert tokens.model == row.tokens.model
        assert tokens.num_samples == row.tokens.num_samples
        # another processor may round a vector across the border between two codes
        assert (tokens.codes == row.tokens.codes).float().mean() >= 0.99, row.id


def test_the_shipped_models_are_small_and_described() -> None:
    for name in shipped_models():
        folder = PRETRAINED / name
        assert (folder / "model.safetensors").stat().st_size <= 12_000_000
        assert "Data and attribution" in (folder / "MODEL_CARD.md").read_text(encoding="utf-8")
        assert sum(path.stat().st_size for path in Path(folder / "examples").glob("*.flac")) < 2_000_000
