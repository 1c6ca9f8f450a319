"""Generation with ring buffers, in PyTorch: a step costs one multiply-add per weight, independently of its position.

Letters: B streams, T steps, N frames, D code width, Q classes, L layers, P past taps per layer, R residual
channels.
"""

from __future__ import annotations

from typing import cast

import torch
from einops import rearrange
from torch import Tensor, nn

from vqaudio.nn.conv import CausalConv1d
from vqaudio.nn.wavenet import WaveNet
from vqaudio.sampling.config import SamplingConfig
from vqaudio.sampling.logits import draw


class RingBufferState:
    """B streams of one WaveNet in progress, on any device and in any floating-point type.

    All that depends on earlier steps alone, the past taps of all layers, is one batched product at the start
    of a step. sigmoid(s) = (1 + tanh(s / 2)) / 2 turns the gate into one tanh over both halves; the halving is
    folded into the weights.

    A step reads and writes tensors that stay at their addresses, and finds its ring entries by a step counter among
    them. The host holds no state that the device lacks, so that a step can be recorded once and replayed (graph.py).
    """

    @torch.inference_mode()
    def __init__(self, net: WaveNet, speaker: Tensor | None, streams: int, sampling: SamplingConfig):
        """speaker (B,) int64, or None for a net without; of `sampling`, how classes are drawn."""
        cfg, like = net.cfg, net.out.weight
        r = cfg.residual_channels
        half = torch.cat([torch.ones(r), torch.full((r,), 0.5)]).to(like)  # of the sigmoid's argument
        convs = cast(list[CausalConv1d], list(net.dilated))
        taps = torch.stack([conv.weight for conv in convs]) * half[:, None, None]  # (L, 2R, R, kernel)
        self.net, self.speaker, self.half, self.sampling = net, speaker, half, sampling
        self.past_weight = rearrange(taps[..., :-1], "l g r p -> l (p r) g").contiguous()
        self.now_weight = [w.T.contiguous() for w in taps[..., -1]]  # L x (R, 2R)
        self.layer_bias = rearrange(torch.stack([conv.bias for conv in convs]), "l g -> l 1 g")
        linears = cast(list[nn.Linear], list(net.residual))
        # z = (1 + tanh(gate)) tanh(filter) is twice the gate's value: halved in what reads it
        self.residual_weight = [linear.weight.T.contiguous() / 2 for linear in linears]
        self.residual_bias = [linear.bias for linear in linears]
        self.skip_weight = net.skip.weight.T.contiguous() / 2
        lengths = [d * (cfg.kernel_size - 1) for d in cfg.dilations]
        self.lengths = torch.tensor(lengths, device=like.device)
        self.layers = torch.arange(cfg.layers, device=like.device)
        # the oldest tap first, as in the kernels: slot of tap p at time t is (t + p * d) mod length
        self.offsets = torch.tensor(
            [[p * d for p in range(cfg.kernel_size - 1)] for d in cfg.dilations], device=like.device
        )
        # the state: everything that a step changes
        self.position = 0  # steps so far
        self.time = torch.zeros((), dtype=torch.long, device=like.device)  # the same, on the device
        self.previous = torch.full((streams,), net.start, device=like.device)
        self.bias = like.new_zeros(cfg.layers, streams if net.project is not None else 1, 2 * r)  # of the frame
        self.ring = like.new_zeros(cfg.layers, max(lengths), streams, r)
        self.inputs = like.new_zeros(cfg.layers, streams, r)
        self.input_of = list(self.inputs)
        self.gated = like.new_zeros(streams, cfg.layers * r)
        self.gated_of = list(self.gated.split(r, dim=1))  # L x (B, R)

    @torch.inference_mode()
    def extend(
        self,
        cond: Tensor | None,
        uniforms: Tensor,
        lengths: Tensor,
        *,
        teacher_forced: Tensor | None = None,
    ) -> Tensor:
        """cond (B, D, N), uniforms (B, T), lengths (B,) -> classes (B, T) int64; as `StreamState.extend`."""
        hop = self.net.cfg.hop
        if cond is not None and self.position % hop:
            raise ValueError(f"step {self.position} is not the first of a frame of {hop}")
        steps = uniforms.shape[1]
        chosen = torch.zeros(uniforms.shape, dtype=torch.long, device=uniforms.device)
        for t in range(steps):
            if self.position == 0 or (self.net.condition is not None and self.position % hop == 0):
                self.begin_frame(None if cond is None else cond[:, :, t // hop : t // hop + 1])
            if teacher_forced is not None:
                self.previous.copy_(teacher_forced[:, t])
            self.advance(uniforms[:, t])
            self.position += 1
            chosen[:, t] = self.previous
        return chosen * (torch.arange(steps) < lengths[:, None]).to(chosen)

    def begin_frame(self, cond: Tensor | None) -> None:
        """cond (B, D, 1), or None for a net without: computes what frame and speaker add to each layer's gates."""
        added = self.net.conditioning(cond, self.speaker)  # (B, 1, L, 2R) | None
        bias = self.layer_bias if added is None else self.layer_bias + rearrange(added, "b 1 l g -> l b g")
        torch.mul(bias, self.half, out=self.bias)

    def advance(self, uniform: Tensor) -> None:
        """uniform (B,): takes one step of all streams, whose classes replace those of the `previous` step."""
        self.previous.copy_(draw(self.step(self.previous), uniform, self.sampling))

    def step(self, previous: Tensor) -> Tensor:
        """The classes of the previous step, (B,) int64 (`net.start` at first) -> logits (B, Q)."""
        net, r, last = self.net, self.net.cfg.residual_channels, self.net.cfg.layers - 1
        slots = (self.time + self.offsets) % self.lengths[:, None]  # (L, P)
        past = rearrange(self.ring[self.layers[:, None], slots], "l p b r -> l b (p r)")
        pre = torch.baddbmm(self.bias, past, self.past_weight)  # (L, B, 2R)
        torch.index_select(net.embed.weight, 0, previous, out=self.input_of[0])
        for layer, (h, z) in enumerate(zip(self.input_of, self.gated_of, strict=True)):
            t = torch.tanh(torch.addmm(pre[layer], h, self.now_weight[layer]))
            filter_ = t[:, :r]
            torch.addcmul(filter_, filter_, t[:, r:], out=z)
            if layer < last:
                h = h + self.residual_bias[layer]
                torch.addmm(h, z, self.residual_weight[layer], out=self.input_of[layer + 1])
        self.ring[self.layers, self.time % self.lengths] = self.inputs
        self.time += 1
        skip = torch.relu(torch.addmm(net.skip.bias, self.gated, self.skip_weight))
        return net.out(torch.relu(net.head(skip)))
