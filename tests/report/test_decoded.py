"""The audio that a report measures: which system has which audio."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import vqaudio
from vqaudio import SpeechVQVAE, SpeechVQVAEConfig
from vqaudio.cli.main import main
from vqaudio.data.manifest import Utterance, manifest_row, read_manifest
from vqaudio.nn.context import ContextConfig
from vqaudio.nn.log_mel import LogMelConfig
from vqaudio.report.datasets import EvaluationSet
from vqaudio.report.decoded import DecodedSpeech, choose_targets, decode_speech, invertible_spectrum
from vqaudio.report.systems import INVERTED, ORIGINAL, NotApplicableError, conversion, reconstruction
from vqaudio.sampling.config import SamplingConfig
from vqaudio.speech.vocoders import Vocoder

MINI = Path(__file__).parents[2] / "egs/mini"
SAMPLING = SamplingConfig(seed=3)
Initialised = Callable[..., SpeechVQVAE]


@pytest.fixture(scope="module")
def cfg(tiny_config: SpeechVQVAEConfig) -> SpeechVQVAEConfig:
    return replace(
        tiny_config,
        context=ContextConfig(dilations=(1,), channels=6),
        spectrum=LogMelConfig(n_mels=10, hop_length=8, win_length=400),
    )


def _set(model: SpeechVQVAE, speakers: tuple[str, ...], training: tuple[str, ...] = ()) -> EvaluationSet:
    """The first utterances of the embedded corpus under other speakers' names."""
    (test, train) = (list(read_manifest(MINI / f"{part}.jsonl")) for part in ("test", "train"))
    utterances = [replace(u, speaker=name) for u, name in zip(test, speakers, strict=False)]
    return EvaluationSet(
        "set", utterances, [replace(u, speaker=s) for u, s in zip(train, training, strict=False)], {}, model.sample_rate
    )


def _decoded(model: SpeechVQVAE, dataset: EvaluationSet, targets: tuple[str, ...] = (), most: int = 9) -> DecodedSpeech:
    """Of the first tenth of a second of each utterance."""
    wavs = {u.id: dataset.wav(u)[:1600] for u in (*dataset.utterances, *dataset.training)}
    short = type("Short", (EvaluationSet,), {"wav": lambda self, u: wavs[u.id]})(**vars(dataset))
    tokens = [model.tokenize(wavs[u.id]) for u in dataset.utterances]
    return decode_speech(model, short, tokens.__getitem__, targets, invertible_spectrum(model, [short]), most, SAMPLING)


def test_each_system_has_its_own_audio(initialised: Initialised, cfg: SpeechVQVAEConfig) -> None:
    model = initialised(cfg)
    dataset = _set(model, ("anna", "bert", "nobody"))
    found = _decoded(model, dataset, ("anna", "carl"))
    assert [u.speaker for u in found.utterances] == ["anna", "bert"] and found.targets == ["carl", "carl"]
    for i, u in enumerate(found.utterances):
        wav = dataset.wav(u)[:1600]
        assert np.array_equal(found.audio[ORIGINAL][i], wav)
        tokens = model.tokenize(wav)
        for vocoder in ("griffin-lim", "wavenet"):
            for system, speaker in ((reconstruction(vocoder), u.speaker), (conversion(vocoder), found.targets[i])):
                expected = model.decode(tokens, speaker, SAMPLING, vocoder)
                assert torch.from_numpy(found.audio[system][i]).equal(expected), system
    assert len(found.audio) == 6 and len(found.audio[INVERTED][1]) == 1600


def test_unknown_speakers_are_converted_to_speakers_of_the_model(initialised: Initialised, cfg) -> None:
    model = initialised(cfg)
    found = _decoded(model, _set(model, ("x", "y", "x")))
    assert found.targets == ["anna", "bert", "carl"]
    assert found.audio.keys() == {ORIGINAL, INVERTED, conversion("griffin-lim"), conversion("wavenet")}


def test_a_model_without_speakers_is_reconstructed(initialised: Initialised, cfg: SpeechVQVAEConfig) -> None:
    model = initialised(replace(cfg, speakers=()))
    found = _decoded(model, _set(model, ("x",)))
    assert found.targets == [] and reconstruction("wavenet") in found.audio


