"""The image VQ-VAE (van den Oord et al., arXiv 1711.00937, section 4.1).

Shapes: B batch, H x W pixels, h x w positions, D code dimension, K codes, M codes per position.

Bits per dimension are an upper bound on the negative log-likelihood of an image: the NLL of the pixels given the
latents, plus the rate of the latents under their prior. For a deterministic quantizer the rate is log2 K per code under
a uniform prior, and lower under a trained prior.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vqaudio.fingerprint import CachedFingerprint, FingerprintFields, config_facts, merge_facts
from vqaudio.images.autoencoder import ImageCoderConfig, ImageDecoder, ImageEncoder
from vqaudio.images.elbo import rate_logs
from vqaudio.images.likelihoods import to_unit
from vqaudio.nn.normalizer import Normalizer, NormalizerKind
from vqaudio.nn.quantizer import Quantized, QuantizerConfig, build_quantizer
from vqaudio.nn.quantizer_protocol import check_codes
from vqaudio.nn.vector_quantizer import VectorQuantizerConfig


@dataclass(frozen=True)
class ImageConfig:
    """Configuration of the VQ-VAE and its baselines, which share the encoder and decoder architecture."""

    FINGERPRINT: ClassVar = FingerprintFields(
        always={"normalizer": "normalizer"},
        nested=("coder", "quantizer"),
        never=(
            "size",  # the networks are convolutional
            "vimco_samples",  # of the baselines
            "gumbel_temperature",
        ),
    )

    size: int = 32
    """height and width of the images, in pixels"""
    coder: ImageCoderConfig = field(default_factory=ImageCoderConfig)
    normalizer: NormalizerKind = "none"
    """normalisation before the quantizer (VQ-VAE only): none, affine, batch, frame or unit"""
    quantizer: QuantizerConfig = field(default_factory=VectorQuantizerConfig)
    """quantizer; VIMCO and Gumbel-softmax use only its codebook size, the continuous VAE ignores it"""
    vimco_samples: int = 50
    """number of samples in the VIMCO bound"""
    gumbel_temperature: float = 0.5
    """temperature of Gumbel-softmax; lower values give less bias and more variance of the gradient"""

    def __post_init__(self) -> None:
        if self.size < 1 or self.size % self.coder.stride:
            raise ValueError(f"size must be a multiple of {self.coder.stride}, the coder's stride, got {self.size}")
        if self.quantizer.dim != self.coder.dim:
            raise ValueError(f"quantizer.dim ({self.quantizer.dim}) must be coder.dim ({self.coder.dim}); set both")
        if self.vimco_samples < 2:
            raise ValueError(f"vimco_samples must be at least 2, got {self.vimco_samples}")
        if not 0 < self.gumbel_temperature < math.inf:
            raise ValueError(f"gumbel_temperature must be a finite number above 0, got {self.gumbel_temperature}")

    @property
    def map_shape(self) -> tuple[int, int, int]:
        """(M, h, w) of the latents of an image."""
        side = self.size // self.coder.stride
        return self.coder.num_maps, side, side

    @property
    def num_dims(self) -> int:
        """Number of sub-pixels, 3 x size x size: the unit of bits per dimension."""
        return 3 * self.size**2

    def facts_of_codes(self) -> dict[str, Any]:
        """The options that determine the codes, for the fingerprint."""
        quantizer = {"unit_norm": False} | config_facts(self.quantizer)  # format 1 also covers the default
        return merge_facts(config_facts(self), config_facts(self.coder), quantizer)


class ImageVQVAE(nn.Module):
    """Encoder, vector quantizer (shared with the speech model) and decoder."""

    def __init__(self, cfg: ImageConfig):
        super().__init__()
        self.cfg = cfg
        self.encoder = ImageEncoder(cfg.coder)
        self.normalizer = Normalizer(cfg.normalizer, cfg.coder.dim)
        self.quantizer = build_quantizer(cfg.quantizer)
        self.decoder = ImageDecoder(cfg.coder)
        self._fingerprint = CachedFingerprint()

    def forward(self, image: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """(B, 3, H, W) uint8 -> loss () in nats per dimension, logs: equation 3 of the paper."""
        z = self.encoder(to_unit(image))
        q = self.quantizer(self.normalizer(z))
        nats = self.decoder.nll(q.z_q, image).mean()
        logs = rate_logs(nats.detach(), self.latent_nats(image), self.cfg.num_dims, of="pixels", per="dim")
        logs |= {**self.quantizer.metrics(q), "encoder_norm": z.detach().float().norm(dim=1).mean()}
        return nats / self.cfg.num_dims + q.loss, logs

    def quantize(self, image: Tensor) -> Quantized:
        """(B, 3, H, W) uint8 -> quantizer output, with codes (B, M, h, w)."""
        return self.quantizer(self.normalizer(self.encoder(to_unit(image))))

    def latents(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) uint8 -> quantized latents (B, D, M, h, w), their rate under a uniform prior in nats (B,)."""
        return self.quantize(image).z_q, self.latent_nats(image).expand(len(image))

    def neg_elbo(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 -> upper bound on -log p(image) in nats, (B,)."""
        z, latent_nats = self.latents(image)
        return self.decoder.nll(z, image) + latent_nats

    def latent_nats(self, image: Tensor) -> Tensor:
        """() rate of the codes of an image under a uniform prior, in nats."""
        places = math.prod(image.shape[2:]) // self.cfg.coder.stride**2
        return torch.tensor(self.cfg.coder.num_maps * places * math.log(self.codebook_size), device=image.device)

    @torch.inference_mode()
    def encode(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 -> codes (B, M, h, w) int64."""
        return self.quantizer.encode(self.normalizer(self.encoder(to_unit(image))))

    @torch.inference_mode()
    def decode(self, codes: Tensor) -> Tensor:
        """Codes (B, M, h, w) -> mean of each pixel, (B, 3, H, W) uint8. Raises ValueError for codes out of range."""
        check_codes(codes, self.codebook_size)
        return self.decoder.expected(self.quantizer.decode(codes))

    @property
    def codebook_size(self) -> int:
        """K."""
        return self.quantizer.codebook_size

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return self.quantizer.device

    @property
    def fingerprint(self) -> str:
        """12 hex digits that identify everything that determines the codes; independent of the decoder."""
        weights = {**self.encoder.state_dict(), **self.normalizer.state_dict(prefix="normalizer.")}
        return self._fingerprint.of(self.cfg.facts_of_codes(), weights | self.quantizer.code_weights())
