"""recipes/train_prior.py: training on token files, and the cache of the tokens that it computes itself."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from vqaudio import SpeechVQVAE, load_model, save_model
from vqaudio.data.manifest import read_manifest
from vqaudio.speech.prior import CodePrior
from vqaudio.speech.tokens import Tokens
from vqaudio.tokens.bulk import find_sources, tokenize_whole
from vqaudio.tokens.chunks import split_rows
from vqaudio.tokens.files import read_token_files, write_tokens
from vqaudio.tokens.rows import TokenRow
from vqaudio.training.metrics_file import read_metrics

ROOT = Path(__file__).parents[1]
TINY = [
    *("--speech.net.layers", "2", "--speech.net.layers-per-stack", "2", "--speech.net.residual-channels", "4"),
    *("--speech.net.skip-channels", "4", "--crops.length", "32", "--crops.batch-size", "2", "--fit.steps", "2"),
    *("--fit.precision", "no"),
]


@pytest.fixture
def train_prior(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A function (*arguments) that runs recipes/train_prior.py in this process."""

    def run(*arguments: str | Path) -> None:
        spec = importlib.util.spec_from_file_location("train_prior", ROOT / "recipes/train_prior.py")
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "train_prior", module)
        spec.loader.exec_module(module)
        monkeypatch.setattr(sys, "argv", ["train_prior.py", *map(str, arguments), *TINY])
        module.main()

    return run


@pytest.fixture
def corpus(tmp_path: Path, write_manifest: Callable[..., None]) -> Path:
    """A folder with a train.jsonl of six utterances by two speakers, and a valid.jsonl of two."""
    for part, count in (("train", 3), ("valid", 1)):
        every = read_manifest(ROOT / f"egs/mini/{part}.jsonl")
        speakers = sorted({u.speaker for u in every})[:2]
        write_manifest(tmp_path / f"{part}.jsonl", [u for s in speakers for u in every if u.speaker == s][: 2 * count])
    return tmp_path


@pytest.fixture
def rows(tiny_model: SpeechVQVAE, corpus: Path) -> list[TokenRow]:
    return list(tokenize_whole(tiny_model, find_sources([corpus / "train.jsonl"])))


@pytest.mark.parametrize("named", [True, False], ids=["validation files named", "held out of the training files"])
def test_a_prior_is_trained_on_token_files(
    named: bool, tiny_model_dir: Path, rows: list[TokenRow], train_prior: Callable[..., None], tmp_path: Path
) -> None:
    write_tokens(tmp_path / "a.jsonl", rows[:4])
    write_tokens(tmp_path / "b.parquet", rows[4:])
    tokens = ["--tokens", tmp_path / "a.jsonl", tmp_path / "b.parquet"]
    if named:
        write_tokens(tmp_path / "v.jsonl", rows[:2])
        tokens += ["--valid-tokens", tmp_path / "v.jsonl"]
    train_prior("--model", tiny_model_dir, *tokens, "--out", tmp_path / "exp/prior")
    prior = load_model(tmp_path / "exp/prior", kind=CodePrior)
    assert prior.cfg.model == load_model(tiny_model_dir).fingerprint and prior.cfg.net.num_classes == 16
    (metrics,) = [row for row in read_metrics(tmp_path / "exp/prior/metrics.jsonl") if row["kind"] == "valid"]
    assert 0 < metrics["bits_per_code"] < 20 and metrics["uniform_bits"] == 4
    assert not (tmp_path / "exp/codes").exists()  # nothing was tokenized


def test_two_tokenizers_have_separate_token_caches(
    tiny_model: SpeechVQVAE, tiny_model_dir: Path, corpus: Path, train_prior: Callable[..., None], tmp_path: Path
) -> None:
    other = SpeechVQVAE(tiny_model.cfg).eval()
    other.load_state_dict(tiny_model.state_dict())
    with torch.no_grad():
        other.encoder.out.bias.add_(0.5)
    save_model(other, tmp_path / "other")
    for name, model in (("first", tiny_model_dir), ("second", tmp_path / "other")):
        train_prior("--model", model, "--data", corpus, "--out", tmp_path / "exp" / name)
    caches = {path.name: path for path in (tmp_path / "exp/codes").iterdir()}
    assert caches.keys() == {tiny_model.fingerprint, other.fingerprint}
    for fingerprint, folder in caches.items():
        lines = (folder / "train.jsonl").read_text().splitlines()
        assert {json.loads(line)["model"] for line in lines} == {fingerprint} and len(lines) == 6


def test_token_files_that_cannot_be_used_are_explained(
    tiny_model_dir: Path, rows: list[TokenRow], train_prior: Callable[..., None], tmp_path: Path
) -> None:
    write_tokens(tmp_path / "a.jsonl", rows)
    write_tokens(tmp_path / "foreign.jsonl", [replace(r, tokens=replace(r.tokens, model="beefbeefbeef")) for r in rows])
    write_tokens(tmp_path / "few.jsonl", rows[:1])
    out = ["--model", tiny_model_dir, "--out", tmp_path / "exp/prior"]
    with pytest.raises(ValueError, match="has tokens of model beefbeefbeef, but the tokenizer is model"):
        train_prior("--tokens", tmp_path / "foreign.jsonl", *out)
    with pytest.raises(ValueError, match="valid_tokens needs tokens"):
        train_prior("--valid-tokens", tmp_path / "a.jsonl", *out)
    with pytest.raises(ValueError, match=r"1 utterances of 1 speakers are too few"):
        train_prior("--tokens", tmp_path / "few.jsonl", *out)
    with pytest.raises(ValueError, match=r"is in .*a\.jsonl and in .*few\.jsonl; ids must be unique"):
        read_token_files([tmp_path / "a.jsonl", tmp_path / "few.jsonl"])


@pytest.mark.parametrize(
    "flags",
    [["speakers", "p999"], ["model", "beefbeefbeef"], ["frame-rate", "50"], ["net.num-classes", "32"]],
    ids=lambda flags: flags[0],
)
def test_what_follows_from_the_tokenizer_cannot_be_set(
    flags: list[str], tiny_model_dir: Path, corpus: Path, train_prior: Callable[..., None], tmp_path: Path
) -> None:
    name, value = flags
    with pytest.raises(ValueError, match=rf"speech\.{name.replace('-', '_')} follows from the data and the model"):
        train_prior(
            "--model", tiny_model_dir, "--data", corpus, "--out", tmp_path / "exp/prior", f"--speech.{name}", value
        )
    assert not (tmp_path / "exp").exists()


def test_rows_are_split_per_speaker_independent_of_their_order() -> None:
    rows = [
        TokenRow(f"{who}{i}", who, Tokens(torch.tensor([i]), 8, 16000, 8, "m")) for who in ("a", "b") for i in range(40)
    ]
    train, valid = split_rows(rows, 0.05)
    assert sorted(row.id for row in (*train, *valid)) == sorted(row.id for row in rows)
    assert [row.speaker for row in valid] == ["a"] * 2 + ["b"] * 2
    again = split_rows(rows[::-1], 0.05)
    assert {row.id for row in again[1]} == {row.id for row in valid}
