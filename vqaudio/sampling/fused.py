"""Generation on a GPU by one launch for many steps, in Triton: a program per stream.

Tested on a CPU: Triton's interpreter gives the classes of the other backends, and the kernel compiles for GPUs of
compute capability 9.0 (H100, H200). It has not run on a GPU yet, and its speed is not known.

Letters: B streams, T steps, N frames, D code width, L layers, R residual channels.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from einops import rearrange
from torch import Tensor, nn

from vqaudio.nn.conv import CausalConv1d
from vqaudio.nn.wavenet import WaveNet
from vqaudio.sampling.config import SamplingConfig

CHUNK = 32  # columns of a weight matrix that are multiplied at once
WARPS = 4


def check_triton(device: torch.device) -> None:
    """Raises ModuleNotFoundError without Triton, and ValueError if it cannot run kernels on this device."""
    try:
        from triton.runtime import JITFunction

        from vqaudio.kernels.wavenet_triton import wavenet_steps
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("the fused kernel for GPUs needs Triton, which PyTorch brings on Linux") from error
    if device.type != "cuda" and isinstance(wavenet_steps, JITFunction):
        raise ValueError(f"the fused kernel runs on a GPU, and this model is on {device}; use another backend")


class FusedState:
    """B streams of one WaveNet in progress: the weights as the kernel expects them, and the state of each stream."""

    @torch.inference_mode()
    def __init__(self, net: WaveNet, speaker: Tensor | None, streams: int, sampling: SamplingConfig):
        """speaker (B,) int64, or None for a net without. With precision bf16 the weights are rounded to bfloat16.

        Raises ValueError for precision int8 and for a net that is not on a GPU, ModuleNotFoundError without Triton.
        """
        check_triton(net.out.weight.device)
        if sampling.precision == "int8":
            raise ValueError("the fused kernel for GPUs computes in float32 or bf16, got precision int8")
        cfg, like = net.cfg, net.out.weight
        self.net, self.speaker, self.sampling, self.position = net, speaker, sampling, 0
        self.acc = torch.promote_types(like.dtype, torch.float32)
        stored = torch.bfloat16 if sampling.precision == "bf16" else like.dtype
        convs, paths = cast(list[CausalConv1d], list(net.dilated)), cast(list[nn.Linear], list(net.residual))
        taps = torch.stack([conv.weight for conv in convs])  # (L, 2R, R, kernel)
        none = like.new_zeros(1)  # a single layer has no residual connection
        self.weights = [
            weight.to(stored).contiguous()
            for weight in (
                net.embed.weight,
                rearrange(taps, "l (half g) r k -> l k half g r", half=2),
                torch.stack([path.weight for path in paths]) if paths else none,
                torch.stack([path.bias for path in paths]) if paths else none,
                net.skip.weight, net.skip.bias, net.head.weight, net.head.bias, net.out.weight, net.out.bias,
            )
        ]  # fmt: skip
        self.layer_bias = rearrange([conv.bias for conv in convs], "l g -> 1 1 l g")
        self.dilations = torch.tensor(cfg.dilations, dtype=torch.int32, device=like.device)
        self.longest = max(cfg.dilations) * (cfg.kernel_size - 1)
        size = cfg.layers * cfg.residual_channels + 2 * cfg.skip_channels + cfg.residual_channels + cfg.num_classes
        kept = {"dtype": self.acc, "device": like.device}
        self.ring = torch.zeros(streams, cfg.layers, self.longest, cfg.residual_channels, **kept)
        self.scratch = torch.zeros(streams, size, **kept)
        self.previous = torch.full((streams,), net.start, device=like.device)

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
        from triton import language as tl
        from triton import next_power_of_2

        from vqaudio.kernels.wavenet_triton import wavenet_steps

        kernel: Any = wavenet_steps  # not the Python function that it was
        cfg, sampling = self.net.cfg, self.sampling
        if cond is not None and self.position % cfg.hop:
            raise ValueError(f"step {self.position} is not the first of a frame of {cfg.hop}")
        streams, steps = uniforms.shape
        device = self.previous.device
        chosen = torch.zeros(streams, steps, dtype=torch.long, device=device)
        if not chosen.numel():
            return chosen
        added = self.net.conditioning(cond, self.speaker)  # (B, N or 1, L, 2R) | None
        bias = (self.layer_bias if added is None else self.layer_bias + added).to(self.acc).contiguous()
        embed, taps, residual, residual_bias, *rest = self.weights
        with torch.cuda.device(device) if device.type == "cuda" else torch.device(device):
            kernel[(streams,)](
                embed, taps, bias, residual, residual_bias, *rest,
                self.dilations, self.ring, self.scratch, self.previous,
                self.previous if teacher_forced is None else teacher_forced.to(device).contiguous(),
                uniforms.to(device).contiguous(), chosen, lengths.to(device),
                self.position, steps, bias.shape[1], cfg.hop,
                bias.stride(0) if bias.shape[0] > 1 else 0, bias.stride(1),
                sampling.temperature, sampling.top_k or 0, sampling.top_p or 1.0,
                Q=cfg.num_classes, L=cfg.layers, P=cfg.kernel_size - 1, R=cfg.residual_channels, S=cfg.skip_channels,
                LONGEST=self.longest,
                CLASSES=next_power_of_2(cfg.num_classes), CHANNELS=next_power_of_2(cfg.residual_channels),
                SKIPS=next_power_of_2(cfg.skip_channels), CHUNK=CHUNK,
                FORCED=teacher_forced is not None, GREEDY=sampling.greedy,
                TOP_K=sampling.top_k is not None and sampling.top_k < cfg.num_classes,
                TOP_P=sampling.top_p is not None and sampling.top_p < 1,
                ACC=tl.float64 if self.acc == torch.float64 else tl.float32, num_warps=WARPS,
            )  # fmt: skip
        self.position += steps
        return chosen
