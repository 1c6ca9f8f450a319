"""Sampling of code maps from a PixelCNN: a reference loop, and an equivalent one with caching.

Shapes: B maps, H rows, W columns, K codes, C channels, D width of the conditioning vector.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vqaudio.images.pixelcnn import PixelCNN
from vqaudio.sampling.logits import Generators, check_controls, draw, uniforms
from vqaudio.sampling.reference import count_streams


@torch.inference_mode()
def generate_map(
    net: PixelCNN,
    height: int,
    width: int,
    cond: Tensor | None = None,
    label: Tensor | None = None,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    generator: Generators = None,
    count: int = 1,
) -> Tensor:
    """cond (B, D), label (B,) -> codes (B, H, W) int64; `count` is B if both are None.

    Reference implementation: H * W passes of the network over the whole map.
    """
    _check_size(height, width)
    check_controls(height * width, temperature, top_k)
    count = count_streams(cond, label, count)
    uniform = uniforms(count, height * width, generator).to(net.embed.weight.device)
    x = torch.zeros(count, height, width, dtype=torch.long, device=uniform.device)
    for place in range(height * width):
        row, column = divmod(place, width)
        logits = net(x, cond, label)[:, :, row, column]
        x[:, row, column] = draw(logits, uniform[:, place], temperature, top_k)
    return x


@torch.inference_mode()
def generate_map_cached(
    net: PixelCNN,
    height: int,
    width: int,
    cond: Tensor | None = None,
    label: Tensor | None = None,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    generator: Generators = None,
    count: int = 1,
) -> Tensor:
    """As `generate_map`: the same codes from the same random numbers, with cached features.

    The vertical stack runs once per row. For the horizontal stack, each position needs the `half_width` features to its
    left in every layer. Different rounding can change a code only if a random number is very close to a boundary.
    """
    _check_size(height, width)
    check_controls(height * width, temperature, top_k)
    count = count_streams(cond, label, count)
    uniform = uniforms(count, height * width, generator).to(net.embed.weight.device)
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
            x[:, row, column] = draw(logits, uniform[:, row * width + column], temperature, top_k)
    return x


def _check_size(height: int, width: int) -> None:
    if height < 1 or width < 1:
        raise ValueError(f"a map must have at least one row and column, got {height} x {width}")