def test_a_probe_stands_for_the_spectrum_head_also_without_decoder(initialised: Initialised, cfg) -> None:
    headless = replace(cfg, context=ContextConfig(), spectrum=LogMelConfig())
    model = initialised(headless)
    dataset = _set(model, ("anna", "bert"), ("anna", "bert"))
    assert model.vocoders == ("wavenet",)
    found = _decoded(model, dataset, most=1)
    assert {INVERTED, reconstruction("griffin-lim"), reconstruction("wavenet")} <= found.audio.keys()
    assert conversion("griffin-lim") not in found.audio and conversion("wavenet") in found.audio
    model.cfg = replace(cfg, stage="codes")  # a decoder that is not trained
    model.spectrum = None
    assert model.vocoders == ()
    assert _decoded(model, dataset, most=1).audio.keys() == {ORIGINAL, INVERTED, reconstruction("griffin-lim")}
    with pytest.raises(NotApplicableError, match="stage: codes"):
        _decoded(model, _set(model, ("anna",)))


def test_utterances_with_texts_are_preferred(initialised: Initialised, cfg: SpeechVQVAEConfig) -> None:
    model = initialised(cfg)
    dataset = _set(model, ("anna", "anna"))
    dataset.utterances[0] = replace(dataset.utterances[0], text=None)
    assert [u.id for u in _decoded(model, dataset, most=1).utterances] == [dataset.utterances[1].id]


def test_utterances_longer_than_a_minute_are_not_decoded(initialised: Initialised, cfg: SpeechVQVAEConfig) -> None:
    model = initialised(cfg)
    dataset = _set(model, ("anna", "anna"))
    dataset.utterances[0] = replace(dataset.utterances[0], seconds=60.1)
    assert [u.id for u in _decoded(model, dataset).utterances] == [dataset.utterances[1].id]
    dataset.utterances[1] = replace(dataset.utterances[1], seconds=7200)
    with pytest.raises(NotApplicableError, match="all utterances are longer than 60 s"):
        _decoded(model, dataset)


def test_targets_are_others_and_spread() -> None:
    assert choose_targets(["a"], ["a"]) == [] == choose_targets([], ["a"])
    assert choose_targets(["a"], ["b", "c"]) == ["a", "a"]
    assert choose_targets(["a", "b"], ["a", "b", "x"]) == ["b", "a", "a"]
    many = [str(i) for i in range(80)]
    assert choose_targets(many, ["x"] * 9) == [str(i) for i in range(0, 80, 10)] + ["0"]


@pytest.mark.slow
def test_conversions_of_the_shipped_model_have_the_pitch_of_their_source(tmp_path: Path) -> None:
    """By the report, which compares it for the vocoders that are given the pitch."""
    examples = Path(vqaudio.__file__).parent / "pretrained/mini/examples"
    found = [
        Utterance(path.stem, path, path.stem.partition("_")[0], soundfile.info(path).duration)
        for path in sorted(examples.glob("*_original.flac"))[:2]
    ]
    (tmp_path / "test.jsonl").write_text("".join(f"{manifest_row(u, tmp_path)}\n" for u in found))
    command = ["evaluate", "--model", "mini", "--data", str(tmp_path / "test.jsonl"), "--only", "signal"]
    assert main([*command, "--decoded-utterances", "2", "--no-html", "--out", str(tmp_path / "report")]) == 0
    rows = json.loads((tmp_path / "report/report.json").read_text())["metrics"]
    pitch = {row["system"]: row["value"] for row in rows if row["metric"] == "f0_correlation"}
    names = {row["system"]: {own["metric"] for own in rows if own["system"] == row["system"]} for row in rows}
    least_of: dict[Vocoder, float] = {"istft": 0.9, "wavenet": 0.5}
    for vocoder, least in least_of.items():
        assert pitch[conversion(vocoder)] > least
        assert "mcd" in names[reconstruction(vocoder)] - names[conversion(vocoder)]
    assert conversion("griffin-lim") not in pitch and reconstruction("griffin-lim") in pitch
