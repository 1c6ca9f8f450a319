"""All layers of a WaveNet over whole sequences: one function whose gradient is written out, for training on a CPU.

Letters: B batch, T steps, N frames (T = N * hop), L layers, R residual channels, S skip channels, k taps.

Left to autograd, a layer is a dozen operations, each of which reads and writes the whole batch: more than half of a
step goes into moving memory. Here one sequence goes through all layers before the next, so that much of it stays in
the caches; products are added where their sums belong (`addmm`), so nothing is concatenated, padded or copied; the
gate is one pass over memory in each direction; and all that is remembered of a layer is what goes into it and into
its gate. What the gate gives is computed again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from vqaudio.kernels.gate import fits, gate_backward, gate_forward
from vqaudio.kernels.library import kernels


class StackWeights(NamedTuple):
    """Of all layers, in the type that is computed in."""

    taps: Tensor  # (L, k, 2R, R), the last tap that of the present step
    residual: Tensor  # (L - 1, R, R)
    residual_bias: Tensor  # (L - 1, R)
    skip: Tensor  # (L, S, R)
    skip_bias: Tensor  # (S,)


def run_stack(h: Tensor, frames: Tensor, weights: StackWeights, dilations: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """(B, T, R), what is added to each layer's gates (L, B, N, 2R) -> sum of the skip paths (B, T, S), (L, B, T, R).

    T must be a multiple of N. The last are the inputs of all layers, through which no gradient goes.
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
        gates = h.new_empty(num_layers, batch, steps, 2 * r)  # what goes into the gates
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
        ctx.set_materialize_grads(False)  # none comes for them
        return skips, inputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        if gradients[0] is None:
            return (None,) * 8
        inputs, gates, taps, residual, skip = ctx.saved_tensors
        num_layers, batch, steps, r = inputs.shape
        dskips = gradients[0].contiguous()  # (B, T, S)
        exact = torch.promote_types(inputs.dtype, torch.float32)  # sums over the batch
        dtaps, dresidual, dskip = (torch.zeros_like(w, dtype=exact) for w in (taps, residual, skip))
        dresidual_bias = dresidual.new_zeros(num_layers - 1, r)
        dframes = dresidual.new_empty(num_layers, batch, ctx.num_frames, 2 * r)
        dinputs = torch.zeros_like(inputs[0])  # (B, T, R): of the layer that it has come to
        z, dz, dy = inputs.new_empty(steps, r), inputs.new_empty(steps, r), inputs.new_empty(steps, 2 * r)
        learning = any(ctx.needs_input_grad[2:])  # not where the weights are held
        for b in range(batch):
            dx = dinputs[b]
            for layer in reversed(range(num_layers)):
                x = inputs[layer, b]
                torch.mm(dskips[b], skip[layer], out=dz)
                if layer < num_layers - 1:
                    dz.addmm_(dx, residual[layer])
                dframes[layer, b] = _gate_backward(gates[layer, b], dz, ctx.num_frames, dy, z)
                if learning:
                    dskip[layer] += dskips[b].T @ z
                    dtaps[layer, -1] += dy.T @ x
                    if layer < num_layers - 1:
                        dresidual[layer] += dx.T @ z
                        dresidual_bias[layer] += dx.sum(0)
                dx.addmm_(dy, taps[layer, -1])
                for tap, back in _past_taps(taps.shape[1], ctx.dilations[layer], steps):
                    dx[:-back].addmm_(dy[back:], taps[layer, tap])
                    if learning:
                        dtaps[layer, tap] += dy[back:].T @ x[:-back]
        weights = (dtaps, dresidual, dresidual_bias, dskip, dskips.sum((0, 1)))
        return dinputs, *(d.to(inputs.dtype) for d in (dframes, *weights)), None


def _past_taps(num_taps: int, dilation: int, steps: int) -> Iterator[tuple[int, int]]:
    """(tap, how many steps it looks back) of those that reach into the sequence."""
    for tap in range(num_taps - 1):
        back = (num_taps - 1 - tap) * dilation
        if back < steps:
            yield tap, back


def _gate(y: Tensor, frames: Tensor, z: Tensor) -> None:
    """Adds to each row of y (T, 2R) that of its frame (N, 2R); z (T, R) = tanh(first half) * sigmoid(second half)."""
    if (compiled := kernels()) is not None and fits(y):
        return gate_forward(compiled, y, frames, z, torch.get_num_threads())
    y.view(len(frames), -1, y.shape[1]).add_(frames[:, None])
    signal, switch = y.chunk(2, dim=1)
    torch.mul(torch.tanh(signal), torch.sigmoid(switch), out=z)


def _gate_backward(y: Tensor, dz: Tensor, num_frames: int, dy: Tensor, z: Tensor) -> Tensor:
    """y as `_gate` left it, gradient dz (T, R) -> the gradient of the frames (N, 2R); fills dy (T, 2R) and z."""
    if (compiled := kernels()) is not None and fits(y):
        return gate_backward(compiled, y, dz, num_frames, dy, z, torch.get_num_threads())
    signal, switch = (half.contiguous() for half in y.chunk(2, dim=1))
    signal, switch = torch.tanh(signal), torch.sigmoid(switch)
    torch.mul(signal, switch, out=z)
    dy[:, : dz.shape[1]] = dz * switch * (1 - signal * signal)
    dy[:, dz.shape[1] :] = dz * z * (1 - switch)
    return dy.view(num_frames, -1, dy.shape[1]).sum(1)
