"""--pitch of tokenize and decode: the same in one process, several and after an interrupt; bits per second in info."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from vqaudio import SpeechVQVAE, load_model, save_model
from vqaudio.cli.main import main
from vqaudio.data.audio import to_int16
from vqaudio.data.manifest import Utterance
from vqaudio.nn.pitch_quantizer import PitchQuantizerConfig
from vqaudio.speech.pitch_init import with_pitch_tokens
from vqaudio.tokens.files import read_tokens
from vqaudio.tokens.rows import format_row

Run = Callable[..., int]
CFG = PitchQuantizerConfig(frames=10, codebook_size=16)  # of 40 samples: 40 per second


def hum(hertz: float, samples: int = 8000) -> Tensor:
    t = torch.arange(samples) / 16000
    return torch.stack([0.1 * torch.sin(2 * torch.pi * hertz * k * t) / k for k in range(1, 6)]).sum(0)


@pytest.fixture(scope="module")
def model(acoustic_model: SpeechVQVAE) -> SpeechVQVAE:
    return with_pitch_tokens(acoustic_model, CFG, [hum(90), hum(150), hum(250)])


@pytest.fixture(scope="module")
def run(model: SpeechVQVAE, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """(verb, *arguments) -> exit code."""
    folder = tmp_path_factory.mktemp("models") / "with"
    save_model(model, folder)
    return lambda verb, *rest: main([verb, *map(str, rest), "--model", str(folder)])


@pytest.fixture
def speech(tmp_path) -> Path:
    """anna/a.wav, anna/b.wav, bert/c.wav"""
    for name, hertz in (("anna/a", 110), ("anna/b", 140), ("bert/c", 210)):
        path = tmp_path / f"speech/{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, hum(hertz, 7000 + hertz).numpy(), 16000)
    return tmp_path / "speech"


def _lines(path: Path) -> list[str]:
    return [format_row(row) for row in read_tokens(path)]


def test_workers_and_resumed_runs_write_the_same_tokens(tmp_path, capsys, run: Run, model, speech) -> None:
    assert run("tokenize", speech, "--out", tmp_path / "t.jsonl", "--pitch") == 0
    printed = capsys.readouterr().out
    assert "160 bits per second (log2 16 = 4 bits per token)" in printed
    for row in read_tokens(tmp_path / "t.jsonl"):
        expected = model.tokenize(next(speech.rglob(f"{row.id[-1]}.wav")), pitch=True)
        assert format_row(row) == format_row(replace(row, tokens=expected))
    assert run("tokenize", speech, "--out", tmp_path / "w.jsonl", "--pitch", "--workers", 2) == 0
    assert (tmp_path / "w.jsonl").read_bytes() == (tmp_path / "t.jsonl").read_bytes()
    assert run("tokenize", speech, "--out", tmp_path / "p.jsonl") == 0
    without = (tmp_path / "p.jsonl").read_bytes()
    assert b"pitch" not in without
    assert run("tokenize", speech, "--out", tmp_path / "p.jsonl", "--pitch", "--resume") == 0  # all are computed again
    assert (tmp_path / "p.jsonl").read_bytes() == (tmp_path / "t.jsonl").read_bytes()
    assert run("tokenize", speech, "--out", tmp_path / "p.jsonl", "--resume") == 0
    assert (tmp_path / "p.jsonl").read_bytes() == without


def test_an_interrupted_run_keeps_its_pitch_tokens(tmp_path, monkeypatch, run: Run, speech) -> None:
    assert run("tokenize", speech, "--out", tmp_path / "t.jsonl", "--pitch") == 0
    original, calls = SpeechVQVAE.tokenize, []

    def interrupted(self, *args, **kwargs):
        calls.append(kwargs)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)

    monkeypatch.setattr(SpeechVQVAE, "tokenize", interrupted)
    one_by_one = ("--pitch", "--resume", "--threads", 1)
    assert run("tokenize", speech, "--out", tmp_path / "r.jsonl", *one_by_one) == 130
    assert run("tokenize", speech, "--out", tmp_path / "r.jsonl", *one_by_one) == 0
    assert len(calls) == 4 and (tmp_path / "r.jsonl").read_bytes() == (tmp_path / "t.jsonl").read_bytes()


def test_decode_uses_them_by_default(tmp_path, run: Run, model: SpeechVQVAE, speech) -> None:
    assert run("tokenize", speech, "--out", tmp_path / "t.jsonl", "--pitch") == 0
    rows = list(read_tokens(tmp_path / "t.jsonl"))

    def decoded(out: str, *flags: object) -> list[np.ndarray]:
        assert run("decode", tmp_path / "t.jsonl", "--out", tmp_path / out, *flags) == 0
        return [soundfile.read(tmp_path / out / f"{row.id}.wav", dtype="int16")[0] for row in rows]

    def expected(speaker: str | None, pitch: bool = True) -> list[np.ndarray]:
        wavs = []
        for row in rows:
            tokens = row.tokens if pitch else replace(row.tokens, pitch=None)
            wavs.append(model.decode(tokens, speaker or row.speaker, source_speaker=row.speaker))
        return [to_int16(wav.numpy()) for wav in wavs]

    for found, wanted in (
        (decoded("own"), expected(None)),
        (decoded("bert", "--speaker", "bert", "--pitch", "tokens"), expected("bert")),
        (decoded("codes", "--pitch", "codes"), expected(None, pitch=False)),
    ):
        assert all(map(np.array_equal, found, wanted))
    assert not np.array_equal(expected(None)[0], expected(None, pitch=False)[0])
    assert run("decode", tmp_path / "t.jsonl", "--out", tmp_path / "own", "--resume") == 0
    assert run("decode", tmp_path / "t.jsonl", "--out", tmp_path / "own", "--resume", "--pitch", "codes") == 2
    assert run("decode", tmp_path / "t.jsonl", "--out", tmp_path / "s.wav", "--stream") == 0
    assert np.array_equal(soundfile.read(tmp_path / "s.wav", dtype="int16")[0], np.concatenate(expected(None)))


def test_wrong_usage_is_refused(tmp_path, capsys, run: Run, acoustic_model: SpeechVQVAE, model, speech) -> None:
    def refused(message: str, *arguments: object, by: Run = run) -> None:
        assert by(*arguments) == 2
        assert message in capsys.readouterr().err

    save_model(acoustic_model, tmp_path / "plain")
    without: Run = lambda verb, *rest: main([verb, *map(str, rest), "--model", str(tmp_path / "plain")])  # noqa: E731
    out = tmp_path / "o"
    refused("this model has no pitch tokens", "tokenize", speech, "--out", tmp_path / "x.jsonl", "--pitch", by=without)
    refused("text of ids and codes alone", "tokenize", speech, "--out", tmp_path / "x.units", "--pitch")
    assert run("tokenize", speech, "--out", tmp_path / "t.jsonl", "--pitch") == 0
    assert run("tokenize", speech, "--out", tmp_path / "p.jsonl") == 0
    refused("and this model has none", "decode", tmp_path / "t.jsonl", "--out", out, by=without)
    refused("a has no pitch tokens; tokenize", "decode", tmp_path / "p.jsonl", "--out", out, "--pitch", "tokens")
    griffin_lim = ("--vocoder", "griffin-lim", "--pitch", "tokens")
    refused("griffin-lim of this model is not cond", "decode", tmp_path / "t.jsonl", "--out", out, *griffin_lim)
    assert without("decode", tmp_path / "t.jsonl", "--out", tmp_path / "ok", "--pitch", "codes") == 0


def test_info_and_archives_tell_bits_per_second(tmp_path, capsys, run: Run, model: SpeechVQVAE, speech) -> None:
    save_model(model, tmp_path / "m")
    assert main(["info", str(tmp_path / "m")]) == 0
    assert model.pitch_quantizer is not None
    expected = (
        f"40 tokens per second, 160 bits per second (log2 16 = 4 bits per token), {model.pitch_quantizer.fingerprint}"
    )
    assert expected in capsys.readouterr().out
    assert run("tokenize", speech, "--out", tmp_path / "t", "--pitch") == 0
    assert main(["pack", str(tmp_path / "t"), "--out", str(tmp_path / "t.vqa")]) == 0
    capsys.readouterr()
    for name in ("t", "t.vqa"):
        assert main(["info", str(tmp_path / name)]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("pitch")]
    assert len(lines) == 2 and "per second" in lines[0] and "bits per second" in lines[1]
    assert main(["unpack", str(tmp_path / "t.vqa"), "--out", str(tmp_path / "again.jsonl")]) == 0
    assert _lines(tmp_path / "again.jsonl") == _lines(tmp_path / "t")
    assert main(["reformat", str(tmp_path / "t"), "--out", str(tmp_path / "r.tar")]) == 0
    assert _lines(tmp_path / "r.tar") == _lines(tmp_path / "t")


def test_the_recipe_adds_them_to_a_model(tmp_path, acoustic_model, recipe, write_manifest, speech) -> None:
    save_model(acoustic_model, tmp_path / "plain")
    utterances = [Utterance(path.stem, path, "anna", 0.5) for path in sorted(speech.rglob("*.wav"))]
    write_manifest(tmp_path / "train.jsonl", utterances)
    flags = ("--pitch-tokens.frames", 10, "--pitch-tokens.codebook-size", 16, "--float16", "decoder")
    named = ("--model", tmp_path / "plain", "--train", tmp_path / "train.jsonl", "--out", tmp_path / "new")
    recipe("pitch_tokens", *named, *flags)
    made = load_model(tmp_path / "new")
    assert made.fingerprint == acoustic_model.fingerprint and made.pitch_quantizer is not None
    assert made.pitch_quantizer.cfg == CFG and made.tokenize(hum(100), pitch=True).pitch is not None
    with pytest.raises(ValueError, match="is a model already"):
        recipe("pitch_tokens", *named, *flags)
