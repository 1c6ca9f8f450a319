"""Speech in pieces equals speech at once."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vqaudio import SpeechVQVAE, Tokens
from vqaudio.sampling import backends as sampling
from vqaudio.speech.synthesis import STREAM_FRAMES


def _tokens(model: SpeechVQVAE, samples: int, seed: int = 0) -> Tokens:
    generator = torch.Generator().manual_seed(seed)
    return model.tokenize(torch.rand(samples, generator=generator) * 2 - 1)


@pytest.fixture(params=["compiled", "ring buffers"])
def model(request: pytest.FixtureRequest, tiny_model: SpeechVQVAE, monkeypatch: pytest.MonkeyPatch) -> SpeechVQVAE:
    if request.param == "ring buffers":
        monkeypatch.setattr(sampling, "kernels", lambda: None)
    elif sampling.kernels() is None:
        pytest.skip("the compiled kernels are not here")
    return tiny_model


@pytest.mark.parametrize("samples", [1, 8, 9, STREAM_FRAMES * 8, STREAM_FRAMES * 8 + 1, 500])
def test_streamed_tokens_equal_decoded_ones(model: SpeechVQVAE, samples: int) -> None:
    tokens = _tokens(model, samples)
    pieces = list(model.decode_stream(tokens, "bert", seed=3, temperature=0.9, top_k=9))
    assert all(piece.dtype == torch.float32 and piece.ndim == 1 for piece in pieces)
    assert len(pieces) == -(-len(tokens.codes) // STREAM_FRAMES)
    assert torch.equal(torch.cat(pieces), model.decode(tokens, "bert", seed=3, temperature=0.9, top_k=9))


@settings(max_examples=30, deadline=None)
@given(cuts=st.lists(st.integers(0, 7), min_size=1, max_size=12), single=st.booleans())
def test_codes_may_arrive_in_any_pieces(tiny_model: SpeechVQVAE, cuts: list[int], single: bool) -> None:
    tokens = _tokens(tiny_model, 8 * max(1, sum(cuts)))
    if single:
        arriving, expected = iter(tokens.codes.tolist()), [1] * len(tokens.codes)
    else:
        arriving = iter(tokens.codes[: sum(cuts)].split(cuts) if sum(cuts) else [])
        expected = [cut for cut in cuts if cut] if sum(cuts) else []
    pieces = list(tiny_model.decode_stream(arriving, "carl", seed=1))
    assert [len(piece) for piece in pieces] == [8 * count for count in expected]
    whole = tiny_model.decode(tokens, "carl", seed=1)
    assert torch.equal(torch.cat([torch.zeros(0), *pieces]), whole[: sum(map(len, pieces))])


def test_audio_is_returned_before_later_codes_are_read(model: SpeechVQVAE) -> None:
    """The delay: a code's samples are there before the next code is."""
    codes = _tokens(model, 80).codes.tolist()
    codes_read = 0

    def arriving():
        nonlocal codes_read
        for code in codes:
            codes_read += 1
            yield code

    for count, piece in enumerate(model.decode_stream(arriving(), "anna"), start=1):
        assert codes_read == count
        assert len(piece) == model.hop


def test_a_stream_refuses_what_decode_refuses(model: SpeechVQVAE) -> None:
    tokens = _tokens(model, 40)
    calls: list[tuple[Callable[[], object], str]] = [
        (lambda: model.decode_stream(tokens, "p999"), "speaker 'p999' is not in this model"),
        (lambda: model.decode_stream(tokens), "name a speaker"),
        (lambda: list(model.decode_stream([3, 16], "anna")), r"codes must lie in 0\.\.15, got 16"),
        (lambda: list(model.decode_stream([torch.tensor([0.5])], "anna")), "codes must be whole numbers"),
        (lambda: list(model.decode_stream(tokens, "anna", temperature=-1.0)), "temperature"),
        (lambda: list(model.decode_stream(tokens, "anna", threads=0)), "threads must be at least 1, got 0"),
    ]
    for call, message in calls:
        with pytest.raises(ValueError, match=message):
            call()


def test_precisions_differ_and_unavailable_ones_are_reported(model: SpeechVQVAE) -> None:
    tokens = _tokens(model, 5000)
    if sampling.kernels() is None:
        with pytest.raises(ValueError, match="precision bf16 needs the compiled kernels on a CPU"):
            model.decode(tokens, "anna", precision="bf16")
        return
    exact, rounded, coarse = (model.decode(tokens, "anna", precision=p) for p in ("float32", "bf16", "int8"))
    assert not torch.equal(exact, rounded)
    assert not torch.equal(rounded, coarse)
    assert torch.equal(model.decode(tokens, "anna", precision="bf16", threads=2), rounded)


def test_a_batch_of_different_lengths_equals_each_alone(model: SpeechVQVAE) -> None:
    batch = [_tokens(model, samples, seed) for seed, samples in enumerate([9, 310, 64, 150, 311, 1])]
    together: list[Tensor] = model.decode_batch(batch, "bert", seed=2)
    for tokens, wav in zip(batch, together, strict=True):
        assert torch.equal(wav, model.decode(tokens, "bert", seed=2))
