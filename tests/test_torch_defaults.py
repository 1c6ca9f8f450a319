"""What a program sets for all of PyTorch changes nothing: default dtype and device, a fork, torch.jit.trace."""

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from vqaudio import SpeechVQVAE, Tokens, load_model
from vqaudio.sampling.reference import generate
from vqaudio.speech.prior import CodePrior, CodePriorConfig

WAV = np.random.default_rng(0).uniform(-0.5, 0.5, 300).astype(np.float32)


@contextmanager
def _of_the_program(dtype: torch.dtype | None = None, device: str | None = None) -> Iterator[None]:
    before = torch.get_default_dtype()
    try:
        if dtype is not None:
            torch.set_default_dtype(dtype)
        if device is not None:
            torch.set_default_device(device)
        yield
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(before)


OTHERS = pytest.mark.parametrize(
    "other", [{"dtype": torch.float64}, {"dtype": torch.bfloat16}, {"device": "meta"}], ids=str
)


def _all_of(model: SpeechVQVAE, wavs: Tensor) -> list[Tensor]:
    """What a model computes: codes alone, in a batch and as a stream; waveforms whole and as a stream."""
    tokens = model.tokenize(WAV)
    assert isinstance(tokens, Tokens)
    return [
        tokens.codes,
        model.encode(wavs)[0],
        *model.encode_stream(iter(wavs[0])),
        model.decode(tokens, "anna"),
        *model.decode_batch([tokens, tokens], ["bert", "carl"], temperature=0.7),
        torch.cat(list(model.decode_stream(tokens, "bert"))),
        torch.cat(list(model.decode_stream(iter(tokens.codes.tolist()), "bert"))),
        generate(model.decoder, torch.zeros_like(wavs[:, :, :3]).expand(1, 4, 3), wavs.new_zeros(1).long(), steps=20),
    ]


@OTHERS
def test_a_model_computes_the_same(tiny_model_dir, tiny_model, other) -> None:
    wavs = torch.from_numpy(WAV).view(1, 1, -1)
    expected = _all_of(tiny_model, wavs)
    with _of_the_program(**other):
        got = _all_of(tiny_model, wavs)
        loaded = load_model(tiny_model_dir)
        again = _all_of(loaded, wavs)
        assert torch.get_default_dtype() == other.get("dtype", torch.float32)
        assert torch.get_default_device().type == other.get("device", "cpu")
    assert loaded.fingerprint == tiny_model.fingerprint
    for one, two, three in zip(expected, got, again, strict=True):
        assert one.equal(two) and one.equal(three) and one.dtype == two.dtype == three.dtype


@OTHERS
def test_a_prior_samples_the_same(randomise: Callable[..., CodePrior], tiny_model, other) -> None:
    net = {"num_classes": 16, "layers": 2, "layers_per_stack": 2, "residual_channels": 4, "skip_channels": 4}
    from vqaudio.config import from_dict

    cfg = from_dict(CodePriorConfig, {"net": net, "model": tiny_model.fingerprint})
    prior = randomise(CodePrior(cfg)).eval()
    expected = prior.sample(12, [None, None])
    with _of_the_program(**other):
        assert prior.sample(12, [None, None]).equal(expected)


def _tokenize(model: SpeechVQVAE) -> list[int]:
    return model.tokenize(WAV).codes.tolist()


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system cannot fork")
def test_a_process_forked_after_load_model_does_not_wait_for_ever() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        model = load_model("mini")
        expected = _tokenize(model)
        with multiprocessing.get_context("fork").Pool(1) as pool:
            assert pool.apply_async(_tokenize, [model]).get(timeout=60) == expected
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("action", ["encode", "decode", "decode_stream"])
def test_a_trace_of_what_depends_on_the_length_is_refused(tiny_model, action) -> None:
    tokens = tiny_model.tokenize(WAV)
    actions = {
        "encode": lambda wav: tiny_model.encode(wav)[0],
        "decode": lambda wav: tiny_model.decode(tokens, "anna") + wav.sum(),
        "decode_stream": lambda wav: torch.cat(list(tiny_model.decode_stream(tokens, "anna"))) + wav.sum(),
    }
    with pytest.raises(RuntimeError, match=r"torch\.jit\.trace cannot record"):
        torch.jit.trace(actions[action], torch.from_numpy(WAV).view(1, 1, -1), check_trace=False)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_trace_of_one_shape_has_the_same_codes(tiny_model) -> None:
    """The compiled kernels would be missing in it, and their results would be uninitialised memory."""
    z = torch.randn(2, 4, 9, generator=torch.Generator().manual_seed(0))
    traced: Any = torch.jit.trace(lambda z: tiny_model.quantizer.encode(z), z, check_trace=False)
    assert traced(z).equal(tiny_model.quantizer.encode(z))
    assert traced(-z).equal(tiny_model.quantizer.encode(-z))
