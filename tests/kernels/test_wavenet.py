"""CompiledState by themselves: the same bits however they are run, and everything refused that cannot be run.

tests/sampling/test_compiled.py compares their logits and samples with the reference.
"""

import dataclasses
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from vqaudio.kernels import library
from vqaudio.kernels.library import Kernels
from vqaudio.kernels.precision import PRECISIONS
from vqaudio.kernels.wavenet import CompiledState, WaveNetShape

SIZES = {"classes": 40, "kernel_size": 3, "residual": 13, "skip": 20, "hop": 5, "hidden": 6}
SHAPES = {
    "odd": WaveNetShape(**SIZES, condition=3, speakers=2, dilations=(1, 2, 4, 8, 1, 2)),
    "plain": WaveNetShape(**{**SIZES, "kernel_size": 2, "residual": 33}, condition=0, speakers=0, dilations=(16, 1)),
    "wide": WaveNetShape(**{**SIZES, "residual": 64, "skip": 128, "hop": 1}, condition=9, speakers=0, dilations=(1, 2)),
    "speaker": WaveNetShape(**{**SIZES, "classes": 4, "hop": 64}, condition=0, speakers=5, dilations=(4,)),
}
ODD = SHAPES["odd"]
STEPS = 60
NAN, INF = float("nan"), float("inf")


@pytest.fixture(scope="module", params=library.VARIANTS)
def kernels(request: pytest.FixtureRequest) -> Kernels:
    """One variant after the other."""
    if request.param not in library.runnable():
        pytest.skip(f"the variant {request.param} was not compiled, or this machine does not run it")
    return library.load(request.param)


@pytest.fixture(scope="module")
def opened() -> Callable[..., CompiledState]:
    """(shape, weights, speakers, streams, precision, threads) -> streams of the best variant."""
    best = library.kernels()
    if best is None:
        pytest.skip(library.why_missing())

    def make(shape: WaveNetShape = ODD, weights: dict[str, Tensor] | None = None, **options) -> CompiledState:
        options = {"streams": 1, "precision": "float32", "threads": 1, **options}
        speakers = torch.zeros(options["streams"], dtype=torch.int64) if shape.speakers else None
        speakers = options.pop("speakers", speakers)
        return CompiledState(best, shape, _weights(shape) if weights is None else weights, speakers, **options)

    return make


