"""Sampling of code maps from a PixelCNN: a reference loop, and an equivalent one with caching.

Shapes: B maps, H rows, W columns, K codes, C channels, D width of the conditioning vector.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vqaudio.images.pixelcnn import PixelCNN
from vqaudio.sampling.config import SamplingConfig
from vqaudio.sampling.logits import Generators, draw, uniforms
from vqaudio.sampling.reference import count_streams
from vqaudio.torch_defaults import with_own_defaults


@with_own_defaults
@torch.inference_mode()
def generate_map(
    net: PixelCNN,
    height: int,
    width: int,
    cond: Tensor | None = None,
    label: Tensor | None = None,
    *,
    sampling: SamplingConfig = SamplingConfig(),
    generator: Generators | None = None,
    count: int = 1,
) -> Tensor:
    """cond (B, D), label (B,) -> codes (B, H, W) int64; `count` is B if both are None.

    Reference implementation: H * W passes of the network over the whole map. `generator`: one for all maps or one for
    each (None: one for all, seeded with `sampling.seed`). The network runs in PyTorch: `sampling.threads` does not
    apply. Raises ValueError for a map without positions, and for a precision other than float32.
    """
    uniform = _uniforms(net, height, width, count_streams(cond, label, count), sampling, generator)
    count = len(uniform)
    x = torch.zeros(count, height, width, dtype=torch.long, device=uniform.device)
    for place in range(height * width):
        row, column = divmod(place, width)
        logits = net(x, cond, label)[:, :, row, column]
        x[:, row, column] = draw(logits, uniform[:, place], sampling)
    return x


@with_own_defaults
@torch.inference_mode()
def generate_map_cached(
    net: PixelCNN,
    height: int,
    width: int,
    cond: Tensor | None = None,
    label: Tensor | None = None,
    *,
    sampling: SamplingConfig = SamplingConfig(),
    generator: Generators | None = None,
    count: int = 1,
) -> Tensor:
    """As `generate_map`: the same codes from the same random numbers, with cached features.

    The vertical stack runs once per row. For the horizontal stack, each position needs the `half_width` features to its
    left in every layer. Different rounding can change a code only if a random number is very close to a boundary.
    """
    uniform = _uniforms(net, height, width, count_streams(cond, label, count), sampling, generator)
    count = len(uniform)
    layers, conditions, half_width = net.gated_layers, net.conditions(cond, label, count), net.cfg.half_width
    columns = net.column_embeddings(width)
    nothing = columns.new_zeros(count, net.cfg.channels, 1, width)
    above = [nothing.expand(-1, -1, half_width, -1)] * len(layers)  # previous rows, (B, C, half_width, W)
    x = torch.zeros(count, height, width, dtype=torch.long, device=uniform.device)
    for row in range(height):
        v = net.embedded(x[:, row - 1 : row]) if row else nothing
        linked = []  # per layer, for the whole row: (B, 2C, 1, W)
        for i, layer in enumerate(layers):
            seen = torch.cat([above[i], v], 2)
            above[i] = seen[:, :, 1:]
            v, link = layer.vertical(seen, conditions[i][0])
            linked.append(link)
        left = [nothing[..., :1].expand(-1, -1, -1, half_width)] * len(layers)  # (B, C, 1, half_width)
        for column in range(width):
            h = net.embedded(x[:, row : row + 1, column - 1 : column]) if column else nothing[..., :1]
            h = h + columns[..., column : column + 1]
            skips = []
            for i, layer in enumerate(layers):
                seen = torch.cat([left[i], h], 3)
                left[i] = seen[..., 1:]
                h, skip = layer.horizontal(seen, linked[i][..., column : column + 1], conditions[i][1])
                skips.append(skip)
            logits = net.head(torch.cat(skips, 1))[:, :, 0, 0]
            x[:, row, column] = draw(logits, uniform[:, row * width + column], sampling)
    return x


def _uniforms(
    net: PixelCNN, height: int, width: int, count: int, sampling: SamplingConfig, generator: Generators | None
) -> Tensor:
    """Checks the arguments of both loops -> random numbers (B, H * W) on the net's device."""
    if height < 1 or width < 1:
        raise ValueError(f"a map must have at least one row and column, got {height} x {width}")
    if sampling.precision != "float32":
        raise ValueError(f"precision {sampling.precision} is for speech on a CPU; a prior over images takes float32")
    generator = torch.Generator().manual_seed(sampling.seed) if generator is None else generator
    return uniforms(count, height * width, generator).to(net.embed.weight.device)
