"""Generation with ring buffers, in PyTorch: each step costs one multiply-add per weight, whatever was before.

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
from vqaudio.sampling.logits import draw


class RingStreams:
    """B streams of one WaveNet in progress, on any device and in any floating-point type.

    All that depends on earlier steps alone, the past taps of all layers, is one batched product at the start
    of a step. sigmoid(s) = (1 + tanh(s / 2)) / 2 makes the gate one tanh over both halves: the halving is
    folded into the weights.

    A step reads and writes tensors that stay where they are, and finds its place by a step counter among them: the
    host knows nothing that the device does not, so that a step can also be recorded once and replayed (graph.py).
    """

    @torch.inference_mode()
    def __init__(self, net: WaveNet, speaker: Tensor | None, streams: int):
        """speaker (B,), or None for a net without."""
        cfg, like = net.cfg, net.out.weight
        r = cfg.residual_channels
        half = torch.cat([torch.ones(r), torch.full((r,), 0.5)]).to(like)  # of the sigmoid's argument
        convs = cast(list[CausalConv1d], list(net.dilated))
        taps = torch.stack([conv.weight for conv in convs]) * half[:, None, None]  # (L, 2R, R, kernel)
        self.net, self.speaker, self.half = net, speaker, half
        self.past_weight = rearrange(taps[..., :-1], "l g r p -> l (p r) g").contiguous()
        self.now_weight = [w.T.contiguous() for w in taps[..., -1]]  # L x (R, 2R)
        self.layer_bias = rearrange(torch.stack([conv.bias for conv in convs]), "l g -> l 1 g")
        linears = cast(list[nn.Linear], list(net.residual))
        # z = (1 + tanh(switch)) tanh(signal) is twice the gate's value: halved in what reads it
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
        # the state: all that a step changes
        self.position = 0  # steps so far
        self.time = torch.zeros((), dtype=torch.long, device=like.device)  # the same, where the steps are taken
        self.before = torch.full((streams,), net.start, device=like.device)
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
        temperature: float,
        top_k: int | None,
        forced: Tensor | None = None,
    ) -> Tensor:
        """cond (B, D, N), uniforms (B, T), lengths (B,) -> classes (B, T); as `Streams.extend`."""
        hop = self.net.cfg.hop
        if cond is not None and self.position % hop:
            raise ValueError(f"step {self.position} is not the first of a frame of {hop}")
        steps = uniforms.shape[1]
        chosen = torch.zeros(uniforms.shape, dtype=torch.long, device=uniforms.device)
        for t in range(steps):
            if self.position == 0 or (self.net.condition is not None and self.position % hop == 0):
                self.begin_frame(None if cond is None else cond[:, :, t // hop : t // hop + 1])
            if forced is not None:
                self.before.copy_(forced[:, t])
            self.advance(uniforms[:, t], temperature, top_k)
            self.position += 1
            chosen[:, t] = self.before
        return chosen * (torch.arange(steps) < lengths[:, None]).to(chosen)

    def begin_frame(self, cond: Tensor | None) -> None:
        """cond (B, D, 1), or None for a net without: what the frame and the speaker add to each layer's gates."""
        added = self.net.conditioning(cond, self.speaker)  # (B, 1, L, 2R) | None
        bias = self.layer_bias if added is None else self.layer_bias + rearrange(added, "b 1 l g -> l b g")
        torch.mul(bias, self.half, out=self.bias)

    def advance(self, uniform: Tensor, temperature: float, top_k: int | None) -> None:
        """uniform (B,): takes one step of all streams, which becomes the step `before`."""
        self.before.copy_(draw(self.step(self.before), uniform, temperature, top_k))

    def step(self, before: Tensor) -> Tensor:
        """The classes of the step before, (B,) int64 (`net.start` at first) -> logits (B, Q)."""
        net, r, last = self.net, self.net.cfg.residual_channels, self.net.cfg.layers - 1
        slots = (self.time + self.offsets) % self.lengths[:, None]  # (L, P)
        past = rearrange(self.ring[self.layers[:, None], slots], "l p b r -> l b (p r)")
        pre = torch.baddbmm(self.bias, past, self.past_weight)  # (L, B, 2R)
        torch.index_select(net.embed.weight, 0, before, out=self.input_of[0])
        for layer, (h, z) in enumerate(zip(self.input_of, self.gated_of, strict=True)):
            t = torch.tanh(torch.addmm(pre[layer], h, self.now_weight[layer]))
            signal = t[:, :r]
            torch.addcmul(signal, signal, t[:, r:], out=z)
            if layer < last:
                h = h + self.residual_bias[layer]
                torch.addmm(h, z, self.residual_weight[layer], out=self.input_of[layer + 1])
        self.ring[self.layers, self.time % self.lengths] = self.inputs
        self.time += 1
        skip = torch.relu(torch.addmm(net.skip.bias, self.gated, self.skip_weight))
        return net.out(torch.relu(net.head(skip)))
