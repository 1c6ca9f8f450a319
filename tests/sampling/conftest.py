"""What the tests of all samplers share: small nets far from uniform, their inputs, the samplers, and ties."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from vqaudio.kernels import library
from vqaudio.kernels.wavenet import Precision
from vqaudio.nn.wavenet import WaveNet, WaveNetConfig
from vqaudio.sampling import generate, reference
from vqaudio.sampling.backends import Sampler, cuda_graph, ring_buffers
from vqaudio.sampling.compiled import open_compiled

TIE = 1e-5  # of the cumulative distribution, or of the scale of logits: what rounding may decide
PYTORCH: dict[str, Callable[[WaveNet], Sampler]] = {"ring_buffers": ring_buffers, "graph_unrecorded": cuda_graph}
VARIANTS = library.runnable()
NONE = pytest.param("compiled", marks=pytest.mark.skip(reason=library.why_missing()))


class Means(NamedTuple):
    """A sampler as tests call it: `generate(net, ...)`, for nets in `dtype`, in which its rounding decides nothing."""

    generate: Callable[..., Tensor]
    dtype: torch.dtype


def _compiled(net: WaveNet, variant: str, threads: int, precision: Precision = "float32") -> Sampler:
    kernels = library.load(variant)
    options = {"precision": precision, "threads": threads}
    return Sampler(variant, lambda speaker, streams: open_compiled(kernels, net, speaker, streams, **options))


def _params() -> list:
    names = [f"compiled-{variant}-{threads}" for variant in VARIANTS for threads in (1, 2)]
    return ["reference", *PYTORCH, *(names or [NONE])]


@pytest.fixture(scope="session", params=_params())
def means(request: pytest.FixtureRequest) -> Means:
    """Each sampler in turn: the obvious loop, those in PyTorch, each compiled variant on one thread and on two."""
    if request.param == "reference":
        return Means(reference.generate, torch.float64)
    if request.param in PYTORCH:
        open_sampler, dtype = PYTORCH[request.param], torch.float64
    else:
        _, variant, threads = request.param.split("-")
        open_sampler = functools.partial(_compiled, variant=variant, threads=int(threads))
        dtype = torch.float32
    return Means(lambda net, *inputs, **options: generate(net, *inputs, **options, sampler=open_sampler(net)), dtype)


@pytest.fixture(
    scope="session", params=VARIANTS or [pytest.param("", marks=pytest.mark.skip(reason=library.why_missing()))]
)
def variant(request: pytest.FixtureRequest) -> str:
    """Each compiled variant that this machine runs, in turn."""
    return request.param


@pytest.fixture(scope="session")
def compiled() -> Callable[..., Sampler]:
    """(net, variant, threads, precision) -> the sampler of one instruction set."""
    return _compiled


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
        net.out.weight *= 4  # what was drawn before matters
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
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
) -> None:
    """(B, T) each. Where a stream departs for the first time, its random number must have stood between two classes."""
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
        gaps = _distances(logits[0, :, -1], float(uniform[b, t]), first, second, temperature, top_k)
        assert max(gaps) < TIE, f"stream {b}, step {t}: {first} or {second} is no tie, {gaps}"


def _distances(
    logits: Tensor, uniform: float, first: int, second: int, temperature: float, top_k: int | None
) -> list[float]:
    """Logits (Q,) float64 -> how far two classes are from being a matter of rounding."""
    if temperature == 0 or top_k == 1:
        gap = (logits[first] - logits[second]).abs() + logits.max() - logits[[first, second]].max()
        return [float(gap / logits.abs().max())]
    if top_k is not None and top_k < len(logits):
        logits = logits.masked_fill(logits < logits.topk(top_k).values[-1], float("-inf"))
    cumulative = torch.softmax(logits / temperature, 0).cumsum(0)
    return [abs(float(cumulative[end]) - uniform) for end in (first, second - 1)]


@pytest.fixture(scope="session")
def assert_same_or_tie() -> Callable[..., None]:
    """(net, inputs, chosen, expected, uniform, temperature, top_k): equal sequences, or a tie where one departs."""
    return _assert_same_or_tie
