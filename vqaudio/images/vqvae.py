"""ImageVQVAE: images to maps of codes and back (van den Oord et al., arXiv 1711.00937, section 4.1).

Letters: B batch, H height, W width (h, w of the map of codes), D code width, K codes, M codes at each place.

Bits per dimension are those of a bound on the image's own likelihood: what the pixels cost given the latents, and what
the latents cost under their prior. For the quantizer, whose choice is no draw, that is log2 K for each code under a
uniform prior, and what a trained prior says otherwise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from vqaudio.fingerprint import fingerprint
from vqaudio.images.autoencoder import ImageCoderConfig, ImageDecoder, ImageEncoder
from vqaudio.images.elbo import rate_logs
from vqaudio.images.likelihoods import to_unit
from vqaudio.nn.normalizer import Normalizer, NormalizerKind
from vqaudio.nn.quantizer import Quantized, VectorQuantizer, VectorQuantizerConfig


@dataclass(frozen=True)
class ImageConfig:
    """Of the VQ-VAE and of the models that the paper compares it with: one encoder and decoder for all."""

    size: int = 32
    """height and width of the images, in pixels"""
    coder: ImageCoderConfig = field(default_factory=ImageCoderConfig)
    normalizer: NormalizerKind = "none"
    """what brings vectors to the codebook's scale: none, affine, batch, frame or unit (VQ-VAE alone)"""
    quantizer: VectorQuantizerConfig = field(default_factory=VectorQuantizerConfig)
    """VIMCO and Gumbel-softmax take the number of codes from it, the continuous VAE nothing"""
    vimco_samples: int = 50
    """draws of the latents in VIMCO's bound"""
    gumbel_temperature: float = 0.5
    """of Gumbel-softmax: near 0 its gradient is right but noisy"""

    def __post_init__(self) -> None:
        if self.size < 1 or self.size % self.coder.stride:
            raise ValueError(f"size must be a multiple of {self.coder.stride}, the coder's stride, got {self.size}")
        if self.quantizer.dim != self.coder.dim:
            raise ValueError(f"quantizer.dim ({self.quantizer.dim}) must be coder.dim ({self.coder.dim}); set both")
        if self.vimco_samples < 2 or not self.gumbel_temperature > 0:
            raise ValueError(f"vimco_samples must be at least 2 and gumbel_temperature above 0, got {self}")

    @property
    def map_shape(self) -> tuple[int, int, int]:
        """(M, h, w) of the latents of an image."""
        side = self.size // self.coder.stride
        return self.coder.num_maps, side, side

    @property
    def num_dims(self) -> int:
        """Colours of all pixels: what bits are counted per."""
        return 3 * self.size**2


class ImageVQVAE(nn.Module):
    """Encoder, the vector quantizer that speech uses, decoder."""

    def __init__(self, cfg: ImageConfig):
        super().__init__()
        self.cfg = cfg
        self.encoder = ImageEncoder(cfg.coder)
        self.normalizer = Normalizer(cfg.normalizer, cfg.coder.dim)
        self.quantizer = VectorQuantizer(cfg.quantizer)
        self.decoder = ImageDecoder(cfg.coder)

    def forward(self, image: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """(B, 3, H, W) uint8 -> loss () in nats per dimension, logs: equation 3 of the paper."""
        z = self.encoder(to_unit(image))
        q = self.quantizer(self.normalizer(z))
        nats = self.decoder.nll(q.z_q, image).mean()
        logs = rate_logs(nats.detach(), self.latent_nats(image), self.cfg.num_dims, of="pixels", per="dim")
        logs |= {**self.quantizer.figures(q), "encoder_norm": z.detach().float().norm(dim=1).mean()}
        return nats / self.cfg.num_dims + q.loss, logs

    def quantize(self, image: Tensor) -> Quantized:
        """(B, 3, H, W) uint8 -> what the quantizer makes of it; codes are (B, M, h, w)."""
        return self.quantizer(self.normalizer(self.encoder(to_unit(image))))

    def latents(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) uint8 -> what the decoder hears (B, D, M, h, w), its cost under a uniform prior in nats (B,)."""
        return self.quantize(image).z_q, self.latent_nats(image).expand(len(image))

    def neg_elbo(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 -> nats that suffice for each image, (B,): an upper bound on -log p(image)."""
        z, latent_nats = self.latents(image)
        return self.decoder.nll(z, image) + latent_nats

    def latent_nats(self, image: Tensor) -> Tensor:
        """() what an image's codes cost under a uniform prior."""
        places = math.prod(image.shape[2:]) // self.cfg.coder.stride**2
        return torch.tensor(self.cfg.coder.num_maps * places * math.log(self.codebook_size), device=image.device)

    @torch.inference_mode()
    def encode(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 -> codes (B, M, h, w) int64."""
        return self.quantizer.encode(self.normalizer(self.encoder(to_unit(image))))

    @torch.inference_mode()
    def decode(self, codes: Tensor) -> Tensor:
        """Codes (B, M, h, w) -> the mean of each pixel, (B, 3, H, W) uint8."""
        if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < self.codebook_size:
            raise ValueError(
                f"codes must lie in 0 to {self.codebook_size - 1}, got {int(codes.min())} to {int(codes.max())}"
            )
        return self.decoder.expected(self.quantizer.decode(codes))

    @property
    def codebook_size(self) -> int:
        """K."""
        return self.cfg.quantizer.codebook_size

    @property
    def fingerprint(self) -> str:
        """12 hex digits that stand for everything that decides the codes; the decoder has no part in it."""
        weights = {**self.encoder.state_dict(), **self.normalizer.state_dict(prefix="normalizer.")}
        weights["codebook"] = self.quantizer.codebook
        c = self.cfg
        facts = {"maps": c.coder.num_maps, "normalizer": c.normalizer, "codes": c.quantizer.codebook_size}
        return fingerprint(facts | {"unit_norm": c.quantizer.unit_norm}, weights)
