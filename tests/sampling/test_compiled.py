"""Compiled generation, every variant that this machine runs: its logits against the parallel pass, its samples
against the reference loop."""

import functools
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vqaudio.kernels import library
from vqaudio.kernels.precision import PRECISIONS, Precision
from vqaudio.kernels.wavenet import CompiledState
from vqaudio.nn.wavenet import WaveNet, WaveNetConfig
from vqaudio.sampling import generate, reference
from vqaudio.sampling.backends import Backend
from vqaudio.sampling.config import SamplingConfig
from vqaudio.sampling.logits import uniforms

WITH = {"none": {}, "cond": {"cond_dim": 3}, "speaker": {"num_speakers": 2}, "both": {"cond_dim": 5, "num_speakers": 2}}
ROUNDS_INPUTS = "avx512bf16"  # the variant that rounds what weights are multiplied with, too

pytestmark = pytest.mark.skipif(not library.runnable(), reason=library.why_missing())


def _rounded(net: WaveNet, precision: Precision) -> WaveNet:
    """The net in float64, its weights rounded as the kernels pack them: each tap, each layer of the skips by itself."""
    rounded = WaveNet(net.cfg).requires_grad_(False)
    rounded.load_state_dict(net.state_dict())
    for name, weight in rounded.named_parameters():
        if name.startswith("dilated") and weight.ndim == 3:
            rows = list(weight.unbind(2))
        elif name == "skip.weight":
            rows = list(weight.split(net.cfg.residual_channels, dim=1))
        else:
            rows = [weight] if name.startswith(("residual", "head", "out")) and weight.ndim == 2 else []
        for part in rows if precision != "float32" else []:
            part.copy_(_round_rows(part, precision))
    return rounded.double()


def _round_rows(rows: Tensor, precision: Precision) -> Tensor:
    if precision == "bf16":
        return rows.bfloat16().float()
    scale = rows.abs().amax(1, keepdim=True).clamp(min=1e-12) / 127
    return (rows / scale).round() * scale


def _parallel(net: WaveNet, x: Tensor, inputs: dict[str, Tensor]) -> Tensor:
    """Net in float64 -> logits (B, T, Q)."""
    cond = inputs["cond"].double() if "cond" in inputs else None
    return net(x, cond, inputs.get("speaker"))[0].transpose(1, 2)


def _stepwise(
    backend: Backend, net: WaveNet, precision: Precision, x: Tensor, lengths: Tensor, inputs: dict[str, Tensor]
) -> Tensor:
    """Inputs x (B, T) -> logits (B, T, Q), step by step."""
    streams, steps = x.shape
    logits = torch.zeros(streams, steps, net.cfg.num_classes)
    state = backend(net, SamplingConfig(precision=precision)).open(inputs.get("speaker"), streams)
    assert isinstance(state, CompiledState)
    state.extend(inputs.get("cond"), torch.rand(streams, steps), lengths, teacher_forced=x, logits=logits)
    return logits


@settings(max_examples=150, deadline=None)
@given(
    variant=st.sampled_from(library.runnable() or [""]),
    precision=st.sampled_from(PRECISIONS),
    threads=st.integers(1, 3),
    kind=st.sampled_from(list(WITH)),
    layers=st.integers(1, 6),
    layers_per_stack=st.integers(1, 4),
    kernel_size=st.integers(2, 4),
    residual_channels=st.integers(1, 40),
    skip_channels=st.integers(1, 40),
    num_classes=st.integers(2, 300),
    hop=st.integers(1, 70),
    cond_hidden_channels=st.integers(1, 40),
    beyond=st.integers(1, 20),
    parts=st.lists(st.floats(0, 1), max_size=18),
)
def test_logits_are_those_of_the_parallel_pass(
    compiled, make_net, inputs_of, variant, precision, threads, kind, beyond, parts, **shape
) -> None:
    net = make_net(**WITH[kind], **shape)
    steps = net.cfg.receptive_field + beyond
    lengths = torch.tensor(sorted([steps, *(round(part * steps) for part in parts)], reverse=True))
    inputs = inputs_of(net, len(lengths), steps)
    generator = torch.Generator().manual_seed(0)
    x = net.shift(torch.randint(net.cfg.num_classes, (len(lengths), steps), generator=generator))
    logits = _stepwise(compiled(variant, threads), net, precision, x, lengths, inputs)
    expected = _parallel(_rounded(net, precision), x, inputs)
    taken = torch.arange(steps) < lengths[:, None]
    error = (logits - expected)[taken].abs().max() / expected[taken].abs().max()
    inputs_rounded = precision != "float32" and variant == ROUNDS_INPUTS
    assert error < (0.1 if inputs_rounded else 1e-5)
    assert not logits[~taken].any()


@pytest.fixture(scope="module")
def base(make_net, inputs_of) -> tuple[WaveNet, Tensor, dict[str, Tensor], Tensor]:
    """The size that we recommend, and the parallel pass over more than its receptive field."""
    net = make_net(**vars(WaveNetConfig(cond_dim=64, num_speakers=11)))
    inputs = inputs_of(net, 1, 2200)
    x = net.shift(torch.randint(256, (1, 2200), generator=torch.Generator().manual_seed(0)))
    return net, x, inputs, _parallel(_rounded(net, "float32"), x, inputs)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("precision", "bound"), [("float32", 5e-6), ("bf16", 0.015), ("int8", 0.05)])
