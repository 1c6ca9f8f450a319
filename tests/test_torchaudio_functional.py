"""Where torchaudio cannot be imported, the same values come from our own lines, to the bit."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
import torch

from vqaudio.data.mulaw import _mu_law_decoding, _mu_law_encoding, mulaw_decode, mulaw_encode
from vqaudio.nn.log_mel import LogMel, LogMelConfig
from vqaudio.nn.mel import melscale_fbanks
from vqaudio.torchaudio_functional import torchaudio_functional

FILTERS = [(513, 40.0, 7600.0, 80, 16000), (1025, 0.0, 8000.0, 40, 16000), (257, 40.0, 3800.0, 20, 8003)]


@pytest.fixture
def torchaudio():
    """The reference; without it nothing can be compared."""
    return pytest.importorskip("torchaudio.functional")


@pytest.mark.parametrize("classes", [2, 16, 255, 256, 1024, 65536])
def test_mu_law_is_that_of_torchaudio(torchaudio, classes) -> None:
    wav = torch.rand(20000, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1
    wav = torch.cat([wav, torch.tensor([-1.0, 0.0, 1.0])])
    assert _mu_law_encoding(wav, classes).equal(torchaudio.mu_law_encoding(wav, classes))
    codes = torch.arange(classes, dtype=torch.float64)
    assert _mu_law_decoding(codes, classes).equal(torchaudio.mu_law_decoding(codes, classes))


@pytest.mark.parametrize("sizes", FILTERS)
def test_mel_filters_are_those_of_torchaudio(torchaudio, sizes) -> None:
    assert melscale_fbanks(*sizes).equal(torchaudio.melscale_fbanks(*sizes))


@pytest.fixture(params=["ImportError('no such file')", "RuntimeError('another CUDA')", "OSError('undefined symbol')"])
def without_torchaudio(request, tmp_path, monkeypatch) -> Iterator[None]:
    """torchaudio raises an error when it is imported."""
    (tmp_path / "torchaudio").mkdir()
    (tmp_path / "torchaudio/__init__.py").write_text(f"raise {request.param}\n")
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchaudio"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    torchaudio_functional.cache_clear()
    yield
    torchaudio_functional.cache_clear()


@pytest.fixture(scope="module")
def expected():
    """Filters, classes and samples as they are beside torchaudio."""
    torchaudio_functional.cache_clear()
    return _values()


def _values() -> list[torch.Tensor]:
    wav = torch.linspace(-1, 1, 1000)
    return [LogMel(LogMelConfig(n_mels=40, warp=0.05)).banks, mulaw_encode(wav), mulaw_decode(torch.arange(256))]


def test_nothing_changes_without_it(expected, without_torchaudio) -> None:
    assert torchaudio_functional() is None
    for one, other in zip(expected, _values(), strict=True):
        assert one.equal(other)
