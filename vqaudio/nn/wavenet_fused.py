"""Fused forward and backward pass of all WaveNet layers over whole sequences, for training on a CPU.

Shapes: B batch, T steps, N frames (T = N * hop), L layers, R residual channels, S skip channels, k kernel size.

With autograd, a layer is a dozen operations that each read and write the whole batch, and more than half of the time is
spent on memory traffic. Here each sequence passes through all layers before the next one, so that much of it stays in
the caches; products are accumulated in place (`addmm`), without concatenation, padding or copies; the gate is one pass
over memory in each direction; and only the input and the gate input of each layer are saved. The gate output is
recomputed in the backward pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from vqaudio.kernels.gate import fits, gate_backward, gate_forward
from vqaudio.kernels.library import kernels
from vqaudio.nn.modes import is_traced


class StackWeights(NamedTuple):
    """Weights of all layers, in the compute type."""

    taps: Tensor  # (L, k, 2R, R), the last tap is that of the current step
    residual: Tensor  # (L - 1, R, R)
    residual_bias: Tensor  # (L - 1, R)
    skip: Tensor  # (L, S, R)
    skip_bias: Tensor  # (S,)


def run_stack(h: Tensor, frames: Tensor, weights: StackWeights, dilations: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """(B, T, R), gate biases (L, B, N, 2R) -> sum of the skip connections (B, T, S), inputs of all layers (L, B, T, R).

    T must be a multiple of N. The layer inputs are not differentiable.
    """
    return _Stack.apply(h, frames, *weights, dilations)  # pyright: ignore[reportReturnType]


class _Stack(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        h: Tensor,
        frames: Tensor,
        taps: Tensor,
        residual: Tensor,
        residual_bias: Tensor,
        skip: Tensor,
        skip_bias: Tensor,
        dilations: tuple[int, ...],
    ) -> tuple[Tensor, Tensor]:
        num_layers, (batch, steps, r) = len(dilations), h.shape
        inputs = h.new_empty(num_layers, batch, steps, r)
        gates = h.new_empty(num_layers, batch, steps, 2 * r)  # inputs of the gates
        skips = skip_bias.repeat(batch, steps, 1)  # (B, T, S)
        z = h.new_empty(steps, r)
        inputs[0] = h
        for b in range(batch):
            for layer, dilation in enumerate(dilations):
                x, y = inputs[layer, b], gates[layer, b]  # (T, R), (T, 2R)
                torch.mm(x, taps[layer, -1].T, out=y)
                for tap, back in _past_taps(taps.shape[1], dilation, steps):
                    y[back:].addmm_(x[:-back], taps[layer, tap].T)
                _gate(y, frames[layer, b], z)
                skips[b].addmm_(z, skip[layer].T)
                if layer < num_layers - 1:
                    following = torch.add(x, residual_bias[layer], out=inputs[layer + 1, b])
                    following.addmm_(z, residual[layer].T)
        ctx.save_for_backward(inputs, gates, taps, residual, skip)
        ctx.dilations, ctx.num_frames = dilations, frames.shape[2]
        ctx.mark_non_differentiable(inputs)
        ctx.set_materialize_grads(False)  # the layer inputs receive no gradient
        return skips, inputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        if gradients[0] is None:
            return (None,) * 8
        inputs, gates, taps, residual, skip = ctx.saved_tensors
        num_layers, batch, steps, r = inputs.shape
        dskips = gradients[0].contiguous()  # (B, T, S)
        exact = torch.promote_types(inputs.dtype, torch.float32)  # type of sums over the batch
        dtaps, dresidual, dskip = (torch.zeros_like(w, dtype=exact) for w in (taps, residual, skip))
        dresidual_bias = dresidual.new_zeros(num_layers - 1, r)
        dframes = dresidual.new_empty(num_layers, batch, ctx.num_frames, 2 * r)
        dinputs = torch.zeros_like(inputs[0])  # (B, T, R): gradient of the input of the current layer
        z, dz, dy = inputs.new_empty(steps, r), inputs.new_empty(steps, r), inputs.new_empty(steps, 2 * r)
        needs_weight_grad = any(ctx.needs_input_grad[2:])  # false if the weights are frozen
        for b in range(batch):
            dx = dinputs[b]
            for layer in reversed(range(num_layers)):
                x = inputs[layer, b]
                torch.mm(dskips[b], skip[layer], out=dz)
                if layer < num_layers - 1:
                    dz.addmm_(dx, residual[layer])
                dframes[layer, b] = _gate_backward(gates[layer, b], dz, ctx.num_frames, dy, z)
                if needs_weight_grad:
                    dskip[layer] += dskips[b].T @ z
                    dtaps[layer, -1] += dy.T @ x
                    if layer < num_layers - 1:
                        dresidual[layer] += dx.T @ z
                        dresidual_bias[layer] += dx.sum(0)
                dx.addmm_(dy, taps[layer, -1])
                for tap, back in _past_taps(taps.shape[1], ctx.dilations[layer], steps):
                    dx[:-back].addmm_(dy[back:], taps[layer, tap])
                    if needs_weight_grad:
                        dtaps[layer, tap] += dy[back:].T @ x[:-back]
        weights = (dtaps, dresidual, dresidual_bias, dskip, dskips.sum((0, 1)))
        return dinputs, *(d.to(inputs.dtype) for d in (dframes, *weights)), None


def _past_taps(num_taps: int, dilation: int, steps: int) -> Iterator[tuple[int, int]]:
    """(tap, offset into the past in steps) of all past taps whose offset is shorter than the sequence."""
    for tap in range(num_taps - 1):
        back = (num_taps - 1 - tap) * dilation
        if back < steps:
            yield tap, back


def _gate(y: Tensor, frames: Tensor, z: Tensor) -> None:
    """In place: y (T, 2R) += frames (N, 2R) broadcast; z (T, R) = tanh(first half of y) * sigmoid(second half)."""
    if not is_traced() and (compiled := kernels()) is not None and fits(y):
        return gate_forward(compiled, y, frames, z, torch.get_num_threads())
    y.view(len(frames), -1, y.shape[1]).add_(frames[:, None])
    filter_, gate_ = y.chunk(2, dim=1)
    torch.mul(torch.tanh(filter_), torch.sigmoid(gate_), out=z)


def _gate_backward(y: Tensor, dz: Tensor, num_frames: int, dy: Tensor, z: Tensor) -> Tensor:
    """y after `_gate`, gradient dz (T, R) -> gradient of the frames (N, 2R); fills dy (T, 2R) and z."""
    if not is_traced() and (compiled := kernels()) is not None and fits(y):
        return gate_backward(compiled, y, dz, num_frames, dy, z, torch.get_num_threads())
    filter_, gate_ = (half.contiguous() for half in y.chunk(2, dim=1))
    filter_, gate_ = torch.tanh(filter_), torch.sigmoid(gate_)
    torch.mul(filter_, gate_, out=z)
    dy[:, : dz.shape[1]] = dz * gate_ * (1 - filter_ * filter_)
    dy[:, dz.shape[1] :] = dz * z * (1 - gate_)
    return dy.view(num_frames, -1, dy.shape[1]).sum(1)
