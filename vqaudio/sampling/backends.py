"""Generation by the fastest means that the machine has; `reference.generate` is what it must equal.

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
from vqaudio.kernels.wavenet import PRECISIONS, Precision
from vqaudio.nn.wavenet import WaveNet
from vqaudio.sampling.compiled import open_compiled, shape_of
from vqaudio.sampling.graph import GraphStreams
from vqaudio.sampling.logits import Generators, uniforms
from vqaudio.sampling.reference import check_prompt, check_request
from vqaudio.sampling.ring import RingStreams

BLOCK = 2**32  # multiply-adds after which an interrupt is heard: a tenth of a second on one thread


class Streams(Protocol):
    """B sequences in progress."""

    def extend(
        self,
        cond: Tensor | None,
        uniforms: Tensor,
        lengths: Tensor,
        *,
        temperature: float,
        top_k: int | None,
        forced: Tensor | None = None,
    ) -> Tensor:
        """cond (B, D, N), uniforms (B, T), lengths (B,) int64 on the CPU, not increasing -> classes (B, T) int64.

        Stream b takes lengths[b] steps, behind which its classes are 0. With local conditioning an extension begins
        with a frame, and N = ceil(T / hop). `forced` (B, T) int64: the classes before each step (`net.start` before
        the first), instead of those that were drawn.
        """
        ...


class Sampler(NamedTuple):
    """A way to generate."""

    name: str  # for people: what it is, and how it computes
    open: Callable[[Tensor | None, int], Streams]  # speaker (B,) or None, B -> streams at their beginning


def choose(net: WaveNet, *, precision: Precision = "float32", threads: int | None = None) -> Sampler:
    """The fastest sampler for a net where it is; its `name` says which.

    `threads`: so many of the compiled kernels at most (None: as many as PyTorch has); PyTorch's own samplers use the
    threads that PyTorch has. On a GPU these are ring buffers: `cuda_graph` has not been run on one yet. Raises
    ValueError for a precision that only the compiled kernels have, where they are not.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    threads = torch.get_num_threads() if threads is None else threads
    if threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    weight = net.out.weight
    on_cpu = weight.device.type == "cpu"
    compiled = kernels() if on_cpu and weight.dtype == torch.float32 else None
    if compiled is not None:
        name = f"compiled ({compiled.variant}), {precision}, up to {threads} thread{'s' if threads > 1 else ''}"
        options = {"precision": precision, "threads": threads}
        return Sampler(name, lambda speaker, streams: open_compiled(compiled, net, speaker, streams, **options))
    if precision != "float32":
        where = why_missing() if on_cpu else f"this model is on {weight.device}"
        if on_cpu and weight.dtype != torch.float32:
            where = f"this model is in {weight.dtype}"
        raise ValueError(f"precision {precision} is the compiled kernels' on a CPU, and {where}; use float32")
    if on_cpu and weight.dtype == torch.float32:
        _notice()
    return ring_buffers(net)


def cuda_graph(net: WaveNet) -> Sampler:
    """For GPUs, on which it has not been run yet; elsewhere it takes the same steps unrecorded."""
    return Sampler(
        f"CUDA graph, ring buffers, on {net.out.weight.device.type}", functools.partial(_open, GraphStreams, net)
    )


def ring_buffers(net: WaveNet) -> Sampler:
    """The sampler that runs wherever PyTorch does."""
    return Sampler(
        f"PyTorch, ring buffers, on {net.out.weight.device.type}", functools.partial(_open, RingStreams, net)
    )


def _open(kind: type[RingStreams], net: WaveNet, speaker: Tensor | None, streams: int) -> Streams:
    """Streams in PyTorch. Raises ValueError for weights that are not finite, as the compiled kernels do."""
    for name, weight in net.named_parameters():
        if not weight.isfinite().all():
            raise ValueError(f"{name} holds values that are not finite; the weights of this WaveNet are broken")
    return kind(net, speaker, streams)


@torch.inference_mode()
def generate(
    net: WaveNet,
    cond: Tensor | None = None,
    speaker: Tensor | None = None,
    *,
    steps: int | Sequence[int],
    temperature: float = 1.0,
    top_k: int | None = None,
    generator: Generators = None,
    streams: int = 1,
    prompt: Tensor | None = None,
    sampler: Sampler | None = None,
) -> Tensor:
    """cond (B, D, N), speaker (B,) -> classes (B, T) int64; as `reference.generate`, but fast.

    `steps`: T, or each stream's own number, whose largest is T; behind a stream's end its classes are 0.
    `sampler`: by which means (None: `choose(net)`).
    """
    sampler = sampler or choose(net)
    lengths, total = check_request(net, cond, speaker, steps, temperature, top_k, streams)
    streams = len(lengths)
    order = lengths.argsort(descending=True, stable=True)  # streams that end make room for the others
    uniform = uniforms(streams, total, generator)[order]
    lengths, device = lengths[order], net.out.weight.device
    cond = None if cond is None else cond[order.to(cond.device)]
    check_prompt(net, prompt, streams)
    chosen = torch.zeros(streams, total, dtype=torch.long, device=device)
    if not chosen.numel():
        return chosen
    opened = sampler.open(None if speaker is None else speaker[order.to(speaker.device)], streams)
    hop = net.cfg.hop
    block, begun = block_steps(net, streams), 0
    if prompt is not None:  # what came before, and the first step after it
        seen = F.pad(prompt[order.to(prompt.device)].to(device), (1, 0), value=net.start)
        draws = F.pad(uniform[:, :1], (seen.shape[1] - 1, 0)).to(device)
        todo = seen.shape[1] * (lengths > 0)
        first = opened.extend(None, draws, todo, temperature=temperature, top_k=top_k, forced=seen)
        chosen[order.to(device), 0], begun = first[:, -1], 1
    for start in range(begun, total, block):
        stop = min(start + block, total)
        frames = None if cond is None else cond[:, :, start // hop : -(-stop // hop)]
        todo = (lengths - start).clamp(0, stop - start)
        part = uniform[:, start:stop].to(device)
        chosen[order.to(device), start:stop] = opened.extend(frames, part, todo, temperature=temperature, top_k=top_k)
    return chosen


def block_steps(net: WaveNet, streams: int) -> int:
    """Steps, of whole frames, that streams are extended by at once."""
    hop = net.cfg.hop
    return max(1, BLOCK // (shape_of(net.cfg).multiply_adds * streams * hop)) * hop


@functools.cache
def _notice() -> None:
    logging.getLogger("vqaudio").warning("decoding with PyTorch, some twenty times slower: %s", why_missing())