def test_logits_of_the_base_size(compiled, base, variant, precision, bound, threads) -> None:
    """The bounds hold for the rounded weights too, against those that are not."""
    net, x, inputs, expected = base
    steps = x.shape[1]
    assert steps > net.cfg.receptive_field
    logits = _stepwise(compiled(variant, threads), net, precision, x, torch.tensor([steps]), inputs)
    assert expected.std() > 0.5
    assert (logits - expected).abs().max() / expected.abs().max() < bound
    assert (logits - expected).square().mean().sqrt() / expected.std() < bound


@functools.cache
def _reference(make_net: Callable, inputs_of: Callable, number: int) -> tuple[WaveNet, dict, SamplingConfig, Tensor]:
    """A net, its inputs, how to draw, and 1,000 samples by the reference loop; the same for all variants."""
    options, drawing = [
        ({"num_classes": 64, "cond_dim": 5, "num_speakers": 2}, SamplingConfig()),
        (
            {"num_classes": 256, "residual_channels": 17, "skip_channels": 33, "kernel_size": 3, "hop": 37},
            SamplingConfig(temperature=0.8),
        ),
        (
            {"num_classes": 100, "layers": 5, "residual_channels": 20, "skip_channels": 24, "num_speakers": 3},
            SamplingConfig(top_k=20),
        ),
        ({"num_classes": 256, "num_speakers": 2, "hop": 16}, SamplingConfig(top_p=0.8)),
        ({"num_classes": 90, "cond_dim": 3}, SamplingConfig(temperature=1.3, top_k=40, top_p=0.95)),
    ][number]
    net = make_net(**options, seed=number)
    inputs = inputs_of(net, 1, 1000)
    sampling = replace(drawing, seed=number)
    return net, inputs, sampling, reference.generate(net, **inputs, steps=1000, sampling=sampling)


@pytest.mark.parametrize("number", range(5))
@pytest.mark.parametrize("threads", [1, 2])
def test_samples_are_those_of_the_reference_loop(
    compiled, make_net, inputs_of, assert_same_or_tie, variant, threads, number
) -> None:
    net, inputs, sampling, expected = _reference(make_net, inputs_of, number)
    chosen = generate(net, **inputs, steps=1000, sampling=sampling, backend=compiled(variant, threads))
    assert len(expected.unique()) > 20
    uniform = uniforms(1, 1000, torch.Generator().manual_seed(number))
    assert_same_or_tie(net, inputs, chosen, expected, uniform, sampling)


@settings(max_examples=90, deadline=None)
@given(
    variant=st.sampled_from(library.runnable() or [""]),
    threads=st.integers(1, 4),
    kind=st.sampled_from(list(WITH)),
    layers=st.integers(1, 5),
    layers_per_stack=st.integers(1, 4),
    kernel_size=st.integers(2, 4),
    num_classes=st.integers(2, 40),
    hop=st.integers(1, 9),
    lengths=st.lists(st.integers(0, 24), min_size=1, max_size=6),
    temperature=st.sampled_from([0.0, 0.3, 1.0, 1.5]),
    top_k=st.sampled_from([None, 1, 2, 5, 100]),
    top_p=st.sampled_from([None, 1e-6, 0.3, 0.5, 0.9, 0.999, 1.0]),
    seed=st.integers(0, 99),
)
def test_samples_of_many_shapes_too(
    compiled,
    make_net,
    inputs_of,
    assert_same_or_tie,
    variant,
    threads,
    kind,
    lengths,
    temperature,
    top_k,
    top_p,
    seed,
    **shape,
) -> None:
    net = make_net(**WITH[kind], **shape)
    streams, steps = len(lengths), max(lengths)
    sampling = SamplingConfig(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    inputs = inputs_of(net, streams, steps)
    given = {"streams": streams, "steps": lengths, "sampling": sampling, **inputs}
    expected = reference.generate(net, **given)
    chosen = generate(net, **given, backend=compiled(variant, threads))
    uniform = uniforms(streams, steps, torch.Generator().manual_seed(seed))
    assert_same_or_tie(net, inputs, chosen, expected, uniform, sampling)


@pytest.mark.parametrize(("uniform", "tie"), [(0.0, True), (9e-6, True), (-9e-6, True), (1e-4, False), (-1e-4, False)])
def test_ties_are_distinguished_from_errors(make_net, assert_same_or_tie, uniform, tie) -> None:
    net = make_net(torch.float64)
    probabilities = torch.softmax(net(torch.tensor([[net.start]]))[0][0, :, 0], 0)
    boundary = probabilities.cumsum(0)[2] + uniform
    both = torch.tensor([[2, 5]]), torch.tensor([[3, 1]])
    if tie:
        return assert_same_or_tie(net, {}, *both, boundary.expand(1, 2))
    with pytest.raises(AssertionError, match="stream 0, step 0: 2 or 3 is no tie"):
        assert_same_or_tie(net, {}, *both, boundary.expand(1, 2))


def test_top_p_of_1_changes_no_bit(compiled, make_net, inputs_of, variant) -> None:
    net = make_net(num_classes=64, num_speakers=2)
    given = {**inputs_of(net, 3, 200), "steps": 200, "backend": compiled(variant, 2)}
    every, none = (generate(net, **given, sampling=SamplingConfig(top_p=p)) for p in (1.0, None))
    assert torch.equal(every, none)
    assert not torch.equal(generate(net, **given, sampling=SamplingConfig(top_p=0.6)), none)
