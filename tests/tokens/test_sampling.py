"""Samples from a prior: an utterance is the same alone and in a batch, and `vqaudio sample` writes audio and codes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile
import torch
from torch import nn

from vqaudio import SpeechVQVAE, save_model
from vqaudio.cli.main import main
from vqaudio.nn.wavenet import WaveNetConfig
from vqaudio.sampling.config import SamplingConfig
from vqaudio.speech.prior import CodePrior, CodePriorConfig
from vqaudio.tokens.files import read_tokens
from vqaudio.tokens.sampling import sample_ids, sample_rows

NET = WaveNetConfig(
    num_classes=16, layers=3, layers_per_stack=2, residual_channels=6, skip_channels=8, cond_hidden_channels=6
)
SECONDS = 0.01  # 20 codes of 8 samples at 16 kHz


@pytest.fixture
def prior(tiny_model: SpeechVQVAE, randomise: Callable[..., nn.Module]) -> CodePrior:
    prior = CodePrior(
        CodePriorConfig(speakers=("anna", "bert"), model=tiny_model.fingerprint, frame_rate=2000, net=NET)
    )
    randomise(prior)
    return prior.eval().requires_grad_(False)


def test_an_utterance_depends_on_seed_speaker_and_number(prior: CodePrior, tiny_model: SpeechVQVAE) -> None:
    rows = {
        row.id: row
        for row in sample_rows(prior, tiny_model, ["anna", "carl", None], 3, SECONDS, SamplingConfig(seed=5))
    }
    assert set(rows) == {*(f"anna-{i}" for i in range(3)), *(f"carl-{i}" for i in range(3)), "0", "1", "2"}
    assert all(len(row.tokens.codes) == 20 for row in rows.values())
    alone = {row.id: row for row in sample_rows(prior, tiny_model, ["anna"], 2, SECONDS, SamplingConfig(seed=5))}
    for id, row in alone.items():
        assert torch.equal(row.tokens.codes, rows[id].tokens.codes)
    assert torch.equal(rows["carl-1"].tokens.codes, rows["1"].tokens.codes)  # unknown speakers are null
    assert rows["carl-1"].speaker == "carl"
    assert len({tuple(row.tokens.codes.tolist()) for row in alone.values()}) == 2


def test_a_prompt_is_kept_and_continued(prior: CodePrior, tiny_model: SpeechVQVAE) -> None:
    prompt = tiny_model.tokenize(torch.rand(100, generator=torch.Generator().manual_seed(0)) - 0.5)
    (row,) = sample_rows(prior, tiny_model, ["bert"], 1, SECONDS, prompt=prompt)
    assert torch.equal(row.tokens.codes[:13], prompt.codes)
    assert len(row.tokens.codes) == 33
    tiny_model.check_tokens(row.tokens)


def test_the_verb_writes_audio_and_codes(
    prior: CodePrior, tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_model(prior, tmp_path / "prior")
    given = ["sample", "--prior", str(tmp_path / "prior"), "--model", str(tiny_model_dir), "--seconds", str(SECONDS)]
    out = ["--out", str(tmp_path / "out")]
    assert main([*given, *out, "--speaker", "all", "--count", "2"]) == 0
    rows = {row.id: row for row in read_tokens(tmp_path / "out/tokens.jsonl")}
    assert set(rows) == {f"{name}-{i}" for name in ("anna", "bert", "carl") for i in range(2)}
    for id in rows:
        wav, rate = soundfile.read(tmp_path / f"out/{id}.wav")
        assert (len(wav), rate) == (160, 16000)
    for existing in ("tokens.jsonl", "anna-1.wav"):  # both are checked before anything is sampled
        for path in (tmp_path / "out").iterdir():
            if path.name != existing:
                path.unlink()
        assert main([*given, *out, "--speaker", "all", "--count", "2"]) == 2
        assert [path.name for path in (tmp_path / "out").iterdir()] == [existing]
        assert f"{existing} exists already; pass --overwrite to replace it" in capsys.readouterr().err
        assert main([*given, *out, "--speaker", "all", "--count", "2", "--overwrite"]) == 0
    assert main([*given, "--out", str(tmp_path / "other")]) == 2
    assert "name at least one --speaker of 3, or all" in capsys.readouterr().err
    assert main([*given, "--out", str(tmp_path / "other"), "--speaker", "anna", "--label", "cat"]) == 2
    assert main([*given, "--out", str(tmp_path / "other"), "--speaker", "dora"]) == 2
    assert not (tmp_path / "other").exists()


def test_a_prior_over_other_codes_is_refused(prior: CodePrior, tiny_model: SpeechVQVAE) -> None:
    prior.cfg.__dict__["model"] = "another"
    with pytest.raises(ValueError, match="the prior was trained on codes of model another"):
        list(sample_rows(prior, tiny_model, ["anna"], 1, SECONDS))


@pytest.mark.parametrize("count", [0, -1, 10**12, 10**30])
def test_an_absurd_number_of_samples_is_refused_before_any_work(count: int) -> None:
    with pytest.raises(ValueError, match=r"count must lie in 1\.\.1000000, got"):
        sample_ids(["anna"], count)
