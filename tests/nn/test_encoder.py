import copy
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vqaudio.nn.encoder import Encoder, EncoderConfig

CFG = EncoderConfig(strides=(2, 4), channels=(8, 16), dilations=(1, 2), dim=5, lookahead=11)
HOP = 8


@pytest.fixture(scope="module")
def encoder(randomise) -> Encoder:
    return randomise(Encoder(CFG)).requires_grad_(False)


def _wav(samples: int, batch: int = 1, seed: int = 0) -> torch.Tensor:
    return torch.rand(batch, 1, samples, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def _stream(encoder: Encoder, wav: torch.Tensor, chunks: list[int]) -> torch.Tensor:
    state, pieces = encoder.start(wav.shape[0]), []
    for chunk in wav.split(chunks, dim=2):
        z, state = encoder(chunk, state)
        pieces.append(z)
    z, _ = encoder.finish(state)
    return torch.cat([*pieces, z], dim=2)


@pytest.mark.parametrize("lookahead", [0, 1, 8, 100])
@pytest.mark.parametrize("strides", [(1,), (3,), (2, 4), (2, 2, 2)])
def test_frames_are_the_samples_over_the_hop_rounded_up(strides, lookahead) -> None:
    cfg = EncoderConfig(strides=strides, channels=(2,) * len(strides), dilations=(1,), dim=3, lookahead=lookahead)
    assert cfg.hop == math.prod(strides)
    encoder = Encoder(cfg)
    for samples in (*range(1, 3 * cfg.hop + 2), 97):
        z, state = encoder(_wav(samples, batch=2))
        assert z.shape == (2, 3, math.ceil(samples / cfg.hop))
        assert state is None


@pytest.mark.parametrize("frames", [1, 7, 64])
@pytest.mark.parametrize("samples", [64 * HOP * 2, 64 * HOP + 1, 5])
def test_streamed_in_frames_equals_whole(encoder, frames, samples) -> None:
    wav = _wav(samples, batch=2)
    size = frames * HOP
    chunks = [size] * (samples // size) + ([samples % size] if samples % size else [])
    torch.testing.assert_close(_stream(encoder, wav, chunks), encoder(wav)[0], rtol=0, atol=4e-6)
    exact, wav = copy.deepcopy(encoder).double(), wav.double()
    torch.testing.assert_close(_stream(exact, wav, chunks), exact(wav)[0], rtol=0, atol=1e-13)


@settings(max_examples=60, deadline=None)
@given(
    chunks=st.lists(st.integers(0, 40), min_size=1, max_size=12).filter(any),
    lookahead=st.sampled_from([0, 3, 8, 11, 50]),
    seed=st.integers(0, 99),
)
def test_streamed_in_any_chunks_equals_whole(randomise, chunks, lookahead, seed) -> None:
    cfg = EncoderConfig(strides=(2, 3), channels=(2, 3), dilations=(1, 3), dim=2, lookahead=lookahead)
    encoder = randomise(Encoder(cfg), seed=seed).double()
    wav = _wav(sum(chunks), batch=2, seed=seed).double()
    torch.testing.assert_close(_stream(encoder, wav, chunks), encoder(wav)[0], rtol=0, atol=1e-13)


def test_a_stream_returns_each_frame_as_soon_as_it_is_final(encoder) -> None:
    state, received, returned = encoder.start(), 0, 0
    for _ in range(60):
        z, state = encoder(_wav(3), state)
        received, returned = received + 3, returned + z.shape[2]
        assert returned == max(0, received - CFG.lookahead) // HOP


def test_samples_beyond_the_lookahead_never_change_a_frame_and_those_within_do(encoder) -> None:
    wav = _wav(20 * HOP)
    before = encoder(wav)[0]
    for n in range(17):
        reach = (n + 1) * HOP + CFG.lookahead
        later = wav.clone()
        later[..., reach:] = 0.9
        assert torch.equal(encoder(later)[0][..., : n + 1], before[..., : n + 1])
        last = wav.clone()
        last[..., reach - 1] += 0.5
        assert not torch.equal(encoder(last)[0][..., n], before[..., n])
        assert torch.equal(encoder(last)[0][..., :n], before[..., :n])


@pytest.mark.parametrize("lookahead", [0, 11])
def test_a_frame_depends_on_exactly_its_receptive_field(randomise, lookahead) -> None:
    cfg = EncoderConfig(strides=(2, 3), channels=(8, 16), dilations=(1, 2), dim=5, lookahead=lookahead)
    encoder = randomise(Encoder(cfg)).double()
    n = 30
    end = (n + 1) * cfg.hop + lookahead
    wav = _wav(end + 20).double().requires_grad_()
    encoder(wav)[0][0, :, n].sum().backward()
    assert wav.grad is not None
    used = wav.grad[0, 0].nonzero().flatten()
    assert (used.min().item(), used.max().item() + 1) == (end - cfg.receptive_field, end)


def test_padding_at_the_right_never_changes_earlier_frames(encoder) -> None:
    for samples in (5, 64, 101):
        alone = encoder(_wav(samples))[0]
        for padding in (1, 7, 8, 300):
            padded = encoder(torch.nn.functional.pad(_wav(samples), (0, padding)))[0]
            torch.testing.assert_close(padded[..., : alone.shape[2]], alone, rtol=0, atol=1e-6)


def test_the_gain_is_that_of_the_input(encoder) -> None:
    plain = Encoder(replace(CFG, input_gain=1.0))
    plain.load_state_dict(encoder.state_dict())
    wav = _wav(90)
    torch.testing.assert_close(encoder(wav)[0], plain(wav * CFG.input_gain)[0], rtol=0, atol=1e-6)


def test_streams_of_a_batch_are_independent(encoder) -> None:
    wavs = _wav(90, batch=3)
    together = encoder(wavs)[0]
    for wav, z in zip(wavs, together, strict=True):
        torch.testing.assert_close(encoder(wav[None])[0][0], z, rtol=0, atol=5e-6)  # sums in another order


def test_a_state_is_a_value(encoder) -> None:
    _, state = encoder(_wav(50), encoder.start())
    first, after = encoder(_wav(30, seed=1), state)
    encoder(_wav(44, seed=2), state)
    again, _ = encoder(_wav(30, seed=1), state)
    assert torch.equal(again, first)
    assert torch.equal(encoder.finish(after)[0], encoder.finish(after)[0])


@pytest.mark.parametrize("shape", [(16,), (1, 16), (1, 2, 16), (1, 1, 1, 16)])
def test_other_shapes_are_refused(encoder, shape) -> None:
    with pytest.raises(ValueError, match=r"\(B, 1, T\)"):
        encoder(torch.zeros(shape))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strides": ()}, "strides"),
        ({"strides": (2, 0), "channels": (1, 1)}, "strides"),
        ({"channels": (4,)}, r"stages.*\(6\)"),
        ({"dim": 0}, "dim"),
        ({"dilations": (1, 0)}, "dilations"),
        ({"lookahead": -1}, "lookahead.*-1"),
        ({"input_gain": 0.0}, "input_gain must be .*0.0"),
        ({"input_gain": float("nan")}, "input_gain"),
    ],
)
def test_configurations_that_mean_nothing_are_refused(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        EncoderConfig(**options)
