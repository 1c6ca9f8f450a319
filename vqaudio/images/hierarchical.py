"""Hierarchical models: a few top-level latents for a whole map of bottom-level codes, with a PixelCNN decoder.

The DeepMind Lab experiment of the paper (arXiv 1711.00937, section 4.2): a PixelCNN models the bottom-level codes given
three discrete latents with K = 512, which is 27 bits. With such a powerful decoder a continuous VAE suffers posterior
collapse. The VQ-VAE does not, because the rate of its latents is fixed.

Shapes: B batch, M codes per position, h x w positions, L latents per map, D latent dimension, C channels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Unpack

import torch
from einops import rearrange
from torch import Tensor, nn

from vqaudio.images.elbo import elbo_loss, rate_logs, sample_gaussian
from vqaudio.images.pixelcnn import PixelCNN, PixelCNNConfig
from vqaudio.images.prior import map_nll, sample_maps
from vqaudio.nn.conv import ResidualBlock2d
from vqaudio.nn.linear import Linear
from vqaudio.nn.normalizer import Normalizer, NormalizerKind
from vqaudio.nn.quantizer import QuantizerConfig, build_quantizer
from vqaudio.nn.vector_quantizer import VectorQuantizerConfig
from vqaudio.sampling.config import SamplingConfig, SamplingOptions
from vqaudio.sampling.logits import Generators


@dataclass(frozen=True)
class CodeMapConfig:
    """Architecture of the hierarchical VQ-VAE and VAE."""

    map_shape: tuple[int, ...] = (1, 8, 8)
    """(M, h, w) of the bottom-level maps; set by the recipe"""
    model: str = ""
    """fingerprint of the bottom-level model; set by the recipe"""
    channels: int = 128
    """C, channels of the encoder"""
    num_latents: int = 3
    """L, top-level latents per map (paper: 3)"""
    normalizer: NormalizerKind = "frame"
    """normalisation before the quantizer"""
    quantizer: QuantizerConfig = field(default_factory=VectorQuantizerConfig)
    """top-level quantizer; the continuous VAE uses its dimension"""
    net: PixelCNNConfig = field(default_factory=PixelCNNConfig)
    """PixelCNN decoder; num_maps and cond_dim are derived from the other options"""

    def __post_init__(self) -> None:
        if len(self.map_shape) != 3 or self.map_shape[0] < 1 or min(self.map_shape[1:]) < 2:
            raise ValueError(
                f"map_shape must be (M, h, w) with M at least 1 and sides of at least 2, got {self.map_shape}"
            )
        if self.channels < 1 or self.num_latents < 1:
            raise ValueError(f"channels and num_latents must be at least 1, got {self.channels} and {self.num_latents}")
        condition = self.num_latents * self.quantizer.dim
        object.__setattr__(self, "net", replace(self.net, num_maps=self.map_shape[0], cond_dim=condition, num_labels=0))

    @property
    def num_dims(self) -> int:
        """Bottom-level codes per map: the unit of bits per code."""
        return math.prod(self.map_shape)


class CodeMapModel(nn.Module):
    """What both models of code maps share: the PixelCNN that decodes latents of a whole map."""

    cfg: CodeMapConfig
    decoder: PixelCNN

    def nll(self, z: Tensor, codes: Tensor) -> Tensor:
        """(B, D, L), (B, M, h, w) -> negative log-likelihood of each map in nats, (B,)."""
        return map_nll(self.decoder, codes, z.flatten(1), None)

    def sample(
        self,
        z: Tensor,
        sampling: SamplingConfig = SamplingConfig(),
        *,
        generator: Generators | None = None,
        **options: Unpack[SamplingOptions],
    ) -> Tensor:
        """(B, D, L) -> maps sampled from the decoder for these latents, (B, M, h, w) int64; as `ImagePrior.sample`."""
        sampling = sampling.override(**options)
        return sample_maps(self.decoder, self.cfg.map_shape, z.flatten(1), None, len(z), sampling, generator)


class CodeMapVQVAE(CodeMapModel):
    """VQ-VAE with a few discrete latents for a whole map of codes."""

    def __init__(self, cfg: CodeMapConfig):
        super().__init__()
        self.cfg = cfg
        self.encoder = CodeMapEncoder(cfg, cfg.quantizer.dim)
        self.normalizer = Normalizer(cfg.normalizer, cfg.quantizer.dim)
        self.quantizer = build_quantizer(cfg.quantizer)
        self.decoder = PixelCNN(cfg.net)

    def forward(self, codes: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """(B, M, h, w) int64 -> loss () in nats per bottom-level code, logs."""
        q = self.quantizer(self.normalizer(self.encoder(codes)))
        nats = self.nll(q.z_q, codes).mean()
        logs = rate_logs(nats.detach(), self.latent_nats(codes), self.cfg.num_dims, of="codes", per="code")
        return nats / self.cfg.num_dims + q.loss, logs | self.quantizer.metrics(q)

    def latents(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """(B, M, h, w) -> quantized latents (B, D, L), their rate under a uniform prior in nats (B,)."""
        z_q = self.quantizer(self.normalizer(self.encoder(codes))).z_q
        return z_q, self.latent_nats(codes).expand(len(codes))

    def latent_nats(self, codes: Tensor) -> Tensor:
        """() rate of the latents of a map under a uniform prior, in nats."""
        return torch.tensor(self.cfg.num_latents * math.log(self.quantizer.codebook_size), device=codes.device)


class CodeMapVAE(CodeMapModel):
    """VAE with a few continuous latents, with diagonal Gaussian posterior, for a whole map of codes."""

    def __init__(self, cfg: CodeMapConfig):
        super().__init__()
        self.cfg = cfg
        self.encoder = CodeMapEncoder(cfg, 2 * cfg.quantizer.dim)
        self.decoder = PixelCNN(cfg.net)

    def forward(self, codes: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """(B, M, h, w) int64 -> loss () in nats per bottom-level code, logs."""
        z, latents = self.latents(codes)
        return elbo_loss(self.nll(z, codes), latents, self.cfg.num_dims, of="codes", per="code")

    def latents(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """(B, M, h, w) -> sample of q(z | codes) (B, D, L), KL divergence from the prior in nats (B,)."""
        mean, log_scale = self.encoder(codes).float().chunk(2, dim=1)
        return sample_gaussian(mean, log_scale)


class CodeMapEncoder(nn.Module):
    """A map of codes -> L vectors for the whole map."""

    def __init__(self, cfg: CodeMapConfig, width: int):
        super().__init__()
        maps, height, width_of_map = cfg.map_shape
        c = cfg.channels
        self.latents = cfg.num_latents
        self.embed = nn.Embedding(cfg.net.codebook_size, c)
        self.layers = nn.Sequential(
            nn.Conv2d(maps * c, c, 4, stride=2, padding=1),
            ResidualBlock2d(c),
            nn.ReLU(),
            nn.Conv2d(c, c, 3, padding=1),
            ResidualBlock2d(c),
            nn.ReLU(),
        )
        self.out = Linear(c * (height // 2) * (width_of_map // 2), cfg.num_latents * width)

    def forward(self, codes: Tensor) -> Tensor:
        """(B, M, h, w) int64 -> (B, width, L)."""
        x = rearrange(self.embed(codes), "b m h w c -> b (m c) h w")
        return rearrange(self.out(self.layers(x).flatten(1)), "b (l d) -> b d l", l=self.latents)
