"""The choice of the vocoder: what each model has, and that Griffin-Lim gives an utterance the same samples anywhere."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from vqaudio import SpeechVQVAE, SpeechVQVAEConfig, Tokens, load_model, save_model
from vqaudio.speech.describe import model_facts
from vqaudio.speech.griffin_lim import griffin_lim
from vqaudio.speech.speakers import with_speakers


def _tokens(model: SpeechVQVAE, samples: int) -> Tokens:
    return model.tokenize(torch.rand(samples, generator=torch.Generator().manual_seed(samples)) - 0.5)


@pytest.fixture(scope="module")
def inverting(spectrum_model: SpeechVQVAE) -> SpeechVQVAE:
    """The same weights, with griffin-lim as the default vocoder."""
    model = SpeechVQVAE(replace(spectrum_model.cfg, vocoder="griffin-lim"))
    model.load_state_dict(spectrum_model.state_dict())
    return model.eval().requires_grad_(False)


def test_the_predicted_spectrum_is_inverted(spectrum_model: SpeechVQVAE) -> None:
    tokens = _tokens(spectrum_model, 2999)
    assert spectrum_model.spectrum is not None
    spectrum = spectrum_model.predict_spectrum(tokens, "bert")
    assert spectrum.shape == (2 * len(tokens.codes), 10)
    z_q = spectrum_model.quantizer.decode(tokens.codes[None])
    torch.testing.assert_close(
        spectrum, spectrum_model.spectrum(spectrum_model.conditioned(z_q, torch.tensor([1])))[0], rtol=1e-4, atol=1e-5
    )
    wav = spectrum_model.decode(tokens, "bert", vocoder="griffin-lim", seed=3)
    assert torch.equal(wav, griffin_lim(spectrum_model.spectrum.log_mel, spectrum, 2999, 3))
    assert not torch.equal(wav, spectrum_model.decode(tokens, "anna", vocoder="griffin-lim", seed=3))
    assert not torch.equal(wav, spectrum_model.decode(tokens, "bert", seed=3))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_an_utterance_alone_equals_itself_in_a_batch(spectrum_model: SpeechVQVAE, threads: int) -> None:
    batch = [_tokens(spectrum_model, samples) for samples in (1, 80, 2999, 81, 700)]
    alone = [spectrum_model.decode(tokens, "bert", vocoder="griffin-lim", seed=2) for tokens in batch]
    assert [len(wav) for wav in alone] == [1, 80, 2999, 81, 700]
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        together = spectrum_model.decode_batch(batch, "bert", vocoder="griffin-lim", seed=2, threads=threads)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


def test_options_of_drawing_have_no_effect(spectrum_model: SpeechVQVAE) -> None:
    tokens = _tokens(spectrum_model, 500)
    expected = spectrum_model.decode(tokens, "anna", vocoder="griffin-lim")
    options = {"temperature": 0.5, "top_k": 3, "top_p": 0.9, "precision": "int8"}
    assert torch.equal(spectrum_model.decode(tokens, "anna", vocoder="griffin-lim", **options), expected)
    assert not torch.equal(spectrum_model.decode(tokens, "anna", vocoder="griffin-lim", seed=1), expected)


def test_the_configuration_names_the_default(spectrum_model: SpeechVQVAE, inverting: SpeechVQVAE) -> None:
    tokens, wav = _tokens(inverting, 900), torch.rand(900) - 0.5
    assert inverting.fingerprint == spectrum_model.fingerprint
    of_both = {
        name: [model.decode(tokens, "carl", vocoder=name) for model in (inverting, spectrum_model)]
        for name in ("wavenet", "griffin-lim")
    }
    assert all(torch.equal(*wavs) for wavs in of_both.values())
    assert torch.equal(inverting.decode(tokens, "carl"), of_both["griffin-lim"][0])
    assert torch.equal(spectrum_model.decode(tokens, "carl"), of_both["wavenet"][0])
    expected = inverting.decode(inverting.tokenize(wav), "carl", vocoder="wavenet")
    assert torch.equal(inverting.convert(wav, "carl", vocoder="wavenet"), expected)
    assert torch.equal(inverting.convert(wav, "carl"), inverting.decode(inverting.tokenize(wav), "carl"))
    assert with_speakers(inverting, ["dora"]).cfg.vocoder == "griffin-lim"
    assert model_facts(inverting)["vocoder"] == "griffin-lim (default), wavenet"
    assert model_facts(spectrum_model)["vocoder"] == "wavenet (default), griffin-lim"


def test_it_is_saved_and_older_models_have_the_wavenet(inverting: SpeechVQVAE, tmp_path) -> None:
    save_model(inverting, tmp_path)
    assert load_model(tmp_path).cfg == inverting.cfg
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["config"].pop("vocoder") == "griffin-lim"
    (tmp_path / "config.json").write_text(json.dumps(saved))
    older = load_model(tmp_path)
    assert older.cfg == replace(inverting.cfg, vocoder="wavenet") and older.fingerprint == inverting.fingerprint


def test_a_model_without_a_trained_decoder_speaks(spectrum_model: SpeechVQVAE) -> None:
    model = SpeechVQVAE(replace(spectrum_model.cfg, stage="codes"))
    model.load_state_dict(spectrum_model.state_dict())
    model.requires_grad_(False)  # as of loaded models: with gradients, some processors round otherwise
    tokens = _tokens(spectrum_model, 400)
    expected = spectrum_model.decode(tokens, "anna", vocoder="griffin-lim")
    assert torch.equal(model.eval().decode(tokens, "anna", vocoder="griffin-lim"), expected)
    for call in (model.decode, model.decode_stream):
        with pytest.raises(ValueError, match=r"WaveNet of this model has not been trained.*such as 'griffin-lim'"):
            call(tokens, "anna")


def test_what_cannot_be_is_refused(
    tiny_model: SpeechVQVAE, inverting: SpeechVQVAE, tiny_config: SpeechVQVAEConfig
) -> None:
    tokens, own = _tokens(tiny_model, 100), _tokens(inverting, 100)
    for call in (
        lambda: tiny_model.decode(tokens, "anna", vocoder="griffin-lim"),
        lambda: tiny_model.decode_stream(tokens, "anna", vocoder="griffin-lim"),
        lambda: tiny_model.convert("missing.wav", "anna", vocoder="griffin-lim"),
        lambda: tiny_model.predict_spectrum(tokens, "anna"),
    ):
        with pytest.raises(ValueError, match=r"needs a model that predicts the log-mel spectrum.*--vocoder wavenet"):
            call()
    with pytest.raises(ValueError, match=r"griffin-lim cannot stream.*whole utterance; use another --vocoder"):
        inverting.decode_stream(own, "anna")
    streamed = torch.cat(list(inverting.decode_stream(own, "anna", vocoder="wavenet")))
    assert torch.equal(streamed, inverting.decode(own, "anna", vocoder="wavenet"))
    with pytest.raises(ValueError, match="vocoder must be 'wavenet' or 'griffin-lim' or 'istft', got 'hifi-gan'"):
        inverting.decode(own, "anna", vocoder="hifi-gan")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="vocoder must be 'wavenet' or 'griffin-lim' or 'istft', got 'lpc'"):
        replace(tiny_config, vocoder="lpc")
    with pytest.raises(ValueError, match=r"set spectrum\.n_mels, or vocoder: wavenet"):
        replace(tiny_config, vocoder="griffin-lim")
