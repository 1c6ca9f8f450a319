"""Gated PixelCNN (van den Oord et al., arXiv 1606.05328): the image prior and the decoder of hierarchical models.

Shapes: B batch, H rows, W columns, K codes, C channels, D width of the conditioning vector, E channels of the
conditioning map.

The vertical stack covers all rows above, and the horizontal stack the positions to the left plus the output of the
vertical stack. Together they cover all previous positions in raster order, without a blind spot. The inputs are shifted
by one row and one column, so that no convolution needs a mask.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vqaudio.nn.linear import Linear


@dataclass(frozen=True)
class PixelCNNConfig:
    """Architecture of a PixelCNN over maps of codes."""

    codebook_size: int = 512
    """K, number of codes"""
    num_maps: int = 1
    """codes per position, which are adjacent columns of the map"""
    channels: int = 64
    """C, channels of both stacks"""
    layers: int = 8
    """number of gated layers"""
    kernel_size: int = 5
    """kernel size, odd; each layer covers the causal part of the square"""
    head_channels: int = 128
    """channels of the skip connections and output layers"""
    cond_dim: int = 0
    """D, dimension of a conditioning vector for the whole map; 0: unconditional"""
    num_labels: int = 0
    """number of classes; 0: not class-conditional"""
    cond_map_channels: int = 0
    """E, channels of a conditioning map, with features of every position; 0: without one"""

    def __post_init__(self) -> None:
        for name in ("num_maps", "channels", "layers", "head_channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.codebook_size < 2 or min(self.cond_dim, self.num_labels, self.cond_map_channels) < 0:
            raise ValueError(
                f"codebook_size must be at least 2, cond_dim, num_labels and cond_map_channels 0 or more, got {self}"
            )
        if self.kernel_size < 3 or self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd and at least 3, got {self.kernel_size}")

    @property
    def half_width(self) -> int:
        """Rows above, and columns on either side, covered by one layer."""
        return self.kernel_size // 2


class GatedLayer(nn.Module):
    """One layer of both stacks. The methods take a part of the map together with its preceding context."""

    def __init__(self, cfg: PixelCNNConfig, last: bool):
        """last: omit the residual connection of the horizontal stack, whose output is not used after the last layer."""
        super().__init__()
        c, self.half_width = cfg.channels, cfg.half_width
        self.down = nn.Conv2d(c, 2 * c, (self.half_width + 1, cfg.kernel_size), padding=(0, self.half_width))
        self.link = nn.Conv2d(2 * c, 2 * c, 1)
        self.along = nn.Conv2d(c, 2 * c, (1, self.half_width + 1))
        self.residual = None if last else nn.Conv2d(c, c, 1)

    def vertical(self, v: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, half_width + H, W), (B, 2C, 1 or H, 1 or W) -> (B, C, H, W), input of `horizontal` (B, 2C, H, W)."""
        x = self.down(v)
        return gate(x + condition), self.link(x)

    def horizontal(self, h: Tensor, linked: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, half_width + W), (B, 2C, H, W), condition as above -> (B, C, H, W), gated features (B, C, H, W)."""
        gated = gate(self.along(h) + linked + condition)
        h = h[..., self.half_width :]
        return h if self.residual is None else h + self.residual(gated), gated


def gate(x: Tensor) -> Tensor:
    """Gated activation: (B, 2C, H, W) -> tanh of the first half times sigmoid of the second, (B, C, H, W)."""
    filter_, gate_ = x.chunk(2, 1)
    return filter_.tanh() * gate_.sigmoid()


class PixelCNN(nn.Module):
    """Autoregressive distribution of the codes of a map in raster order."""

    def __init__(self, cfg: PixelCNNConfig):
        super().__init__()
        self.cfg = cfg
        c = cfg.channels
        self.embed = nn.Embedding(cfg.codebook_size, c)
        self.column = nn.Embedding(cfg.num_maps, c) if cfg.num_maps > 1 else None
        self.layers = nn.ModuleList(GatedLayer(cfg, last=i == cfg.layers - 1) for i in range(cfg.layers))
        self.label = nn.Embedding(cfg.num_labels, c) if cfg.num_labels else None
        self.condition = Linear(cfg.cond_dim, c) if cfg.cond_dim else None
        self.project = Linear(c, cfg.layers * 4 * c) if cfg.num_labels or cfg.cond_dim else None
        self.spread = nn.Conv2d(cfg.cond_map_channels, cfg.layers * 4 * c, 1) if cfg.cond_map_channels else None
        self.skip = nn.Conv2d(cfg.layers * c, cfg.head_channels, 1)  # all skip projections and their sum in one product
        self.out = nn.Sequential(nn.ReLU(), nn.Conv2d(cfg.head_channels, cfg.head_channels, 1), nn.ReLU())
        self.logits = nn.Conv2d(cfg.head_channels, cfg.codebook_size, 1)

    def forward(
        self, x: Tensor, cond: Tensor | None = None, label: Tensor | None = None, cond_map: Tensor | None = None
    ) -> Tensor:
        """(B, H, W) int64, (B, D), (B,), (B, E, H, W) -> logits (B, K, H, W) of each place given the previous ones."""
        half_width = self.cfg.half_width
        embedded = self.embedded(x)
        columns = self.column_embeddings(x.shape[2])
        v = F.pad(embedded, (0, 0, 1, 0))[:, :, :-1]  # row r contains the features of row r - 1
        h = F.pad(embedded, (1, 0))[..., :-1] + columns
        skips = []
        for layer, (on_v, on_h) in zip(self.gated_layers, self.conditions(cond, label, len(x), cond_map), strict=True):
            v, linked = layer.vertical(F.pad(v, (0, 0, half_width, 0)), on_v)
            h, skip = layer.horizontal(F.pad(h, (half_width, 0)), linked, on_h)
            skips.append(skip)
        return self.head(torch.cat(skips, 1))

    # --- parts of the network, used by the cached sampler one position at a time ---

    @property
    def gated_layers(self) -> list[GatedLayer]:
        """The gated layers in order."""
        return [layer for layer in self.layers if isinstance(layer, GatedLayer)]

    def embedded(self, x: Tensor) -> Tensor:
        """Codes (B, H, W) int64 -> embeddings (B, C, H, W)."""
        return rearrange(self.embed(x), "b h w c -> b c h w")

    def column_embeddings(self, width: int) -> Tensor:
        """(1, C, 1, W): embedding of the index of a code within its position; zeros with one code per position."""
        if self.column is None:
            return self.embed.weight.new_zeros(1, self.cfg.channels, 1, width)
        which = torch.arange(width, device=self.embed.weight.device) % self.cfg.num_maps
        return rearrange(self.column(which), "w c -> 1 c 1 w")

    def conditions(
        self, cond: Tensor | None, label: Tensor | None, batch: int, cond_map: Tensor | None = None
    ) -> list[tuple[Tensor, Tensor]]:
        """(B, D), (B,), (B, E, H, W) -> for each layer the gate biases of the vertical and horizontal stack.

        They are (B, 2C, 1, 1) each, or (B, 2C, H, W) with a conditioning map. Raises ValueError if a condition is
        missing, or given to a network without it.
        """
        parts = (("cond", cond, self.condition), ("label", label, self.label), ("cond_map", cond_map, self.spread))
        for name, given, wanted in parts:
            if (given is None) != (wanted is None):
                raise ValueError(f"this network {'has no' if wanted is None else 'needs a'} {name}")
            if given is not None and len(given) != batch:
                raise ValueError(f"{name} must have a row for each of {batch} maps, got {len(given)}")
        hidden = self.embed.weight.new_zeros(batch, self.cfg.channels)
        if self.condition is not None and cond is not None:
            hidden = hidden + self.condition(cond)
        if self.label is not None and label is not None:
            hidden = hidden + self.label(label)
        if self.project is None and self.spread is None:
            zeros = hidden.new_zeros(batch, 2 * self.cfg.channels, 1, 1)
            return [(zeros, zeros)] * self.cfg.layers
        biases = hidden.new_zeros(batch, 1, 1, 1) if self.project is None else self.project(hidden)[..., None, None]
        if self.spread is not None and cond_map is not None:
            biases = biases + self.spread(cond_map)
        split = rearrange(biases, "b (l two c) h w -> l two b c h w", l=self.cfg.layers, two=2)
        return [(on_v, on_h) for on_v, on_h in split]

    def head(self, skips: Tensor) -> Tensor:
        """Gated features of all layers (B, layers * C, H, W) -> logits (B, K, H, W)."""
        return self.logits(self.out(self.skip(skips)))