def _noise(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def _weights(shape: WaveNetShape) -> dict[str, Tensor]:
    """Random, at a scale that preserves signal levels; logits far from uniform."""
    weights = {}
    for seed, (name, size) in enumerate(shape.tensors().items()):
        if size:
            inputs = math.prod(size[2:] or size[1:])  # of a row, behind the layers where there are some
            weights[name] = _noise(*size, seed=seed) * (0.2 if name.endswith("bias") else inputs**-0.5)
    return {**weights, "out_weight": 4 * weights["out_weight"]}


def _given(shape: WaveNetShape, streams: int, steps: int) -> dict[str, Tensor | None]:
    """cond (B, D, N) and uniforms (B, T)."""
    cond = _noise(streams, shape.condition, -(-steps // shape.hop), seed=7) if shape.condition else None
    return {"cond": cond, "uniforms": torch.rand(streams, steps, generator=torch.Generator().manual_seed(8))}


def _run(streams: CompiledState, given: dict, lengths: Tensor, pieces: list[int], **options) -> tuple[Tensor, Tensor]:
    """Extends by pieces of so many steps, which repeat -> classes (B, T), logits (B, T, Q)."""
    classes, hop = streams.shape.classes, streams.shape.hop
    chosen, logits, start, total = [], [], 0, given["uniforms"].shape[1]
    while start < total:
        stop = min(start + pieces[len(chosen) % len(pieces)], total)
        cond = given["cond"] if given["cond"] is None else given["cond"][:, :, start // hop : -(-stop // hop)]
        logits.append(torch.zeros(len(lengths), stop - start, classes))
        todo = (lengths - start).clamp(0, stop - start)
        part = given["uniforms"][:, start:stop]
        chosen.append(streams.extend(cond, part, todo, **options, logits=logits[-1]))
        start = stop
    return torch.cat(chosen, dim=1), torch.cat(logits, dim=1)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_bits_are_the_same_however_it_runs(kernels, shape, precision) -> None:
    """On one thread and on several, in a batch and alone, whole and in pieces, some streams ending before others."""
    weights, lengths = _weights(shape), torch.tensor([60, 60, 60, *range(59, 49, -1), 30, 30, 7, 1, 0, 0])
    count = len(lengths)  # more than a group of streams
    given = _given(shape, count, STEPS)
    speakers = torch.arange(count) % shape.speakers if shape.speakers else None

    def run(threads: int, pieces: list[int], rows: slice = slice(None)) -> tuple[Tensor, Tensor]:
        some = {name: None if value is None else value[rows] for name, value in given.items()}
        who, streams = (None if speakers is None else speakers[rows]), len(lengths[rows])
        options = {"streams": streams, "precision": precision, "threads": threads}
        return _run(CompiledState(kernels, shape, weights, who, **options), some, lengths[rows], pieces)

    chosen, logits = run(1, [STEPS])
    assert len(chosen[0].unique()) > 2
    assert not torch.equal(chosen[0], chosen[1])
    ended = torch.arange(STEPS) >= lengths[:, None]
    assert not chosen[ended].any()
    assert not logits[ended].any()
    hop = shape.hop
    for threads, pieces in [(2, [STEPS]), (3, [STEPS]), (40, [STEPS]), (1, [hop]), (2, [3 * hop, hop]), (40, [hop])]:
        again = run(threads, pieces)
        assert torch.equal(again[0], chosen), f"{threads} threads, pieces of {pieces}"
        assert torch.equal(again[1], logits), f"{threads} threads, pieces of {pieces}"
    for b in (0, 2, 9, 14, 15, 17):
        for threads, pieces in [(1, [STEPS]), (2, [hop, 2 * hop])]:
            alone = run(threads, pieces, slice(b, b + 1))
            assert torch.equal(alone[0][0], chosen[b]), f"stream {b} on {threads} threads, pieces of {pieces}"
            assert torch.equal(alone[1][0], logits[b]), f"stream {b} on {threads} threads, pieces of {pieces}"


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("threads", [1, 2])
def test_teacher_forced_with_its_own_samples_it_draws_them_again(kernels, precision, threads) -> None:
    given, lengths = _given(ODD, 2, STEPS), torch.tensor([60, 45])
    options = {"streams": 2, "precision": precision, "threads": threads, "temperature": 0.7, "top_k": 9, "top_p": 0.9}
    first, again, other = (
        CompiledState(kernels, ODD, _weights(ODD), torch.tensor([1, 0]), **options) for _ in range(3)
    )
    chosen, logits = _run(first, given, lengths, [STEPS])
    before = torch.cat([torch.full((2, 1), ODD.classes), chosen[:, :-1]], dim=1)
    forced = _run(again, given, lengths, [STEPS], teacher_forced=before)
    assert torch.equal(forced[0], chosen)
    assert torch.equal(forced[1], logits)
    assert not torch.equal(_run(other, given, lengths, [STEPS], teacher_forced=(before + 1) % 40)[1], logits)


# ------------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": 10**6}, "classes must lie in .*, got 1000000"),
        ({"classes": 0}, "classes"),
        ({"kernel_size": 0}, "kernel_size must lie in .*, got 0"),
        ({"kernel_size": 1}, "kernel_size must lie in .*, got 1"),  # has no past
        ({"residual": 0}, "residual"),
        ({"skip": 10**9}, "skip"),
        ({"hop": 0}, "hop"),
        ({"hidden": -1}, "hidden"),
        ({"condition": -1}, "condition"),
        ({"speakers": -1}, "speakers"),
        ({"dilations": ()}, "layers"),
        ({"dilations": (1, 0, 2)}, "dilation"),
        ({"dilations": (1, -4)}, "dilation"),
        ({"dilations": (1, 2**17)}, "dilation must lie in .*, got 131072"),
        ({"dilations": (1,) * (2**16 + 1)}, "layers"),
        (
            {"dilations": (2**16,), "kernel_size": 2**15 + 2, "residual": 1},
            "dilation",
        ),  # further back than 32 bits count
    ],
)
def test_sizes_that_mean_nothing_are_refused(change, message) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(ODD, **change)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"streams": 0}, "streams and threads must be at least 1, got 0 and 1"),
        ({"threads": 0}, "streams and threads must be at least 1, got 1 and 0"),
        ({"streams": 2**40}, "streams"),
        ({"precision": "fp8"}, "precision must be one of float32, bf16, int8, got 'fp8'"),
        ({"temperature": -1.0}, "temperature must be a finite number, 0 or more, got -1.0"),
        ({"temperature": NAN}, "temperature must be"),
        ({"top_k": 0}, "top_k must be at least 1, got 0"),
        ({"top_p": 0.0}, "top_p must be above 0 and at most 1, got 0.0"),
        ({"top_p": 1.5}, "top_p must be above 0 and at most 1, got 1.5"),
        ({"top_p": NAN}, "top_p must be"),
    ],
)
def test_options_that_mean_nothing_are_refused(opened, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        opened(SHAPES["plain"], **options)


def test_more_state_than_there_can_be_is_refused(opened) -> None:
    shape = dataclasses.replace(SHAPES["plain"], residual=1024, dilations=(2**16,) * 20)
    with pytest.raises(ValueError, match=r"the state of 16 streams of this WaveNet would take [\d,]+ bytes, at most"):
        opened(shape, {}, streams=16)


@pytest.mark.parametrize("name", [name for name, size in ODD.tensors().items() if size])
def test_weights_that_are_broken_are_refused(opened, name) -> None:
    weights = _weights(ODD)
    for value in (NAN, INF, -INF):
        broken = weights[name].clone()
        broken.view(-1)[-1] = value
        with pytest.raises(ValueError, match=f"{name} has values that are not finite"):
            opened(weights={**weights, name: broken})
    for other in (weights[name][:-1], weights[name][None], weights[name].double()):
        with pytest.raises(ValueError, match=f"{name} must be .*float32 on the CPU, got"):
            opened(weights={**weights, name: other})
    with pytest.raises(ValueError, match=f"{name}: missing"):
        opened(weights={key: value for key, value in weights.items() if key != name})


def test_weights_that_a_net_does_not_have_are_refused(opened) -> None:
    shape = SHAPES["plain"]
    with pytest.raises(ValueError, match="speaker: this WaveNet has none"):
        opened(shape, {**_weights(shape), "speaker": torch.zeros(2, shape.hidden)})


def test_speakers_that_do_not_fit_are_refused(opened) -> None:
    for speakers in ([2], [-1], [0, 1], [], [[0]]):
        with pytest.raises(ValueError, match=r"speaker must be \(1,\) of 0\.\.1, got"):
            opened(speakers=torch.tensor(speakers, dtype=torch.int64))
    with pytest.raises(ValueError, match="takes no speaker"):
        opened(SHAPES["plain"], speakers=torch.tensor([0]))
    with pytest.raises(ValueError, match="takes a speaker"):
        opened(speakers=None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cond": None}, "takes a local conditioning"),
        ({"cond": torch.zeros(2, 3, 3)}, r"cond must be \(2, 2, 3\)"),
        ({"cond": torch.zeros(2, 4, 2)}, r"cond must be \(2, 2, 3\)"),
        ({"cond": torch.zeros(1, 3, 2)}, r"cond must be \(2, 2, 3\)"),
        ({"cond": torch.zeros(2, 3, 2).double()}, "cond must be .*float32 on"),
        ({"cond": torch.full((2, 3, 2), NAN)}, "cond has values that are not finite"),
        ({"uniforms": torch.zeros(3, 7)}, r"uniforms must be \(2, 7\)"),
        ({"uniforms": torch.zeros(2, 7).double()}, "uniforms must be .*float32 on"),
        ({"lengths": torch.tensor([6, 7])}, r"lengths must not increase and lie in 0\.\.7, got \[6, 7\]"),
        ({"lengths": torch.tensor([8, 7])}, "lengths must not increase and lie in"),
        ({"lengths": torch.tensor([7, -1])}, "lengths must not increase and lie in"),
        ({"lengths": torch.tensor([7])}, r"lengths must be \(2,\)"),
        ({"lengths": torch.tensor([7, 7]).int()}, "lengths must be .*int64 on"),
        ({"teacher_forced": torch.full((2, 7), 41)}, r"teacher_forced classes must lie in 0\.\.40, got 41"),
        ({"teacher_forced": torch.full((2, 7), -1)}, "teacher_forced classes must lie in"),
        ({"teacher_forced": torch.zeros(2, 6, dtype=torch.int64)}, r"teacher_forced must be \(2, 7\)"),
        ({"logits": torch.zeros(2, 7, 39)}, r"logits must be \(2, 7, 40\)"),
        ({"logits": torch.zeros(2, 7, 40).double()}, "logits must be .*float32 on"),
        ({"logits": torch.zeros(2, 40, 7).transpose(1, 2)}, "logits must be contiguous"),
        ({"uniforms": torch.ones(2, 7)}, r"uniforms must lie in \[0, 1\), got 1\.0\.\.1\.0"),
        ({"uniforms": torch.full((2, 7), NAN)}, "uniforms must lie in"),
    ],
)
def test_requests_that_do_not_fit_are_refused(opened, change, message) -> None:
    streams = opened(streams=2)
    request = {**_given(ODD, 2, 7), "lengths": torch.tensor([7, 7])}
    with pytest.raises(ValueError, match=message):
        streams.extend(**{**request, **change})
    streams.extend(**request)  # nothing happened before
    with pytest.raises(ValueError, match="step 7 is not the first of a frame of 5"):
        streams.extend(**request)


