"""Sampling of code maps from a PixelCNN: a reference loop, and an equivalent one with caching.

Shapes: B maps, H rows, W columns, K codes, C channels, D width of the conditioning vector, E channels of the
conditioning map.
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
    cond_map: Tensor | None = None,
    *,
    sampling: SamplingConfig = SamplingConfig(),
    generator: Generators | None = None,
    count: int = 1,
) -> Tensor:
    """cond (B, D), label (B,), cond_map (B, E, H, W) -> codes (B, H, W) int64; `count` is B without any.

    Reference implementation: H * W passes of the network over the whole map. `generator`: one for all maps or one for
    each (None: one for all, seeded with `sampling.seed`). The network runs in PyTorch: `sampling.threads` does not
    apply. Raises ValueError for a map without positions, and for a precision other than float32.
    """
    uniform = _uniforms(net, height, width, _count(cond, label, cond_map, count), sampling, generator)
    count = len(uniform)
    x = torch.zeros(count, height, width, dtype=torch.long, device=uniform.device)
    for place in range(height * width):
        row, column = divmod(place, width)
        logits = net(x, cond, label, cond_map)[:, :, row, column]
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
    cond_map: Tensor | None = None,
    *,
    sampling: SamplingConfig = SamplingConfig(),
    generator: Generators | None = None,
    count: int = 1,
) -> Tensor:
    """As `generate_map`: the same codes from the same random numbers, with cached features.

    The vertical stack runs once per row. For the horizontal stack, each position needs the `half_width` features to its
    left in every layer. Different rounding can change a code only if a random number is very close to a boundary.
    """
    uniform = _uniforms(net, height, width, _count(cond, label, cond_map, count), sampling, generator)
    count = len(uniform)
    layers, half_width = net.gated_layers, net.cfg.half_width
    biases = net.conditions(cond, label, count, cond_map)
    conditions = [tuple(b.expand(-1, -1, height, width) for b in both) for both in biases]
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
            v, link = layer.vertical(seen, conditions[i][0][:, :, row : row + 1])
            linked.append(link)
        left = [nothing[..., :1].expand(-1, -1, -1, half_width)] * len(layers)  # (B, C, 1, half_width)
        for column in range(width):
            h = net.embedded(x[:, row : row + 1, column - 1 : column]) if column else nothing[..., :1]
            h = h + columns[..., column : column + 1]
            skips = []
            for i, layer in enumerate(layers):
                seen = torch.cat([left[i], h], 3)
                left[i] = seen[..., 1:]
                on_h = conditions[i][1][:, :, row : row + 1, column : column + 1]
                h, skip = layer.horizontal(seen, linked[i][..., column : column + 1], on_h)
                skips.append(skip)
            logits = net.head(torch.cat(skips, 1))[:, :, 0, 0]
            x[:, row, column] = draw(logits, uniform[:, row * width + column], sampling)
    return x


def _count(cond: Tensor | None, label: Tensor | None, cond_map: Tensor | None, count: int) -> int:
    """B: the rows of the conditions, which must agree, or `count` without any."""
    return count_streams(cond, label, count if cond_map is None else len(cond_map))


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
