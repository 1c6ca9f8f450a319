"""A class-conditional or unconditional prior over the codes of images.

Shapes: B batch, M codes per position, h x w positions, K codes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Unpack

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vqaudio.images.pixelcnn import PixelCNN, PixelCNNConfig
from vqaudio.images.sampling import generate_map_cached
from vqaudio.sampling.config import SamplingConfig, SamplingOptions
from vqaudio.sampling.logits import Generators


@dataclass(frozen=True)
class ImagePriorConfig:
    """Options of an image prior. The recipe sets everything except `net`."""

    map_shape: tuple[int, ...] = (1, 8, 8)
    """(M, h, w) of the code maps; set by the recipe"""
    classes: tuple[str, ...] = ()
    """class names, empty if unconditional; set by the recipe"""
    model: str = ""
    """fingerprint of the model whose codes are modelled; set by the recipe"""
    net: PixelCNNConfig = field(default_factory=PixelCNNConfig)
    """PixelCNN; num_maps and num_labels are derived from the other options"""

    def __post_init__(self) -> None:
        if len(self.map_shape) != 3 or min(self.map_shape) < 1:
            raise ValueError(f"map_shape must be three numbers of at least 1, got {self.map_shape}")
        if len(set(self.classes)) < len(self.classes):
            raise ValueError(f"classes must be different names, got {self.classes}")
        net = replace(self.net, num_maps=self.map_shape[0], num_labels=len(self.classes))
        object.__setattr__(self, "net", net)


class ImagePrior(nn.Module):
    """A gated PixelCNN over the codes of an image; the codes of a position are modelled one after the other."""

    def __init__(self, cfg: ImagePriorConfig):
        super().__init__()
        self.cfg = cfg
        self.net = PixelCNN(cfg.net)

    def forward(self, codes: Tensor, label: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """(B, M, h, w) int64, classes (B,) -> loss () in nats per code, logs."""
        loss = self.nll(codes, label).mean() / codes[0].numel()
        return loss, {"bits_per_code": loss.detach() / math.log(2)}

    def nll(self, codes: Tensor, label: Tensor | None = None) -> Tensor:
        """(B, M, h, w) int64, classes (B,) -> negative log-likelihood of each map in nats, (B,)."""
        return map_nll(self.net, codes, None, label)

    def sample(
        self,
        count: int = 1,
        label: Tensor | None = None,
        sampling: SamplingConfig = SamplingConfig(),
        *,
        generator: Generators | None = None,
        **options: Unpack[SamplingOptions],
    ) -> Tensor:
        """Classes (B,), or `count` for B where there are none -> codes (B, M, h, w) int64.

        Single fields of `sampling` can be given as keyword arguments instead; `generator` as in `generate_map`.
        """
        sampling = sampling.override(**options)
        return sample_maps(self.net, self.cfg.map_shape, None, label, count, sampling, generator)

    def label_id(self, name: str) -> int:
        """Index of a class. Raises ValueError for an unknown class."""
        if name not in self.cfg.classes:
            known = ", ".join(self.cfg.classes) or "none: it was trained without classes"
            raise ValueError(f"class {name!r} is not in this prior; it has {known}")
        return self.cfg.classes.index(name)


def map_nll(net: PixelCNN, codes: Tensor, cond: Tensor | None, label: Tensor | None) -> Tensor:
    """(B, M, h, w), (B, D), (B,) -> NLL of each map in nats (B,); codes of a position are adjacent columns."""
    rows = rearrange(codes, "b m h w -> b h (w m)")
    return F.cross_entropy(net(rows, cond, label).float(), rows, reduction="none").sum((1, 2))


def sample_maps(
    net: PixelCNN,
    map_shape: tuple[int, ...],
    cond: Tensor | None,
    label: Tensor | None,
    count: int,
    sampling: SamplingConfig,
    generator: Generators | None,
) -> Tensor:
    """(B, D), (B,), or B = `count` if both are None -> codes (B, M, h, w) int64, sampled autoregressively."""
    maps, height, width = map_shape
    rows = generate_map_cached(
        net, height, width * maps, cond, label, sampling=sampling, generator=generator, count=count
    )
    return rearrange(rows, "b h (w m) -> b m h w", m=maps)
