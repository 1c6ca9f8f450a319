"""Batches of one shape: an utterance has the same bits in every row, beside any others, alone and streamed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from vqaudio import SpeechVQVAE, load_model
from vqaudio.nn.encoder import EncoderConfig
from vqaudio.nn.log_mel import LogMelConfig
from vqaudio.nn.log_mel_cmn import LogMelCMNConfig
from vqaudio.nn.pcen import PCENConfig
from vqaudio.speech import tokenizer
from vqaudio.speech.tokenizer import CHUNK_FRAMES, encode_batches, encode_in_chunks, num_rows

ROWS = 3  # of a batch on a CPU in these tests
DEVICES = [torch.device("cpu"), pytest.param(torch.device("cuda"), marks=pytest.mark.gpu)]
FRONTENDS = {
    "waveform": LogMelConfig(),
    "log_mel": LogMelConfig(12, 40, 100),
    "log_mel_cmn": LogMelCMNConfig(12, 40, 100),
    "pcen": PCENConfig(12, 40, 100),
}


@pytest.fixture(autouse=True)
def several_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tokenizer.ROWS, "cpu", ROWS)


@pytest.fixture(params=FRONTENDS)
def model(request: pytest.FixtureRequest, tiny_config, initialised: Callable[..., SpeechVQVAE]) -> SpeechVQVAE:
    strides, frontend = ((8,) if request.param == "waveform" else (2,)), FRONTENDS[request.param]
    encoder = EncoderConfig(strides, (6,), dilations=(1, 2), dim=4, lookahead=70, frontend=frontend)
    decoder = replace(tiny_config.decoder, hop=encoder.hop)
    return initialised(replace(tiny_config, encoder=encoder, decoder=decoder), 80 * 40, 0.2)


def _speech(samples: int, seed: int) -> Tensor:
    noise = torch.randn(samples, generator=torch.Generator().manual_seed(seed))
    return 0.2 * noise * torch.linspace(0, 20, samples).sin() ** 2


def _utterances(model: SpeechVQVAE) -> list[Tensor]:
    """More than the rows of a CPU's batch: many chunks, one, none that is whole, and less than the look-ahead."""
    size = CHUNK_FRAMES * model.hop
    counts = [2 * size + 77, size, 5, 3 * size - model.cfg.encoder.lookahead, 70, size + 1, 1, size // 2]
    return [_speech(count, seed) for seed, count in enumerate(counts)]


@pytest.mark.parametrize("device", DEVICES)
@torch.inference_mode()
def test_frames_have_the_same_bits_in_every_row_and_alone(model: SpeechVQVAE, device: torch.device) -> None:
    """On a GPU kernels could sum in an order that depends on the row."""
    encoder, rows = model.to(device).encoder, num_rows(device)
    utterances = [*_utterances(model), *(_speech(9000, 9) for _ in range(2 * rows))]  # the same one in all rows
    found: list[list[Tensor]] = [[] for _ in utterances]
    used = set()
    for z, parts in encode_batches(encoder, ([wav] for wav in utterances)):
        assert z.shape == (rows, model.cfg.encoder.dim, CHUNK_FRAMES)
        for part in parts:
            found[part.number].append(z[part.row, :, : part.num_frames])
            used.add(part.row)
    assert used == set(range(rows))
    for wav, chunks in zip(utterances, found, strict=True):
        assert torch.equal(torch.cat(chunks, 1), torch.cat(list(encode_in_chunks(encoder, [wav])), 2)[0])


@pytest.mark.parametrize("device", DEVICES)
def test_codes_are_the_same_alone_in_a_batch_and_streamed(model: SpeechVQVAE, device: torch.device) -> None:
    utterances = _utterances(model.to(device))
    alone = [model.tokenize(wav).codes for wav in utterances]
    assert len(torch.cat(alone).unique()) > 5
    assert [codes.tolist() for codes in model.encode_each([wav] for wav in utterances)] == [c.tolist() for c in alone]
    wavs = nn.utils.rnn.pad_sequence(utterances, batch_first=True)[:, None].to(device)
    codes, counts = model.encode(wavs, torch.tensor([len(wav) for wav in utterances]))
    assert (codes.device.type, counts.device.type) == (device.type, device.type)
    for wav, row, count, expected in zip(utterances, codes, counts, alone, strict=True):
        assert torch.equal(row[:count].cpu(), expected) and not row[count:].any()
        streamed = torch.cat(list(model.encode_stream(wav.split(999))))
        assert torch.equal(streamed.cpu(), expected)


@pytest.mark.gpu
def test_the_shipped_model_on_a_gpu_gives_an_utterance_the_same_codes_everywhere() -> None:
    model = load_model("mini", "cuda")
    utterances = [_speech(16000 + 4099 * seed, seed) for seed in range(150)]
    found = [codes.tolist() for codes in model.encode_each([wav] for wav in utterances)]
    assert found == [model.tokenize(wav).codes.tolist() for wav in utterances]


def test_a_batch_of_several_rows_gives_the_frames_of_whole_utterances(model: SpeechVQVAE) -> None:
    with torch.inference_mode():
        for wav in _utterances(model):
            chunks = torch.cat(list(encode_in_chunks(model.encoder, [wav])), 2)
            torch.testing.assert_close(chunks, model.encoder(wav[None, None])[0], rtol=1e-4, atol=1e-4)


def test_utterances_come_in_order_and_are_taken_as_rows_become_free(model: SpeechVQVAE) -> None:
    size, taken = CHUNK_FRAMES * model.hop, []

    def utterances() -> Iterator[list[Tensor]]:
        for number, chunks in enumerate([9, 1, 1, 1, 0, 1, 1]):
            taken.append(number)
            yield [_speech(size, number)] * chunks

    results = model.encode_each(utterances())
    counts = []
    for codes in results:
        counts.append(len(codes) // CHUNK_FRAMES)
        assert len(taken) > 3, "the others had the rows beside the long one"
    assert counts == [9, 1, 1, 1, 0, 1, 1]
    assert list(model.encode_each([])) == list(model.encode_each([[]]))[1:] == []


def test_a_stream_yields_codes_as_soon_as_a_chunk_is_there(model: SpeechVQVAE) -> None:
    size, received = CHUNK_FRAMES * model.hop, 0

    def pieces() -> Iterator[Tensor]:
        nonlocal received
        for piece in _speech(4 * size, 0).split(100):
            received += len(piece)
            yield piece

    for number, _ in zip(range(3), model.encode_stream(pieces()), strict=False):
        assert received < (number + 1) * size + model.cfg.encoder.lookahead + 100
