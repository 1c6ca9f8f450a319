"""Fixtures for the tests of all backends: small nets far from uniform, their inputs, the backends, and ties."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from vqaudio.kernels import library
from vqaudio.nn.wavenet import WaveNet, WaveNetConfig
from vqaudio.sampling import generate, reference
from vqaudio.sampling.backends import Backend, Sampler, cuda_graph, ring_buffers
from vqaudio.sampling.compiled import open_compiled
from vqaudio.sampling.config import SamplingConfig

TIE = 1e-5  # of the cumulative distribution, or of the scale of logits: what rounding may decide
PYTORCH: dict[str, Backend] = {"ring_buffers": ring_buffers, "graph_unrecorded": cuda_graph}
VARIANTS = library.runnable()
NONE = pytest.param("compiled", marks=pytest.mark.skip(reason=library.why_missing()))


class TestedBackend(NamedTuple):
    """A backend as tests call it: `generate(net, ...)`, for nets in `dtype`, in which rounding decides nothing."""

    generate: Callable[..., Tensor]
    dtype: torch.dtype


def _compiled(net: WaveNet, sampling: SamplingConfig, *, variant: str, threads: int) -> Sampler:
    kernels, sampling = library.load(variant), replace(sampling, threads=threads)
    return Sampler(variant, lambda speaker, streams: open_compiled(kernels, net, speaker, streams, sampling))


def _params() -> list:
    names = [f"compiled-{variant}-{threads}" for variant in VARIANTS for threads in (1, 2)]
    return ["reference", *PYTORCH, *(names or [NONE])]


@pytest.fixture(scope="session", params=_params())
def tested(request: pytest.FixtureRequest) -> TestedBackend:
    """Each backend in turn: the reference loop, those in PyTorch, each compiled variant on one thread and on two."""
    if request.param == "reference":
        return TestedBackend(reference.generate, torch.float64)
    if request.param in PYTORCH:
        return TestedBackend(functools.partial(generate, backend=PYTORCH[request.param]), torch.float64)
    _, variant, threads = request.param.split("-")
    backend = functools.partial(_compiled, variant=variant, threads=int(threads))
    return TestedBackend(functools.partial(generate, backend=backend), torch.float32)


@pytest.fixture(
    scope="session", params=VARIANTS or [pytest.param("", marks=pytest.mark.skip(reason=library.why_missing()))]
)
def variant(request: pytest.FixtureRequest) -> str:
    """Each compiled variant that this machine runs, in turn."""
    return request.param


@pytest.fixture(scope="session")
def compiled() -> Callable[[str, int], Backend]:
    """(variant, threads) -> the backend of one instruction set."""
    return lambda variant, threads: functools.partial(_compiled, variant=variant, threads=threads)


@pytest.fixture(scope="session")
def make_net(randomise) -> Callable[..., WaveNet]:
    """(dtype, seed, options of WaveNetConfig) -> a small net whose logits are far from uniform."""

    def make(dtype: torch.dtype = torch.float32, *, seed: int = 0, **options) -> WaveNet:
        small = {
            "num_classes": 7,
            "layers": 4,
            "layers_per_stack": 3,
            "residual_channels": 4,
            "skip_channels": 5,
            "hop": 4,
            "cond_hidden_channels": 6,
        }
        net = randomise(WaveNet(WaveNetConfig(**{**small, **options})), seed).requires_grad_(False)
        net.out.weight *= 4  # so that predictions depend on previous samples
        return net.to(dtype)

    return make


@pytest.fixture(scope="session")
def inputs_of() -> Callable[..., dict[str, Tensor]]:
    """(net, streams, steps) -> cond (B, D, N) and speaker (B,), as the net takes them."""

    def make(net: WaveNet, streams: int, steps: int) -> dict[str, Tensor]:
        cfg, generator = net.cfg, torch.Generator().manual_seed(1)
        inputs: dict[str, Tensor] = {}
        if cfg.cond_dim:
            cond = torch.randn(streams, cfg.cond_dim, -(-steps // cfg.hop), generator=generator)
            inputs["cond"] = cond.to(net.out.weight.dtype)
        if cfg.num_speakers:
            inputs["speaker"] = torch.arange(streams) % cfg.num_speakers
        return inputs

    return make


@pytest.fixture(scope="session")
def seeded() -> Callable[..., list[torch.Generator]]:
    """Seeds -> a generator for each."""
    return lambda *seeds: [torch.Generator().manual_seed(seed) for seed in seeds]


def _assert_same_or_tie(
    net: WaveNet,
    inputs: dict[str, Tensor],
    chosen: Tensor,
    expected: Tensor,
    uniform: Tensor,
    sampling: SamplingConfig = SamplingConfig(),
) -> None:
    """(B, T) each. Where a stream differs for the first time, its random number must lie between two classes."""
    assert chosen.shape == expected.shape
    exact = WaveNet(net.cfg).double().requires_grad_(False)
    exact.load_state_dict(net.state_dict())
    for b, t in enumerate((chosen != expected).long().argmax(1).tolist() if chosen.shape[1] else []):
        if torch.equal(chosen[b], expected[b]):
            continue
        row = {name: value[b : b + 1] for name, value in inputs.items()}
        cond = row["cond"][:, :, : t // net.cfg.hop + 1].double() if "cond" in row else None
        logits, _ = exact(exact.shift(expected[b : b + 1, : t + 1]), cond, row.get("speaker"))
        first, second = sorted((int(chosen[b, t]), int(expected[b, t])))
        distance = _distance(logits[0, :, -1], float(uniform[b, t]), first, second, sampling)
        assert distance < TIE, f"stream {b}, step {t}: {first} or {second} is no tie, {distance}"


def _distance(logits: Tensor, uniform: float, first: int, second: int, sampling: SamplingConfig) -> float:
    """Logits (Q,) float64 -> how far the choice between two classes is from being decided by rounding."""
    if sampling.greedy:
        apart = (logits[first] - logits[second]).abs() + logits.max() - logits[[first, second]].max()
        return float(apart / logits.abs().max())
    if sampling.top_k is not None and sampling.top_k < len(logits):
        logits = logits.masked_fill(logits < logits.topk(sampling.top_k).values[-1], float("-inf"))
    probabilities = torch.softmax(logits / sampling.temperature, 0)
    if sampling.top_p is not None and sampling.top_p < 1:
        ordered, order = probabilities.sort(descending=True, stable=True)
        reached = ordered.cumsum(0)
        size = int((reached < sampling.top_p).sum()) + 1
        if float((reached - sampling.top_p).abs().min()) < TIE:  # rounding decides how large the nucleus is
            return 0.0
        if size < len(ordered) and float(ordered[size - 1] - ordered[size]) < TIE * float(ordered[size]):
            return 0.0  # or which of two classes is in it
        probabilities = torch.zeros_like(probabilities).scatter(0, order[:size], ordered[:size] / reached[size - 1])
    cumulative = probabilities.cumsum(0)
    return max(abs(float(cumulative[end]) - uniform) for end in (first, second - 1))


@pytest.fixture(scope="session")
def assert_same_or_tie() -> Callable[..., None]:
    """(net, inputs, chosen, expected, uniform, sampling): equal sequences, or a tie where one differs first."""
    return _assert_same_or_tie
