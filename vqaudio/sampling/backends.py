"""Generation by the fastest backend that the machine has; all of them must equal `reference.generate`.

Letters: B streams, T steps, N frames, D code width.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from vqaudio.kernels.library import kernels, why_missing
from vqaudio.nn.modes import check_not_traced
from vqaudio.nn.wavenet import WaveNet
from vqaudio.sampling.compiled import open_compiled, why_unsupported
from vqaudio.sampling.config import SamplingConfig
from vqaudio.sampling.fused import FusedState
from vqaudio.sampling.graph import CudaGraphState
from vqaudio.sampling.logits import Generators, uniforms
from vqaudio.sampling.reference import check_prompt, check_request
from vqaudio.sampling.ring import RingBufferState
from vqaudio.torch_defaults import with_own_defaults

BLOCK = 2**32  # multiply-adds between two checks for an interrupt: a tenth of a second on one thread


class StreamState(Protocol):
    """B sequences in progress, and how their classes are drawn."""

    def extend(
        self,
        cond: Tensor | None,
        uniforms: Tensor,
        lengths: Tensor,
        *,
        teacher_forced: Tensor | None = None,
    ) -> Tensor:
        """cond (B, D, N), uniforms (B, T), lengths (B,) int64 on the CPU, not increasing -> classes (B, T) int64.

        Stream b takes lengths[b] steps, after which its classes are 0. With local conditioning an extension starts at
        the start of a frame, and N = ceil(T / hop). `teacher_forced` (B, T) int64: the input of each step, which is
        the class of the step before (`net.start` for the first step), instead of the one that was drawn.
        """
        ...


class Sampler(NamedTuple):
    """A backend for one net and one configuration."""

    name: str  # description for users: backend, precision and device or threads
    open: Callable[[Tensor | None, int], StreamState]  # speaker (B,) int64 or None, B -> new streams


Backend = Callable[[WaveNet, SamplingConfig], Sampler]


def choose(net: WaveNet, sampling: SamplingConfig = SamplingConfig()) -> Sampler:
    """The fastest backend for a net on its current device, described by `name`.

    On a CPU this is the compiled kernels, on up to `sampling.threads` threads (None: as many as PyTorch uses), or,
    without kernels and for sizes that they do not support, ring buffers in PyTorch, on the threads of PyTorch. On a GPU
    it is a CUDA graph. Raises ValueError for a precision that needs the compiled kernels if they cannot be used.
    """
    weight = net.out.weight
    if (reason := _why_not_compiled(net)) is None:
        compiled = kernels()
        assert compiled is not None
        threads = torch.get_num_threads() if sampling.threads is None else sampling.threads
        limit = f"up to {threads} thread{'s' if threads > 1 else ''}"
        name = f"compiled ({compiled.variant}), {sampling.precision}, {limit}"
        return Sampler(name, lambda speaker, streams: open_compiled(compiled, net, speaker, streams, sampling))
    if sampling.precision != "float32":
        raise ValueError(
            f"precision {sampling.precision} needs the compiled kernels on a CPU, and {reason}; use float32"
        )
    if weight.device.type == "cpu" and weight.dtype == torch.float32:
        _warn_once(reason)
    return cuda_graph(net, sampling) if weight.device.type == "cuda" else ring_buffers(net, sampling)


def _why_not_compiled(net: WaveNet) -> str | None:
    """Why the compiled kernels cannot be used for a net, as a clause for messages; None if they can."""
    weight = net.out.weight
    if weight.device.type != "cpu":
        return f"this model is on {weight.device}"
    if weight.dtype != torch.float32:
        return f"this model is in {weight.dtype}"
    return why_missing() if kernels() is None else why_unsupported(net.cfg)


def cuda_graph(net: WaveNet, sampling: SamplingConfig = SamplingConfig()) -> Sampler:
    """For GPUs: on an H200, 4 to 8 times as fast as `ring_buffers`. On other devices it takes its steps unrecorded."""
    name = f"CUDA graph, ring buffers, on {net.out.weight.device.type}"
    return Sampler(name, functools.partial(_open, CudaGraphState, net, sampling))


def fused(net: WaveNet, sampling: SamplingConfig = SamplingConfig()) -> Sampler:
    """For GPUs: many steps in one launch, a program for each stream, in Triton; its speed has not been measured yet."""
    name = f"Triton, {sampling.precision}, on {net.out.weight.device.type}"
    return Sampler(name, functools.partial(_open, FusedState, net, sampling))


def ring_buffers(net: WaveNet, sampling: SamplingConfig = SamplingConfig()) -> Sampler:
    """The backend that runs wherever PyTorch does."""
    name = f"PyTorch, ring buffers, on {net.out.weight.device.type}"
    return Sampler(name, functools.partial(_open, RingBufferState, net, sampling))


def _open(
    kind: type[RingBufferState | FusedState],
    net: WaveNet,
    sampling: SamplingConfig,
    speaker: Tensor | None,
    streams: int,
) -> StreamState:
    """Streams in PyTorch. Raises ValueError for weights that are not finite, as the compiled kernels do."""
    for name, weight in net.named_parameters():
        if not weight.isfinite().all():
            raise ValueError(f"{name} has values that are not finite; the weights of this WaveNet are damaged")
    return kind(net, speaker, streams, sampling)


@with_own_defaults
@torch.inference_mode()
def generate(
    net: WaveNet,
    cond: Tensor | None = None,
    speaker: Tensor | None = None,
    *,
    steps: int | Sequence[int],
    sampling: SamplingConfig = SamplingConfig(),
    generator: Generators | None = None,
    streams: int = 1,
    prompt: Tensor | None = None,
    backend: Backend = choose,
) -> Tensor:
    """cond (B, D, N), speaker (B,) int64 -> classes (B, T) int64; as `reference.generate`, but fast.

    `steps`: T, or each stream's own number, whose largest is T; after a stream's own end its classes are 0.
    `backend`: `choose`, `ring_buffers`, `cuda_graph` or `fused`.
    """
    check_not_traced("generation")
    sampler = backend(net, sampling)
    lengths, total = check_request(net, cond, speaker, steps, streams)
    streams = len(lengths)
    generator = torch.Generator().manual_seed(sampling.seed) if generator is None else generator
    order = lengths.argsort(descending=True, stable=True)  # streams that end early make room for the others
    uniform = uniforms(streams, total, generator)[order]
    lengths, device = lengths[order], net.out.weight.device
    cond = None if cond is None else cond[order.to(cond.device)]
    check_prompt(net, prompt, streams)
    chosen = torch.zeros(streams, total, dtype=torch.long, device=device)
    if not chosen.numel():
        return chosen
    state = sampler.open(None if speaker is None else speaker[order.to(speaker.device)], streams)
    hop = net.cfg.hop
    block, done = block_steps(net, streams), 0
    if prompt is not None:  # the prompt, and the first step after it
        inputs = F.pad(prompt[order.to(prompt.device)].to(device), (1, 0), value=net.start)
        draws = F.pad(uniform[:, :1], (inputs.shape[1] - 1, 0)).to(device)
        first = state.extend(None, draws, inputs.shape[1] * (lengths > 0), teacher_forced=inputs)
        chosen[order.to(device), 0], done = first[:, -1], 1
    for start in range(done, total, block):
        stop = min(start + block, total)
        frames = None if cond is None else cond[:, :, start // hop : -(-stop // hop)]
        remaining = (lengths - start).clamp(0, stop - start)
        chosen[order.to(device), start:stop] = state.extend(frames, uniform[:, start:stop].to(device), remaining)
    return chosen


def block_steps(net: WaveNet, streams: int) -> int:
    """Steps, a multiple of the hop, by which streams are extended at once."""
    hop = net.cfg.hop
    return max(1, BLOCK // (net.cfg.multiply_adds * streams * hop)) * hop


@functools.cache
def _warn_once(reason: str) -> None:
    logging.getLogger("vqaudio").warning("decoding with PyTorch, about twenty times slower: %s", reason)
