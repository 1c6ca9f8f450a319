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
from vqaudio.sampling.draw import draw


class RingStreams:
    """B streams of one WaveNet in progress, on any device and in any floating-point type.

    All that depends on earlier steps alone, the past taps of all layers, is one batched product at the start
    of a step. sigmoid(s) = (1 + tanh(s / 2)) / 2 makes the gate one tanh over both halves: the halving is
    folded into the weights.
    """

    @torch.inference_mode()
    def __init__(self, net: WaveNet, speaker: Tensor | None, streams: int):
        """speaker (B,), or None for a net without."""
        cfg, like = net.cfg, net.out.weight
        r = cfg.residual
        half = torch.cat([torch.ones(r), torch.full((r,), 0.5)]).to(like)  # of the sigmoid's argument
        convs = cast(list[CausalConv1d], list(net.dilated))
        taps = torch.stack([conv.weight for conv in convs]) * half[:, None, None]  # (L, 2R, R, kernel)
        self.net, self.hop, self.time = net, cfg.hop, 0
        self.past_weight = rearrange(taps[..., :-1], "l g r p -> l (p r) g").contiguous()
        self.now_weight = [w.T.contiguous() for w in taps[..., -1]]  # L x (R, 2R)
        bias = torch.stack([conv.bias for conv in convs])  # (L, 2R)
        self.cond: Tensor | None = None  # (B, D, N): of the frames from the present extension on
        self.speaker, self.first_frame = speaker, 0
        self.half = half
        self.layer_bias = rearrange(bias, "l g -> l 1 g")
        self.bias = self.layer_bias  # (L, B or 1, 2R): of the present frame, from the first step on
        linears = cast(list[nn.Linear], list(net.residual))
        # z = (1 + tanh(switch)) tanh(signal) is twice the gate's value: halved in what reads it
        self.residual_weight = [linear.weight.T.contiguous() / 2 for linear in linears]
        self.residual_bias = [linear.bias for linear in linears]
        self.skip_weight = net.skip.weight.T.contiguous() / 2
        lengths = torch.tensor([d * (cfg.kernel_size - 1) for d in cfg.dilations], device=like.device)
        self.lengths, self.layers = lengths, torch.arange(cfg.layers, device=like.device)
        # the oldest tap first, as in the kernels: slot of tap p at time t is (t + p * d) mod length
        self.offsets = torch.tensor(
            [[p * d for p in range(cfg.kernel_size - 1)] for d in cfg.dilations], device=like.device
        )
        self.ring = like.new_zeros(cfg.layers, int(lengths.max()), streams, r)
        self.inputs = like.new_zeros(cfg.layers, streams, r)
        self.gated = like.new_zeros(streams, cfg.layers * r)
        self.before = torch.full((streams,), net.start, device=like.device)

    @torch.inference_mode()
    def extend(
        self, cond: Tensor | None, uniforms: Tensor, lengths: Tensor, *, temperature: float, top_k: int | None
    ) -> Tensor:
        """cond (B, D, N), uniforms (B, T), lengths (B,) -> classes (B, T); as `Streams.extend`."""
        if cond is not None and self.time % self.hop:
            raise ValueError(f"step {self.time} is not the first of a frame of {self.hop}")
        self.cond, self.first_frame = cond, self.time // self.hop
        steps = uniforms.shape[1]
        chosen = torch.zeros(uniforms.shape, dtype=torch.long, device=uniforms.device)
        for t in range(steps):
            self.before = draw(self.step(self.before), uniforms[:, t], temperature, top_k)
            chosen[:, t] = self.before
        return chosen * (torch.arange(steps) < lengths[:, None]).to(chosen)

    def step(self, before: Tensor) -> Tensor:
        """The classes of the step before, (B,) int64 (`net.start` at first) -> logits (B, Q)."""
        net, r = self.net, self.net.cfg.residual
        slots = (self.time + self.offsets) % self.lengths[:, None]  # (L, P)
        past = rearrange(self.ring[self.layers[:, None], slots], "l p b r -> l b (p r)")
        if self.time == 0 or (self.cond is not None and self.time % self.hop == 0):
            self.bias = self._frame_bias(self.time // self.hop - self.first_frame)
        pre = torch.baddbmm(self.bias, past, self.past_weight)  # (L, B, 2R)
        h = net.embed(before)  # (B, R)
        for layer in range(net.cfg.layers):
            self.inputs[layer] = h
            t = torch.tanh(torch.addmm(pre[layer], h, self.now_weight[layer]))
            signal = t[:, :r]
            z = torch.addcmul(signal, signal, t[:, r:])
            self.gated[:, layer * r : (layer + 1) * r] = z
            if layer < net.cfg.layers - 1:
                h = torch.addmm(h + self.residual_bias[layer], z, self.residual_weight[layer])
        self.ring[self.layers, self.time % self.lengths] = self.inputs
        self.time += 1
        skip = torch.relu(torch.addmm(net.skip.bias, self.gated, self.skip_weight))
        return net.out(torch.relu(net.head(skip)))

    def _frame_bias(self, frame: int) -> Tensor:
        """(L, B or 1, 2R): what a frame of `cond` and the speaker add to each layer's gates."""
        cond = None if self.cond is None else self.cond[:, :, frame : frame + 1]
        added = self.net.conditioning(cond, self.speaker)  # (B, 1, L, 2R) | None
        bias = self.layer_bias if added is None else self.layer_bias + rearrange(added, "b 1 l g -> l b g")
        return bias * self.half