def test_streams_that_ended_are_not_extended(opened) -> None:
    streams = opened(streams=2)
    request = _given(ODD, 2, 5)
    streams.extend(**request, lengths=torch.tensor([5, 4]))
    with pytest.raises(ValueError, match="1 of the streams ended before and cannot be extended again"):
        streams.extend(**request, lengths=torch.tensor([5, 1]))
    streams.extend(**request, lengths=torch.tensor([5, 0]))


def test_conditioning_that_a_net_does_not_take_is_refused(opened) -> None:
    with pytest.raises(ValueError, match="takes no local conditioning"):
        opened(SHAPES["plain"]).extend(torch.zeros(1, 3, 1), torch.rand(1, 5), torch.tensor([5]))


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    ("name", "before"),
    [
        ("out_weight", "head_bias"),  # infinities among the logits
        ("head_weight", "skip_bias"),
        ("skip_weight", "dilated_bias"),  # infinities of both signs meet on the way and give NaN
        ("residual_weight", "dilated_bias"),
    ],
)
def test_sums_that_overflow_are_reported(kernels, name, before, precision, threads) -> None:
    weights = _weights(ODD)
    weights[before] = weights[before] + 10  # what is multiplied is certainly far from 0
    rows = torch.arange(weights[name].shape[-2])[:, None] % 2
    weights[name] = (weights[name] * 0 + 3e38) * (1 - 2 * rows)
    options = {"streams": 3, "precision": precision, "threads": threads}
    streams = CompiledState(kernels, ODD, weights, torch.tensor([0, 1, 1]), **options)
    given = {**_given(ODD, 3, 30), "lengths": torch.tensor([30, 20, 20])}
    with pytest.raises(ValueError, match="logits are not finite"):
        streams.extend(**given)
    with pytest.raises(ValueError, match="an earlier extension of these streams failed; open new ones"):
        streams.extend(**given)
