"""Tokens of manifests are computed once; a cache of another model or of other utterances is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from vqaudio import SpeechVQVAE
from vqaudio.data.audio import AudioError
from vqaudio.data.manifest import read_manifest
from vqaudio.tokens.bulk import tokens_of
from vqaudio.tokens.files import write_tokens

MINI = Path(__file__).parents[2] / "egs/mini"


@pytest.fixture
def manifests(tmp_path: Path, write_manifest: Callable[..., None]) -> list[Path]:
    utterances = read_manifest(MINI / "valid.jsonl")
    for name, group in (("a", utterances[:2]), ("b", utterances[2:3])):
        write_manifest(tmp_path / f"{name}.jsonl", group)
    return [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]


def test_they_are_computed_once(
    manifests: list[Path], tiny_model: SpeechVQVAE, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = list(tokens_of(tiny_model, manifests, tmp_path / "codes/train.jsonl"))
    assert len(rows) == 3
    for row, utterance in zip(rows, read_manifest(MINI / "valid.jsonl"), strict=False):
        assert torch.equal(row.tokens.codes, tiny_model.tokenize(utterance.path).codes)
        assert row.speaker == utterance.speaker
    monkeypatch.setattr(SpeechVQVAE, "tokenize", None)
    again = list(tokens_of(tiny_model, manifests, tmp_path / "codes/train.jsonl"))
    assert [row.id for row in again] == [row.id for row in rows]


def test_other_utterances_and_missing_manifests_are_refused(
    manifests: list[Path], tiny_model: SpeechVQVAE, tmp_path: Path
) -> None:
    list(tokens_of(tiny_model, manifests, tmp_path / "train.jsonl"))
    with pytest.raises(ValueError, match=r"contains 3 utterances, which are not the 2 of .*a\.jsonl"):
        tokens_of(tiny_model, manifests[:1], tmp_path / "train.jsonl")
    with pytest.raises(FileNotFoundError, match=r"manifest nowhere\.jsonl does not exist"):
        tokens_of(tiny_model, [Path("nowhere.jsonl")], tmp_path / "train.jsonl")


def test_tokens_of_another_model_are_refused(manifests: list[Path], tiny_model: SpeechVQVAE, tmp_path: Path) -> None:
    rows = list(tokens_of(tiny_model, manifests, tmp_path / "rows.jsonl"))
    others = [replace(row, tokens=replace(row.tokens, model="beefbeefbeef")) for row in rows]
    write_tokens(tmp_path / "train.jsonl", others)
    models = f"model beefbeefbeef, not of model {tiny_model.fingerprint}; delete it"
    with pytest.raises(ValueError, match=rf"train\.jsonl contains tokens of {models}"):
        tokens_of(tiny_model, manifests, tmp_path / "train.jsonl")


def test_an_utterance_that_cannot_be_used_leaves_no_file(
    manifests: list[Path], tiny_model: SpeechVQVAE, tmp_path: Path, write_manifest: Callable[..., None]
) -> None:
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"no audio")
    (good,) = read_manifest(manifests[1])

    manifests[1].unlink()
    write_manifest(manifests[1], [good, replace(good, id="broken", path=broken)])
    with pytest.raises(AudioError, match=r"broken\.wav"):
        tokens_of(tiny_model, manifests, tmp_path / "codes/train.jsonl")
    assert not (tmp_path / "codes/train.jsonl").exists()
