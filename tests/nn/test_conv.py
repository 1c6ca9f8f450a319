import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from vqaudio.nn.conv import CausalConv1d, ResidualBlock1d

SHAPES = st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3)).flatmap(
    lambda known: st.tuples(st.just(known), st.integers(known[2], known[2] + 3), st.integers(1, 4))
)


def _noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=40, deadline=None)
@given(shapes=SHAPES, outputs=st.integers(1, 9))
def test_equals_a_left_padded_convolution(randomise, shapes, outputs) -> None:
    (channels_in, channels_out, stride), kernel_size, dilation = shapes
    conv = randomise(CausalConv1d(channels_in, channels_out, kernel_size, stride, dilation).double())
    x = _noise(2, outputs * stride, channels_in)
    padded = F.pad(x.transpose(1, 2), ((kernel_size - 1) * dilation + 1 - stride, 0))
    expected = F.conv1d(padded, conv.weight, conv.bias, stride=stride, dilation=dilation).transpose(1, 2)
    y, past = conv(x)
    assert y.shape == (2, outputs, channels_out)
    assert past.shape == (2, conv.past_length, channels_in)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(shapes=SHAPES, chunks=st.lists(st.integers(1, 5), min_size=1, max_size=6))
def test_chunked_equals_whole(randomise, shapes, chunks) -> None:
    (channels_in, channels_out, stride), kernel_size, dilation = shapes
    conv = randomise(CausalConv1d(channels_in, channels_out, kernel_size, stride, dilation).double())
    x = _noise(2, sum(chunks) * stride, channels_in)
    whole, last_past = conv(x)
    past, pieces = None, []
    for piece in x.split([outputs * stride for outputs in chunks], dim=1):
        y, past = conv(piece, past)
        pieces.append(y)
    assert past is not None
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, rtol=1e-12, atol=1e-12)
    assert torch.equal(past, last_past)


@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (1, 3), (4, 1)])
def test_the_future_never_changes_the_past(randomise, stride, dilation) -> None:
    conv = randomise(CausalConv1d(3, 5, kernel_size=4, stride=stride, dilation=dilation)).float()
    x = _noise(1, 24, 3).float()
    before = conv(x)[0]
    for t in range(24):
        changed = x.clone()
        changed[:, t:] += 1
        after = conv(changed)[0]
        assert torch.equal(after[:, : t // stride], before[:, : t // stride])
        assert not torch.equal(after[:, t // stride], before[:, t // stride])


def test_a_past_is_a_value(randomise) -> None:
    conv = randomise(CausalConv1d(2, 2, 3, dilation=2))
    _, past = conv(_noise(1, 9, 2).float())
    kept = past.clone()
    chunk, other = _noise(1, 5, 2, seed=1).float(), _noise(1, 5, 2, seed=2).float()
    first, _ = conv(chunk, past)
    conv(other, past)
    again, _ = conv(chunk, past)
    assert torch.equal(past, kept)
    assert torch.equal(again, first)


def test_wrong_lengths_and_kernels_are_explained() -> None:
    with pytest.raises(ValueError, match=r"7 time steps .* stride 2"):
        CausalConv1d(1, 1, 4, stride=2)(torch.zeros(1, 7, 1))
    with pytest.raises(ValueError, match="at least 3"):
        CausalConv1d(1, 1, 2, stride=3)


def test_residual_block_starts_as_the_identity() -> None:
    x = _noise(2, 7, 3).float()
    assert torch.equal(ResidualBlock1d(3, 3, dilation=2)(x)[0], x)


@settings(max_examples=20, deadline=None)
@given(chunks=st.lists(st.integers(1, 5), min_size=1, max_size=5), dilation=st.integers(1, 4))
def test_residual_block_is_its_formula_in_any_chunks(randomise, chunks, dilation) -> None:
    block = randomise(ResidualBlock1d(3, 3, dilation).double())
    x = _noise(2, sum(chunks), 3)
    h = F.relu(block.conv(F.relu(x))[0])
    expected = x + h @ block.out.weight.T + block.out.bias
    assert not torch.allclose(expected, x)
    past, pieces = None, []
    for piece in x.split(chunks, dim=1):
        y, past = block(piece, past)
        pieces.append(y)
    torch.testing.assert_close(torch.cat(pieces, dim=1), expected, rtol=1e-12, atol=1e-12)
