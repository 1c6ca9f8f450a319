import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vqaudio.data.mulaw import mulaw_decode, mulaw_encode, mulaw_table

CLASSES = [2, 16, 255, 256, 1024, 65536]


def _formula(wav: np.ndarray, classes: int) -> np.ndarray:
    """ITU-T G.711's curve, rounded to the nearest class."""
    mu = classes - 1
    curve = np.sign(wav) * np.log1p(mu * np.abs(wav)) / np.log1p(mu)
    return np.floor((curve + 1) / 2 * mu + 0.5).astype(np.int64)


@pytest.mark.parametrize("classes", CLASSES)
def test_encode_is_the_formula(classes) -> None:
    wav = np.linspace(-1, 1, 20001)
    codes = mulaw_encode(torch.from_numpy(wav), classes)
    assert codes.dtype == torch.int64
    np.testing.assert_array_equal(codes.numpy(), _formula(wav, classes))


@pytest.mark.parametrize("classes", CLASSES)
def test_encode_undoes_decode(classes) -> None:
    codes = torch.arange(classes)
    wav = mulaw_decode(codes, classes)
    assert wav.dtype == torch.float32
    assert wav[0] == -1
    assert wav[-1] == 1
    assert torch.all(wav.diff() > 0)
    torch.testing.assert_close(mulaw_encode(wav, classes), codes)


@pytest.mark.parametrize("classes", CLASSES)
def test_table_is_the_encoder_and_monotone(classes) -> None:
    table = mulaw_table(classes)
    wav = torch.arange(-32768, 32768).float() / 32768
    assert table.shape == (65536,)
    torch.testing.assert_close(table, mulaw_encode(wav, classes))
    assert torch.all(table.diff() >= 0)
    assert table[0] == 0
    assert table[32768] == classes // 2  # silence


def test_decoded_sample_is_within_half_a_class() -> None:
    wav = torch.linspace(-1, 1, 5001, dtype=torch.float64)
    codes = mulaw_encode(wav)
    neighbours = mulaw_decode(torch.arange(256)).double()
    width = neighbours.diff().max()
    assert (mulaw_decode(codes) - wav).abs().max() <= width
    small = wav.abs() < 0.001
    assert (mulaw_decode(codes) - wav)[small].abs().max() < 0.0001  # fine where it is quiet


@given(st.floats(width=32, allow_nan=False), st.sampled_from(CLASSES))
def test_any_finite_or_infinite_sample_has_a_class(sample, classes) -> None:
    code = mulaw_encode(torch.tensor([sample]), classes)
    assert 0 <= code.item() < classes
    assert code == mulaw_encode(torch.tensor([max(-1.0, min(1.0, sample))]), classes)


def test_class_does_not_depend_on_shape_or_place() -> None:
    wav = torch.rand(1000, generator=torch.Generator().manual_seed(0)) * 2 - 1
    codes = mulaw_encode(wav, 65536)
    one_by_one = torch.stack([mulaw_encode(sample, 65536) for sample in wav])
    torch.testing.assert_close(codes, one_by_one)
    torch.testing.assert_close(mulaw_encode(wav.view(10, 1, 100), 65536).view(-1), codes)


@pytest.mark.parametrize("classes", [-1, 0, 1, 65537])
def test_number_of_classes_is_checked(classes) -> None:
    with pytest.raises(ValueError, match=f"2 to 65536, got {classes}"):
        mulaw_encode(torch.zeros(1), classes)
    with pytest.raises(ValueError, match=f"2 to 65536, got {classes}"):
        mulaw_decode(torch.zeros(1, dtype=torch.int64), classes)


def test_values_are_checked() -> None:
    with pytest.raises(ValueError, match="floating-point"):
        mulaw_encode(torch.zeros(3, dtype=torch.int16))
    with pytest.raises(ValueError, match="must be integers"):
        mulaw_decode(torch.zeros(3))
    with pytest.raises(ValueError, match="0 to 255, got 3 to 256"):
        mulaw_decode(torch.tensor([3, 256]))
    assert mulaw_decode(torch.zeros(0, dtype=torch.int64)).shape == (0,)
