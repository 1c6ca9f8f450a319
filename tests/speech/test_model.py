import copy
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from vqaudio import SpeechVQVAE, SpeechVQVAEConfig, Tokens, load_model
from vqaudio.data.audio import write_audio
from vqaudio.data.mulaw import mulaw_encode
from vqaudio.nn.encoder import EncoderConfig
from vqaudio.nn.normalizer import NormalizerKind
from vqaudio.nn.vector_quantizer import VectorQuantizerConfig
from vqaudio.nn.wavenet import WaveNetConfig
from vqaudio.speech import tokenizer
from vqaudio.speech.tokenizer import CHUNK_FRAMES

HOP = 8
LONG = 2 * CHUNK_FRAMES * HOP + 77  # more than two of the chunks in which it encodes


def _wav(samples: int, seed: int = 0) -> Tensor:
    return torch.rand(samples, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def _codes(model: SpeechVQVAE, wav: Tensor) -> Tensor:
    return model.encode(wav[None, None])[0][0]


def _tokens(model: SpeechVQVAE, samples: int, seed: int = 0) -> Tokens:
    return model.tokenize(_wav(samples, seed))


def _speak(model: SpeechVQVAE, tokens: Tokens, speaker: str | None = None, **options) -> Tensor:
    wav = model.decode(tokens, speaker, **options)
    assert isinstance(wav, Tensor)
    return wav


def _batch(model: SpeechVQVAE, lengths: list[int], seed: int = 0) -> dict[str, Tensor]:
    """What `forward` takes: rows of these lengths, padded with zeros."""
    rows = [_wav(length, seed + i) for i, length in enumerate(lengths)]
    wav = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return {
        "wav": wav[:, None],
        "target": mulaw_encode(wav, model.cfg.decoder.num_classes),
        "speaker": torch.arange(len(lengths)) % len(model.speakers),
        "lengths": torch.tensor(lengths),
    }


# --- configuration ---


def test_the_decoder_follows_from_the_rest(tiny_config: SpeechVQVAEConfig) -> None:
    decoder = tiny_config.decoder
    assert (decoder.hop, decoder.cond_dim, decoder.num_speakers) == (8, 4, 3)
    wrong = replace(decoder, hop=3, cond_dim=99, num_speakers=7)
    assert replace(tiny_config, decoder=wrong) == tiny_config
    assert replace(tiny_config, speakers=()).decoder.num_speakers == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"speakers": ("a", "b", "a")}, "speakers must be different names"),
        ({"encoder": EncoderConfig(dim=5)}, r"quantizer.dim \(64\) must be encoder.dim \(5\)"),
        ({"sample_rate": 0}, "sample_rate"),
    ],
)
def test_configurations_that_mean_nothing_are_refused(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        SpeechVQVAEConfig(**options)


def test_facts(tiny_model: SpeechVQVAE) -> None:
    assert (tiny_model.sample_rate, tiny_model.hop, tiny_model.frame_rate) == (16000, 8, 2000.0)
    assert (tiny_model.codebook_size, tiny_model.speakers) == (16, ("anna", "bert", "carl"))
    assert [tiny_model.speaker_id(name) for name in tiny_model.speakers] == [0, 1, 2]


# --- speech to codes ---


def test_the_shared_model_uses_many_codes(tiny_model: SpeechVQVAE) -> None:
    """Otherwise the equalities below would hold for nothing."""
    assert len(_codes(tiny_model, _wav(LONG)).unique()) > 10


@pytest.mark.parametrize("samples", [9, LONG, 2 * CHUNK_FRAMES * HOP + 5, 2 * CHUNK_FRAMES * HOP + 11])
def test_codes_are_the_nearest_to_the_encoder_output(tiny_model: SpeechVQVAE, samples: int) -> None:
    wav = _wav(samples)
    z, _ = tiny_model.encoder(wav[None, None])  # all at once
    codebook = tiny_model.quantizer.code_weights()["codebook"].double()
    distances = torch.cdist(tiny_model.normalizer(z)[0].T.double(), codebook)  # (N, K)
    chosen = distances.gather(1, _codes(tiny_model, wav)[:, None])[:, 0]
    torch.testing.assert_close(chosen, distances.min(1).values, rtol=0, atol=1e-4)  # rounding may decide a tie


@pytest.mark.parametrize("samples", [1, 7, 8, 9, 100, CHUNK_FRAMES * HOP, CHUNK_FRAMES * HOP + 1, LONG])
def test_there_is_a_code_for_every_begun_hop(tiny_model: SpeechVQVAE, samples: int) -> None:
    codes, lengths = tiny_model.encode(_wav(samples)[None, None])
    assert codes.shape == (1, math.ceil(samples / HOP))
    assert lengths.tolist() == [math.ceil(samples / HOP)]
    assert codes.dtype == torch.int64
    tokens = tiny_model.tokenize(_wav(samples))
    assert torch.equal(tokens.codes, codes[0])
    assert (tokens.num_samples, tokens.sample_rate, tokens.hop) == (samples, 16000, 8)
    assert tokens.model == tiny_model.fingerprint


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("normalizer", get_args(NormalizerKind))
def test_alone_batched_streamed_and_again_are_the_same_to_the_bit(
    tiny_config, randomise, monkeypatch, normalizer, rows
) -> None:
    monkeypatch.setitem(tokenizer.ROWS, "cpu", rows)
    model = SpeechVQVAE(replace(tiny_config, normalizer=normalizer))
    randomise(model.encoder)
    model(**_batch(model, [512, 512]))
    model.eval()
    wavs = [_wav(samples, seed) for seed, samples in enumerate([LONG, 333, 8, 1, 2100])]
    alone = [_codes(model, wav) for wav in wavs]
    padded = torch.full((len(wavs), 1, LONG + 50), 0.7)  # the padding is noise: it must not matter
    for row, wav in zip(padded, wavs, strict=True):
        row[0, : len(wav)] = wav
    codes, lengths = model.encode(padded, torch.tensor([len(wav) for wav in wavs]))
    for row, length, expected in zip(codes, lengths, alone, strict=True):
        assert torch.equal(row[:length], expected)
        assert not row[length:].any()
    for wav, expected in zip(wavs, alone, strict=True):
        assert torch.equal(_codes(model, wav), expected)
        for size in (1, 7, 64 * HOP, 999):
            pieces = wav.split(size if len(wav) < 3000 or size > 60 else 61)
            assert torch.equal(torch.cat(list(model.encode_stream(pieces))), expected)


@settings(max_examples=20, deadline=None)
@given(pieces=st.lists(st.integers(0, 1500), min_size=1, max_size=8).filter(any), seed=st.integers(0, 9))
def test_any_pieces_give_the_codes_of_the_whole(tiny_model: SpeechVQVAE, pieces: list[int], seed: int) -> None:
    wav = _wav(sum(pieces), seed)
    streamed = torch.cat(list(tiny_model.encode_stream(wav.split(pieces))))
    assert torch.equal(streamed, _codes(tiny_model, wav))


def test_a_stream_returns_codes_before_the_end(tiny_model: SpeechVQVAE) -> None:
    received = 0

    def pieces() -> Iterator[Tensor]:
        nonlocal received
        for piece in _wav(5 * CHUNK_FRAMES * HOP).split(100):
            received += len(piece)
            yield piece

    returned = 0
    for codes in tiny_model.encode_stream(pieces()):
        returned += len(codes)
        assert received - returned * HOP < CHUNK_FRAMES * HOP + tiny_model.cfg.encoder.lookahead
    assert returned == 5 * CHUNK_FRAMES


def test_files_and_arrays_give_the_same_tokens(tiny_model: SpeechVQVAE, tmp_path: Path) -> None:
    wav = (_wav(2500) * 32767).round() / 32768  # what 16 bits can hold
    write_audio(tmp_path / "speech.flac", wav.numpy(), 16000)
    expected = tiny_model.tokenize(wav)
    for audio in (wav.numpy(), wav.double(), tmp_path / "speech.flac", str(tmp_path / "speech.flac")):
        tokens = tiny_model.tokenize(audio)
        assert torch.equal(tokens.codes, expected.codes)
        assert tokens.num_samples == 2500


def test_waveforms_that_cannot_be_encoded_are_refused(tiny_model: SpeechVQVAE) -> None:
    for shape in ((16,), (1, 16), (1, 2, 16)):
        with pytest.raises(ValueError, match=r"\(B, 1, T\)"):
            tiny_model.encode(torch.zeros(shape))
    for lengths in ([3], [3, 0], [3, 17], [[3, 4]]):
        with pytest.raises(ValueError, match=r"lengths must be \(2,\) with values in 1..16"):
            tiny_model.encode(torch.zeros(2, 1, 16), torch.tensor(lengths))
    with pytest.raises(ValueError, match=r"lengths must be whole numbers of samples, got torch\.float32; convert them"):
        tiny_model.encode(torch.zeros(2, 1, 16), torch.tensor([16.0, 8.0]))
    for wav in (np.zeros(0), np.zeros((2, 9)), np.array([0.0, np.nan]), np.array([np.inf])):
        with pytest.raises(ValueError, match="waveform must be"):
            tiny_model.tokenize(wav)
    with pytest.raises(ValueError, match="16000 Hz, got 8000 Hz; resample them first"):
        tiny_model.tokenize(np.zeros(9), sample_rate=8000)
    with pytest.raises(ValueError, match="sample_rate is read from the audio file"):
        tiny_model.tokenize("speech.wav", sample_rate=16000)
    codes, lengths = tiny_model.encode(torch.zeros(0, 1, 16))
    assert len(codes) == len(lengths) == 0


def test_a_model_in_training_refuses_to_encode(tiny_model: SpeechVQVAE) -> None:
    model = copy.deepcopy(tiny_model).train()
    with pytest.raises(RuntimeError, match=r"model\.eval\(\)"):
        model.encode(torch.zeros(1, 1, 16))
    with pytest.raises(RuntimeError, match=r"model\.eval\(\)"):
        model.tokenize(np.zeros(9))


# --- codes to speech ---


@pytest.mark.parametrize("samples", [1, 8, 9, 155])
def test_decoded_speech_has_the_length_of_the_original(tiny_model: SpeechVQVAE, samples: int) -> None:
    wav = _speak(tiny_model, _tokens(tiny_model, samples), "anna")
    assert (wav.shape, wav.dtype) == ((samples,), torch.float32)
    assert -1 <= wav.min() <= wav.max() <= 1


def test_decoding_depends_on_codes_speaker_and_seed(tiny_model: SpeechVQVAE) -> None:
    tokens = _tokens(tiny_model, 300)
    wav = _speak(tiny_model, tokens, "anna", seed=3)
    assert torch.equal(_speak(tiny_model, tokens, "anna", seed=3), wav)
    others = [
        _speak(tiny_model, tokens, "anna", seed=4),
        _speak(tiny_model, tokens, "bert", seed=3),
        _speak(tiny_model, _tokens(tiny_model, 300, seed=1), "anna", seed=3),
        _speak(tiny_model, tokens, "anna", seed=3, temperature=0.3),
        _speak(tiny_model, tokens, "anna", seed=3, top_k=2),
    ]
    assert not any(torch.equal(other, wav) for other in others)


def test_decoding_does_not_depend_on_neighbours(tiny_model: SpeechVQVAE) -> None:
    tokens = [_tokens(tiny_model, samples, seed) for seed, samples in enumerate([150, 9, 301, 64])]
    names = ["anna", "bert", "carl", "anna"]
    together = tiny_model.decode_batch(tokens, names, seed=5)
    assert [len(wav) for wav in together] == [150, 9, 301, 64]
    for each, name, wav in zip(tokens, names, together, strict=True):
        assert torch.equal(_speak(tiny_model, each, name, seed=5), wav)
    assert torch.equal(tiny_model.decode_batch(tokens[2:], "carl", seed=5)[0], together[2])
    assert tiny_model.decode_batch([], []) == []


def test_convert_is_tokenize_and_decode(tiny_model: SpeechVQVAE) -> None:
    wav = _wav(200)
    converted = tiny_model.convert(wav.numpy(), "carl", seed=2)
    assert torch.equal(converted, _speak(tiny_model, tiny_model.tokenize(wav), "carl", seed=2))


def test_unknown_speakers_are_refused(tiny_model: SpeechVQVAE) -> None:
    tokens = _tokens(tiny_model, 20)
    for call in (
        lambda: tiny_model.speaker_id("p999"),
        lambda: tiny_model.decode(tokens, "p999"),
        lambda: tiny_model.decode_batch([tokens, tokens], ["anna", "p999"]),
        lambda: tiny_model.convert("no such file", "p999"),
    ):
        with pytest.raises(ValueError, match="speaker 'p999' is not in this model; it has 3: anna, bert, carl"):
            call()
    with pytest.raises(ValueError, match="name a speaker of this model; it has 3: anna"):
        tiny_model.decode(tokens)
    with pytest.raises(ValueError, match="2 utterances need as many speakers"):
        tiny_model.decode_batch([tokens, tokens], ["anna"])


def test_tokens_of_another_model_are_refused(tiny_model: SpeechVQVAE) -> None:
    tokens = _tokens(tiny_model, 20)
    with pytest.raises(ValueError, match=f"made by model 0123456789ab, this is model {tiny_model.fingerprint}"):
        tiny_model.decode(replace(tokens, model="0123456789ab"), "anna")
    with pytest.raises(ValueError, match=r"codes must lie in 0\.\.15, got 16"):
        tiny_model.decode(replace(tokens, codes=torch.full((3,), 16)), "anna")


def test_a_model_without_speakers_decodes(tiny_config: SpeechVQVAEConfig) -> None:
    model = SpeechVQVAE(replace(tiny_config, speakers=())).eval()
    tokens = model.tokenize(_wav(50))
    assert len(model.decode(tokens)) == 50
    with pytest.raises(ValueError, match=r"has no speakers, got .*anna"):
        model.decode(tokens, "anna")


# --- fingerprint ---


def test_the_fingerprint_is_12_hex_digits_and_does_not_change(tiny_model: SpeechVQVAE) -> None:
    fingerprint = tiny_model.fingerprint
    assert len(fingerprint) == 12
    assert int(fingerprint, 16) >= 0
    tiny_model.tokenize(_wav(100))
    assert copy.deepcopy(tiny_model).fingerprint == fingerprint


def test_the_fingerprint_changes_with_all_that_decides_the_codes_and_nothing_else(tiny_model: SpeechVQVAE) -> None:
    for name, weight in tiny_model.state_dict().items():
        if not weight.is_floating_point():
            continue
        changed = copy.deepcopy(tiny_model)
        changed.state_dict()[name].view(-1)[0] += 1e-3
        decides = name.startswith(("encoder.", "normalizer.")) or name == "quantizer.codebook"
        assert (changed.fingerprint != tiny_model.fingerprint) == decides, name


def test_the_fingerprint_of_the_configuration(tiny_model: SpeechVQVAE) -> None:
    def fingerprint(cfg: SpeechVQVAEConfig) -> str:
        model = SpeechVQVAE(cfg)
        kept = {k: v for k, v in tiny_model.state_dict().items() if not k.startswith("decoder.")}
        model.load_state_dict(kept, strict=False)
        return model.fingerprint

    cfg = tiny_model.cfg
    same = [
        replace(cfg, speakers=("dora",)),
        replace(cfg, decoder=replace(cfg.decoder, layers=2, input_noise=0.1)),
        replace(cfg, time_jitter=0.12),
        replace(cfg, quantizer=replace(cfg.quantizer, ema_decay=0.5, commitment_weight=0.1)),
    ]
    other = [
        replace(cfg, sample_rate=8000),
        replace(cfg, encoder=replace(cfg.encoder, lookahead=12)),
        replace(cfg, quantizer=replace(cfg.quantizer, unit_norm=True)),
    ]
    assert {fingerprint(each) for each in same} == {tiny_model.fingerprint}
    assert tiny_model.fingerprint not in {fingerprint(each) for each in other}


# --- training ---


def test_the_loss_is_equation_3(tiny_model: SpeechVQVAE) -> None:
    batch = _batch(tiny_model, [160, 101])
    loss, logs = tiny_model(**batch)
    _, q = tiny_model.quantize(batch["wav"], batch["lengths"])
    logits, _ = tiny_model.decoder(tiny_model.decoder.shift(batch["target"]), q.z_q, batch["speaker"])
    losses = F.cross_entropy(logits, batch["target"], reduction="none")
    nll = (losses[0].sum() + losses[1, :101].sum()) / 261
    torch.testing.assert_close(loss, nll * 261 / 320 + q.loss * 33 / 40)  # the fraction of valid samples, and of frames
    torch.testing.assert_close(logs["bits_per_sample"], nll / math.log(2))
    torch.testing.assert_close(logs["quantizer_loss"], q.loss)
    torch.testing.assert_close(logs["perplexity"], q.perplexity)
    z, _ = tiny_model.encoder(batch["wav"])
    norms = torch.cat([z[0].norm(dim=0), z[1, :, :13].norm(dim=0)])  # 101 samples are in 13 frames
    torch.testing.assert_close(logs["encoder_norm"], norms.mean())
    torch.testing.assert_close(logs["code_norm"], tiny_model.quantizer.code_weights()["codebook"].norm(dim=1).mean())
    torch.testing.assert_close(logs["dead_codes"], 16 * (1 - logs["usage"]))
    assert all(value.shape == () and not value.requires_grad for value in logs.values())


def test_codes_are_jittered_in_training_only(tiny_model: SpeechVQVAE) -> None:
    jittered = SpeechVQVAE(replace(tiny_model.cfg, time_jitter=0.5))
    jittered.load_state_dict(tiny_model.state_dict())
    batch = _batch(tiny_model, [160, 101])
    assert torch.equal(jittered.eval()(**batch)[0], tiny_model(**batch)[0])
    steady = copy.deepcopy(tiny_model).train()
    _, plain = steady(**batch)
    _, noisy = jittered.train()(**batch)
    assert noisy["bits_per_sample"] != plain["bits_per_sample"]
    assert noisy["quantizer_loss"] == plain["quantizer_loss"]  # jitter does not change the codes themselves


def test_parts_of_a_padded_batch_make_its_loss_and_gradient(tiny_model: SpeechVQVAE) -> None:
    batch = _batch(tiny_model, [160, 101, 9, 42])
    model = copy.deepcopy(tiny_model).requires_grad_(True)
    model(**batch)[0].backward()
    whole = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    for half in (slice(0, 2), slice(2, 4)):
        (model(**{name: value[half] for name, value in batch.items()})[0] / 2).backward()
    for name, parameter in model.named_parameters():
        if name in whole:
            torch.testing.assert_close(parameter.grad, whole[name], rtol=1e-4, atol=1e-6)


def test_more_padding_changes_nothing_but_the_weight(tiny_config: SpeechVQVAEConfig, randomise) -> None:
    short, long = SpeechVQVAE(tiny_config), SpeechVQVAE(tiny_config)
    for model in (short, long):
        randomise(model.encoder, seed=1)
        randomise(model.decoder, seed=2)
    for seed in range(3):
        batch = _batch(short, [160, 101], seed)
        padded = {**batch, "wav": F.pad(batch["wav"], (0, 80)), "target": F.pad(batch["target"], (0, 80), value=3)}
        expected, logs = short(**batch)
        loss, padded_logs = long(**padded)
        # twice as many samples in the batch, half the weight of those that are valid
        torch.testing.assert_close(loss * 240 / 160, expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(padded_logs["perplexity"], logs["perplexity"])
    codebooks = [model.quantizer.code_weights()["codebook"] for model in (long, short)]
    torch.testing.assert_close(*codebooks, rtol=1e-4, atol=1e-5)


def _tiny_training_model() -> SpeechVQVAE:
    torch.manual_seed(0)
    return SpeechVQVAE(
        SpeechVQVAEConfig(
            speakers=("anna", "bert"),
            encoder=EncoderConfig(strides=(2, 4), channels=(8, 16), dilations=(1,), dim=4, lookahead=8),
            quantizer=VectorQuantizerConfig(codebook_size=16, dim=4, commitment_weight=0.01),
            decoder=WaveNetConfig(
                num_classes=16,
                layers=4,
                layers_per_stack=4,
                residual_channels=16,
                skip_channels=16,
                cond_hidden_channels=16,
            ),
        )
    )


def test_a_tiny_batch_is_overfitted() -> None:
    model = _tiny_training_model()
    time = torch.arange(400) / 400
    wav = torch.stack([torch.sin(2 * math.pi * 37 * time), torch.sin(2 * math.pi * 11 * time).sign() * 0.5])
    target, ids = mulaw_encode(wav, 16), torch.tensor([0, 1])
    batch = {"wav": wav[:, None], "target": target, "speaker": ids, "lengths": torch.tensor([400, 400])}
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    bits = []
    for _ in range(60):
        optimizer.zero_grad()
        loss, logs = model(**batch)
        loss.backward()
        optimizer.step()
        bits.append(logs["bits_per_sample"].item())
    assert bits[0] > 3
    assert bits[-1] < 0.35 * bits[0]


@pytest.mark.parametrize("codebook", ["ema", "gradient"])
def test_gradients_reach_all_trainable_parameters(codebook) -> None:
    model = _tiny_training_model()
    model = SpeechVQVAE(replace(model.cfg, quantizer=replace(model.cfg.quantizer, codebook_update=codebook)))
    model(**_batch(model, [400, 400]))[0].backward()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    optimizer.step()  # now gradients pass through blocks that were initialised as the identity
    optimizer.zero_grad()
    model(**_batch(model, [400, 400]))[0].backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.any(), name
    assert model.decoder.speaker is not None
    assert model.decoder.speaker.weight.grad is not None
    assert model.decoder.speaker.weight.grad.any(1).all()


def test_integer_waveforms_are_refused(tiny_model: SpeechVQVAE) -> None:
    with pytest.raises(ValueError, match=r"must be floating-point, in \[-1, 1\], got torch.int16"):
        tiny_model.tokenize(np.zeros(100, dtype=np.int16))


def test_convert_refuses_another_rate(tiny_model: SpeechVQVAE) -> None:
    with pytest.raises(ValueError, match="expects waveforms at 16000 Hz, got 48000"):
        tiny_model.convert(_wav(100), "anna", 48000)


def test_a_model_loaded_in_inference_mode_works(tiny_model: SpeechVQVAE, tiny_model_dir: Path) -> None:
    with torch.inference_mode():
        model = load_model(tiny_model_dir)
        assert model.tokenize(_wav(100)).model == tiny_model.fingerprint


def test_integers_as_waveforms_are_refused(tiny_model: SpeechVQVAE) -> None:
    wav = torch.linspace(-1, 1, 100)
    for scaled in (wav * 32768, wav * 128, wav.double() * 2**31):
        for call in (
            tiny_model.tokenize,
            lambda w: tiny_model.encode(w[None, None]),
            lambda w: tiny_model.convert(w, "anna"),
        ):
            with pytest.raises(ValueError, match="they look like integers stored as floats"):
                call(scaled)
    with pytest.raises(ValueError, match="a waveform must be floating-point"):
        tiny_model.encode((wav * 32768).to(torch.int16)[None, None])
    with pytest.raises(ValueError, match="they look like integers"):
        list(tiny_model.encode_stream([wav, wav * 32768]))


def test_a_sample_that_is_not_a_number_is_refused(tiny_model) -> None:
    wavs = torch.zeros(1, 1, 800)
    wavs[0, 0, 7] = float("nan")
    with pytest.raises(ValueError, match=r"samples are not numbers \(NaN\)"):
        tiny_model.encode(wavs)
    assert tiny_model.encode(wavs, torch.tensor([7]))[1].tolist() == [1]  # it is padding
