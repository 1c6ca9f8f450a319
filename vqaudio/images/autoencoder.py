"""Image encoder and decoder of the paper (van den Oord et al., arXiv 1711.00937, section 4.1).

Shapes: B batch, H x W pixels, h x w latent map, D latent dimension, M latents per position, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from einops import rearrange
from torch import Tensor, nn

from vqaudio.fingerprint import FingerprintFields
from vqaudio.images.likelihoods import PixelMixture
from vqaudio.nn.conv import ResidualBlock2d


@dataclass(frozen=True)
class ImageCoderConfig:
    """Architecture of encoder and decoder.

    Paper: two 4 x 4 convolutions of stride 2, two residual blocks, 256 channels; the decoder mirrors the encoder.
    """

    FINGERPRINT: ClassVar = FingerprintFields(
        always={"num_maps": "maps"},
        by_weights=("stages", "channels", "blocks", "dim"),
        never=("num_mixtures",),  # of the decoder alone
    )

    stages: int = 2
    """number of strided convolutions; each one halves height and width"""
    channels: int = 256
    """C, channels of every layer"""
    blocks: int = 2
    """number of residual blocks"""
    num_maps: int = 1
    """M, latent vectors per position of the map (paper: 10 for CIFAR-10, 1 for ImageNet)"""
    dim: int = 64
    """D, dimension of a latent vector"""
    num_mixtures: int = 5
    """components of the logistic mixture likelihood of a pixel"""

    def __post_init__(self) -> None:
        for name in ("stages", "channels", "num_maps", "dim", "num_mixtures"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.blocks < 0:
            raise ValueError(f"blocks must be 0 or more, got {self.blocks}")

    @property
    def stride(self) -> int:
        """Pixels per position of the latent map, along either axis."""
        return 2**self.stages


class ImageEncoder(nn.Module):
    """Image -> latent vectors."""

    def __init__(self, cfg: ImageCoderConfig, outputs: int = 1):
        """outputs: outputs per latent dimension; 2 for mean and log-scale of a Gaussian posterior."""
        super().__init__()
        self.cfg = cfg
        c = cfg.channels
        strided = [nn.Conv2d(3 if stage == 0 else c, c, 4, stride=2, padding=1) for stage in range(cfg.stages)]
        between = [layer for conv in strided for layer in (conv, nn.ReLU())][:-1]  # residual blocks start with a ReLU
        self.layers = nn.Sequential(*between, *(ResidualBlock2d(c) for _ in range(cfg.blocks)), nn.ReLU())
        self.out = nn.Conv2d(c, cfg.num_maps * outputs * cfg.dim, 1)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) float in [-1, 1] -> (B, outputs * D, M, h, w). Raises ValueError for another shape."""
        stride = self.cfg.stride
        if image.ndim != 4 or image.shape[1] != 3 or any(side % stride or not side for side in image.shape[2:]):
            raise ValueError(
                f"images must be (B, 3, H, W) with H and W multiples of {stride}, got {tuple(image.shape)}"
            )
        return rearrange(self.out(self.layers(image)), "b (m d) h w -> b d m h w", m=self.cfg.num_maps)


class ImageDecoder(nn.Module):
    """Latent vectors -> independent distribution of every pixel."""

    def __init__(self, cfg: ImageCoderConfig):
        super().__init__()
        self.cfg = cfg
        self.pixels = PixelMixture(cfg.num_mixtures)
        c = cfg.channels
        self.into = nn.Conv2d(cfg.num_maps * cfg.dim, c, 1)
        transposed = [
            nn.ConvTranspose2d(c, c if stage < cfg.stages - 1 else self.pixels.outputs, 4, stride=2, padding=1)
            for stage in range(cfg.stages)
        ]
        between = [layer for conv in transposed for layer in (nn.ReLU(), conv)]
        self.layers = nn.Sequential(*(ResidualBlock2d(c) for _ in range(cfg.blocks)), *between)

    def forward(self, z: Tensor) -> Tensor:
        """(B, D, M, h, w) -> parameters of the mixture likelihood (B, pixels.outputs, H, W)."""
        return self.layers(self.into(rearrange(z, "b d m h w -> b (m d) h w")))

    def nll(self, z: Tensor, image: Tensor) -> Tensor:
        """(B, D, M, h, w), (B, 3, H, W) uint8 -> negative log-likelihood of each image in nats, (B,)."""
        return -self.pixels.log_prob(self(z), image)

    def expected(self, z: Tensor) -> Tensor:
        """(B, D, M, h, w) -> mean of each pixel, (B, 3, H, W) uint8."""
        return self.pixels.expected(self(z))
