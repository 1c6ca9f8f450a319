"""Generation by the compiled kernels, on a CPU: the weights of a net in the form that they expect.

Letters: B streams, L layers.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from vqaudio.kernels.library import Kernels
from vqaudio.kernels.wavenet import CompiledState, WaveNetShape
from vqaudio.nn.conv import CausalConv1d
from vqaudio.nn.wavenet import WaveNet, WaveNetConfig
from vqaudio.sampling.config import SamplingConfig


def open_compiled(
    kernels: Kernels, net: WaveNet, speaker: Tensor | None, streams: int, sampling: SamplingConfig
) -> CompiledState:
    """A float32 net on the CPU, speaker (B,) int64 or None -> B streams at their beginning; the net is not kept."""
    return CompiledState(
        kernels,
        shape_of(net.cfg),
        weights_of(net),
        speaker,
        streams=streams,
        precision=sampling.precision,
        threads=torch.get_num_threads() if sampling.threads is None else sampling.threads,
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
    )


def shape_of(cfg: WaveNetConfig) -> WaveNetShape:
    """The sizes that the kernels need."""
    return WaveNetShape(
        classes=cfg.num_classes,
        kernel_size=cfg.kernel_size,
        residual=cfg.residual_channels,
        skip=cfg.skip_channels,
        hop=cfg.hop,
        condition=cfg.cond_dim,
        speakers=cfg.num_speakers,
        hidden=cfg.cond_hidden_channels,
        dilations=cfg.dilations,
    )


def why_unsupported(cfg: WaveNetConfig) -> str | None:
    """Why the kernels cannot compute a WaveNet, as a clause for messages; None if they can."""
    try:
        shape_of(cfg)
    except ValueError as error:
        return str(error)
    return None


def weights_of(net: WaveNet) -> dict[str, Tensor]:
    """The weights under the kernels' names, with the layers stacked."""
    convs = cast(list[CausalConv1d], list(net.dilated))
    residual = cast(list[nn.Linear], list(net.residual))
    r = net.cfg.residual_channels
    weights = {
        "embed": net.embed.weight,
        "dilated_weight": torch.stack([conv.weight for conv in convs]),
        "dilated_bias": torch.stack([conv.bias for conv in convs]),
        "residual_weight": torch.stack([linear.weight for linear in residual]) if residual else torch.zeros(0, r, r),
        "residual_bias": torch.stack([linear.bias for linear in residual]) if residual else torch.zeros(0, r),
    }
    linears = {"skip": net.skip, "head": net.head, "out": net.out, "condition": net.condition, "project": net.project}
    for name, linear in linears.items():
        if linear is not None:
            weights |= {f"{name}_weight": linear.weight, f"{name}_bias": linear.bias}
    if net.speaker is not None:
        weights["speaker"] = net.speaker.weight
    return weights
