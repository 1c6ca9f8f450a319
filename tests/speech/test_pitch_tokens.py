"""Pitch tokens of a speech model: the same in every way of tokenizing, and what decoding makes of them."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from vqaudio import SpeechVQVAE, Tokens, load_model, save_model
from vqaudio.data.audio import read_audio
from vqaudio.data.audio_folders import Source
from vqaudio.data.packed import PackedSpeech
from vqaudio.nn.pitch_quantizer import PitchQuantizerConfig
from vqaudio.speech.describe import model_facts
from vqaudio.speech.init_from import init_from
from vqaudio.speech.pitch_init import initialise_pitch, with_pitch_tokens
from vqaudio.speech.speakers import with_speakers
from vqaudio.speech.vocoding import decode_request
from vqaudio.tokens.bulk import tokenize_all

SAMPLES = 20000
CFG = PitchQuantizerConfig(frames=12, codebook_size=16)  # of 40 samples: 33 per second
ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("VQAUDIO_DATA", ROOT / "../shared/data")) / "vctk_mini"


def hum(hertz: float, samples: int = SAMPLES) -> Tensor:
    """A voice that pauses."""
    t = torch.arange(samples) / 16000
    wav = torch.stack([0.1 * torch.sin(2 * torch.pi * hertz * k * t) / k for k in range(1, 6)]).sum(0)
    return wav * (t % 0.4 < 0.3)


@pytest.fixture(scope="module")
def model(acoustic_model: SpeechVQVAE) -> SpeechVQVAE:
    return with_pitch_tokens(acoustic_model, CFG, [hum(90), hum(130), hum(200), hum(260)])


@pytest.fixture(scope="module")
def tokens(model: SpeechVQVAE) -> Tokens:
    return model.tokenize(hum(120), pitch=True)


def codes_of(tokens: Tokens) -> Tensor:
    assert tokens.pitch is not None
    return tokens.pitch.codes


# --- tokenizing ---


def test_codes_and_fingerprint_are_those_without_pitch_tokens(
    acoustic_model: SpeechVQVAE, model: SpeechVQVAE, tokens
) -> None:
    assert model.pitch_quantizer is not None and acoustic_model.pitch_quantizer is None
    assert model.fingerprint == acoustic_model.fingerprint != model.pitch_quantizer.fingerprint
    without = acoustic_model.tokenize(hum(120))
    assert without.pitch is None and torch.equal(tokens.codes, without.codes)
    assert tokens.pitch.hop == 480 and len(tokens.pitch.codes) == -(-SAMPLES // 480)
    for key, value in acoustic_model.state_dict().items():
        assert torch.equal(model.state_dict()[key], value)


@pytest.mark.parametrize("samples", [SAMPLES, 3, 7681])
def test_whole_equals_streamed_equals_batched_equals_alone(tmp_path, model: SpeechVQVAE, samples) -> None:
    assert model.pitch_quantizer is not None
    wavs = [hum(120, samples), hum(210), hum(95, 4000)]
    wavs = [torch.from_numpy(np.round(wav.numpy() * 2**15)) / 2**15 for wav in wavs]  # as a file holds them
    alone = [codes_of(model.tokenize(wav, pitch=True)) for wav in wavs]
    for size in (1601, 16000):
        pieces = wavs[0].split(size)
        assert torch.equal(torch.cat(list(model.pitch_quantizer.encode_stream(pieces))), alone[0])
    sources = []
    for i, wav in enumerate(wavs):
        sources.append(Source(str(i), tmp_path / f"{i}.wav", None))
        soundfile.write(sources[-1].path, wav.numpy(), 16000)
    before = torch.get_num_threads()
    for threads in (1, 3):  # with three, utterances are tokenized at once
        torch.set_num_threads(threads)
        try:
            rows = [model.tokenize(source.path, pitch=True) for source in sources] if threads == 1 else [
                row.tokens for row in tokenize_all(model, sources, [], pitch=True)]  # fmt: skip
        finally:
            torch.set_num_threads(before)
        assert all(torch.equal(codes_of(row), codes) for row, codes in zip(rows, alone, strict=True))


def test_a_model_without_them_says_so(
    acoustic_model: SpeechVQVAE, model: SpeechVQVAE, spectrum_model: SpeechVQVAE
) -> None:
    for each in (acoustic_model, SpeechVQVAE(model.cfg)):  # the codebook of the second one was never made
        with pytest.raises(ValueError, match=r"no pitch tokens .*recipes/pitch_tokens\.py adds them"):
            each.eval().tokenize(hum(100), pitch=True)
    with pytest.raises(ValueError, match="for a model that predicts pitch"):
        with_pitch_tokens(spectrum_model, CFG, [hum(100)])
    with pytest.raises(ValueError, match=r"pitch_tokens are codes of the pitch: set .*pitch\.win_length"):
        replace(spectrum_model.cfg, pitch_tokens=CFG)
    with pytest.raises(ValueError, match="at most 50 tokens per second"):
        replace(acoustic_model.cfg, pitch_tokens=PitchQuantizerConfig(frames=7))


# --- decoding ---


@pytest.mark.parametrize("vocoder", ["istft", "wavenet"])
def test_they_are_decoded_as_the_pitch_that_they_stand_for(model: SpeechVQVAE, tokens, vocoder) -> None:
    assert model.pitch_quantizer is not None
    pitch = model.pitch_quantizer.decode(codes_of(tokens)[None])
    codes_alone = replace(tokens, pitch=None)
    wav = model.decode(tokens, "bert", vocoder=vocoder)
    assert torch.equal(wav, model.decode(codes_alone, "bert", vocoder=vocoder, pitch=pitch))
    assert not torch.equal(wav, model.decode(codes_alone, "bert", vocoder=vocoder))
    assert torch.equal(torch.cat(list(model.decode_stream(tokens, "bert", vocoder=vocoder))), wav)
    together = model.decode_batch([codes_alone, tokens], "bert", vocoder=vocoder)
    assert torch.equal(together[1], wav)
    given = model.pitch_of(hum(180))
    assert torch.equal(
        model.decode(tokens, "bert", vocoder=vocoder, pitch=given),
        model.decode(codes_alone, "bert", vocoder=vocoder, pitch=given),
    )


def test_they_are_moved_to_another_speaker_alone(model: SpeechVQVAE, tokens) -> None:
    def octaves(speaker: str, source: str | None) -> Tensor:
        who = torch.tensor([model.speaker_id(speaker)])
        pitch = decode_request(model, tokens, who, source=source, vocoder="istft").pitch
        assert pitch is not None
        return pitch.octaves[pitch.voicing > 0]

    assert float(octaves("bert", "bert").median()) == pytest.approx(np.log2(120), abs=0.15)
    for source in ("anna", "nobody", None):
        assert float(octaves("bert", source).median()) == pytest.approx(7.6, abs=0.01)
    assert torch.equal(octaves("carl", None), octaves("bert", "bert"))  # to a voice that is not known
    kept = model.decode(tokens, "bert", source_speaker="bert")
    assert not torch.equal(kept, model.decode(tokens, "bert"))
    assert torch.equal(torch.cat(list(model.decode_stream(tokens, "bert", source_speaker="bert"))), kept)
    assert torch.equal(model.decode_batch([tokens], ["bert"], source_speaker=["bert"])[0], kept)
    with pytest.raises(ValueError, match="source_speaker must be a list of 1"):
        model.decode_batch([tokens], "bert", source_speaker="bert")


def test_vocoders_that_read_no_pitch_ignore_them_and_refuse_a_given_one(
    acoustic_model, model, tokens, spectrum_model
) -> None:
    codes_alone = replace(tokens, pitch=None)
    ignored = [model.decode(each, "anna", vocoder="griffin-lim") for each in (tokens, codes_alone)]
    assert torch.equal(*ignored)
    pitch = acoustic_model.pitch_of(hum(100))
    own = spectrum_model.tokenize(hum(100))
    for decode in (spectrum_model.decode, spectrum_model.decode_stream):
        with pytest.raises(ValueError, match="the vocoder wavenet of this model is not conditioned on pitch"):
            decode(own, "anna", pitch=pitch)


def test_tokens_of_another_codebook_and_out_of_range_are_refused(acoustic_model, model: SpeechVQVAE, tokens) -> None:
    other = with_pitch_tokens(acoustic_model, CFG, [hum(105), hum(230)])
    assert other.fingerprint == model.fingerprint
    for each, own in ((acoustic_model, "has none"), (other, "has [0-9a-f]{12}, of 480 samples")):
        with pytest.raises(ValueError, match=rf"pitch quantizer {tokens.pitch.model}.* {own}; .*--pitch codes"):
            each.decode(tokens, "anna")
        each.decode(replace(tokens, pitch=None), "anna")
    wrong = replace(tokens.pitch, codes=torch.full_like(tokens.pitch.codes, 16))
    with pytest.raises(ValueError, match=r"pitch must lie in 0\.\.15, got 16\.\.16"):
        model.decode(replace(tokens, pitch=wrong), "anna")
    with pytest.raises(
        ValueError, match="20000 samples at 480 samples per pitch token require 42 pitch tokens, got 41"
    ):
        replace(tokens, pitch=replace(tokens.pitch, codes=tokens.pitch.codes[:-1]))
    with pytest.raises(ValueError, match=r"pitch must be \(M,\) int64"):
        replace(tokens.pitch, codes=tokens.pitch.codes.float())
    with pytest.raises(ValueError, match=r"pitch_hop must lie in 1\.\."):
        replace(tokens.pitch, hop=0)


# --- models on disk ---


def test_a_model_is_saved_with_them_and_read_without(tmp_path, acoustic_model: SpeechVQVAE, model: SpeechVQVAE) -> None:
    save_model(model, tmp_path / "with")
    loaded = load_model(tmp_path / "with")
    assert codes_of(loaded.tokenize(hum(99), pitch=True)).equal(codes_of(model.tokenize(hum(99), pitch=True)))
    save_model(acoustic_model, tmp_path / "without")
    facts = json.loads((tmp_path / "without/config.json").read_text())
    del facts["config"]["pitch_tokens"]  # as models were written before
    (tmp_path / "without/config.json").write_text(json.dumps(facts))
    assert load_model(tmp_path / "without").fingerprint == acoustic_model.fingerprint
    assert "pitch" not in model_facts(acoustic_model)
    assert model_facts(model)["pitch"].startswith("33.3333 tokens per second, 133 bits per second (log2 16 = 4 bits")


def test_speakers_and_weights_are_passed_on(model: SpeechVQVAE, tmp_path) -> None:
    extended = with_speakers(model, ["dora"])
    assert model.pitch_quantizer and extended.pitch_quantizer
    assert extended.pitch_quantizer.fingerprint == model.pitch_quantizer.fingerprint
    save_model(model, tmp_path / "m")
    learner = SpeechVQVAE(replace(model.cfg, stage="istft"))
    init_from(learner, [tmp_path / "m"])
    assert learner.pitch_quantizer and learner.pitch_quantizer.quantizer.initialised
    assert learner.pitch_quantizer.fingerprint == model.pitch_quantizer.fingerprint


def test_training_speech_makes_a_missing_codebook(acoustic_model: SpeechVQVAE) -> None:
    learner = SpeechVQVAE(replace(acoustic_model.cfg, pitch_tokens=CFG))
    learner.load_state_dict(acoustic_model.state_dict(), strict=False)
    assert learner.pitch_quantizer is not None and not learner.pitch_quantizer.quantizer.initialised
    pcm = torch.cat([hum(130), hum(220)]).mul(32767).short().numpy()
    lengths, offsets, ids = np.array([SAMPLES, SAMPLES]), np.array([0, SAMPLES]), np.array([0, 1])
    speech = PackedSpeech(16000, learner.speakers, ("a", "b"), offsets, lengths, ids, pcm, "")
    initialise_pitch(learner, speech)
    made = learner.pitch_quantizer.fingerprint
    assert codes_of(learner.eval().tokenize(hum(200), pitch=True)).unique().numel() > 3
    initialise_pitch(learner, speech)  # it is there already, as after --init-from
    assert learner.pitch_quantizer.fingerprint == made and learner.fingerprint == acoustic_model.fingerprint


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason=f"{DATA} is absent; set VQAUDIO_DATA to the folder of vctk_mini")
def test_f0_and_voicing_of_real_speech_survive() -> None:
    """On utterances that the codebook was not made from, of the shipped model's frames at 25 tokens per second."""
    files = sorted(DATA.glob("wav16/*/*.flac"))
    wavs = [torch.from_numpy(read_audio(path, 16000)) for path in files[::9]]
    model = with_pitch_tokens(load_model("mini"), PitchQuantizerConfig(frames=4), wavs[::2])
    quantizer, wrong, true, found = model.pitch_quantizer, [], [], []
    assert quantizer is not None
    for wav in wavs[1::2]:
        pitch = model.pitch_of(wav)
        decoded = quantizer.decode(quantizer.encode(pitch)).frames(pitch.voicing.shape[1])
        voiced = (pitch.voicing * decoded.voicing) > 0
        wrong.append((pitch.voicing != decoded.voicing).float().mean())
        true.append(pitch.octaves[voiced])
        found.append(decoded.octaves[voiced])
        assert torch.corrcoef(torch.stack([true[-1], found[-1]]))[0, 1] > 0.5
    pairs = torch.stack([torch.cat(true), torch.cat(found)])
    assert torch.corrcoef(pairs)[0, 1] > 0.97 and torch.stack(wrong).mean() < 0.02
    assert (pairs[0] - pairs[1]).abs().median() * 1200 < 40  # cents
