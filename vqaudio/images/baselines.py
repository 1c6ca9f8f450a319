"""Baselines of the paper with the same encoder and decoder: continuous VAE, VIMCO and Gumbel-softmax.

Shapes: B batch, S samples of the latents, H x W pixels, h x w latent map, D latent dimension, M latents per position,
K codes.
"""

from __future__ import annotations

import math

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn import functional as F

from vqaudio.images.autoencoder import ImageDecoder, ImageEncoder
from vqaudio.images.elbo import elbo_loss, rate_logs, sample_gaussian
from vqaudio.images.likelihoods import to_unit
from vqaudio.images.vqvae import ImageConfig
from vqaudio.nn.linear import Linear


class ImageELBO(nn.Module):
    """What the baselines trained on a one-sample ELBO share."""

    cfg: ImageConfig
    decoder: ImageDecoder

    def forward(self, image: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """(B, 3, H, W) uint8 -> loss () in nats per dimension, logs."""
        z, latents = self.latents(image)
        return elbo_loss(self.decoder.nll(z, image), latents, self.cfg.num_dims, of="pixels", per="dim")

    def latents(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) uint8 -> sampled latents (B, D, M, h, w), their KL divergence from the prior in nats (B,)."""
        raise NotImplementedError

    def neg_elbo(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 -> one-sample estimate of the negative ELBO in nats, (B,)."""
        z, latents = self.latents(image)
        return self.decoder.nll(z, image) + latents


class ImageVAE(ImageELBO):
    """Continuous VAE with diagonal Gaussian posterior (Kingma and Welling, arXiv 1312.6114)."""

    def __init__(self, cfg: ImageConfig):
        super().__init__()
        self.cfg = cfg
        self.encoder = ImageEncoder(cfg.coder, outputs=2)
        self.decoder = ImageDecoder(cfg.coder)

    def latents(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) uint8 -> sample of q(z | image) (B, D, M, h, w), KL divergence from the prior in nats (B,)."""
        mean, log_scale = self.encoder(to_unit(image)).float().chunk(2, dim=1)
        return sample_gaussian(mean, log_scale)


class ImageVIMCO(nn.Module):
    """Discrete latents trained with the multi-sample VIMCO estimator (Mnih and Rezende, arXiv 1602.06725)."""

    def __init__(self, cfg: ImageConfig):
        super().__init__()
        self.cfg = cfg
        self.posterior = CategoricalEncoder(cfg)
        self.embed = nn.Embedding(cfg.quantizer.codebook_size, cfg.coder.dim)
        self.decoder = ImageDecoder(cfg.coder)

    def forward(self, image: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """(B, 3, H, W) uint8 -> loss () in nats per dimension with the VIMCO gradient, logs of the bound."""
        log_f, log_q, nll = self.sample_terms(image)
        bound, signal = vimco(log_f)
        surrogate = bound + (signal * log_q).sum(0) - (signal * log_q).sum(0).detach()  # equals the bound in value
        weights = log_f.detach().softmax(0)
        pixels = (weights * nll.detach()).sum(0).mean()
        logs = rate_logs(pixels, -bound.detach().mean() - pixels, self.cfg.num_dims, of="pixels", per="dim")
        return -surrogate.mean() / self.cfg.num_dims, logs

    def sample_terms(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 3, H, W) uint8 -> log p(image, z) - log q(z | image), log q, -log p(image | z) of S samples, (S, B)."""
        log_q_of_all = self.posterior(image)  # (B, K, M, h, w)
        codes = sample_codes(log_q_of_all, self.cfg.vimco_samples)  # (S, B, M, h, w)
        log_q = log_q_of_all.gather(1, rearrange(codes, "s b m h w -> b s m h w")).flatten(2).sum(2).T
        z = rearrange(self.embed(codes), "s b m h w d -> (s b) d m h w")
        nll = self.decoder.nll(z, repeat(image, "b ... -> (s b) ...", s=self.cfg.vimco_samples)).view_as(log_q)
        log_prior = -codes[0, 0].numel() * math.log(self.cfg.quantizer.codebook_size)
        return log_prior - nll - log_q, log_q, nll

    def latents(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) uint8 -> sampled latents (B, D, M, h, w), KL of q(z | image) from the uniform prior (B,)."""
        log_q = self.posterior(image)
        return rearrange(self.embed(sample_codes(log_q, 1)[0]), "b m h w d -> b d m h w"), kl_to_uniform(log_q)

    def neg_elbo(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 -> negative S-sample bound on log p(image) in nats, (B,)."""
        return -vimco(self.sample_terms(image)[0])[0]


def vimco(log_f: Tensor) -> tuple[Tensor, Tensor]:
    """log p(x, z) - log q(z | x) of S samples (S, B) -> bound (B,), learning signal of each sample (S, B), no gradient.

    The learning signal is the bound minus a baseline, where the sample is replaced by the geometric mean of the
    others (equations 10 and 11).
    """
    s = log_f.shape[0]
    bound = torch.logsumexp(log_f, 0) - math.log(s)
    fixed = log_f.detach()
    others = (fixed.sum(0) - fixed) / (s - 1)
    replaced = repeat(fixed, "other b -> other s b", s=s)
    own = torch.eye(s, dtype=torch.bool, device=log_f.device)[:, :, None]
    without = torch.logsumexp(torch.where(own, others[None], replaced), 0) - math.log(s)
    return bound, bound.detach() - without


class ImageGumbel(ImageELBO):
    """Discrete latents with straight-through Gumbel-softmax (Jang et al., arXiv 1611.01144)."""

    def __init__(self, cfg: ImageConfig):
        super().__init__()
        self.cfg = cfg
        self.posterior = CategoricalEncoder(cfg)
        self.embed = nn.Embedding(cfg.quantizer.codebook_size, cfg.coder.dim)
        self.decoder = ImageDecoder(cfg.coder)

    def latents(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) uint8 -> sampled latents (B, D, M, h, w), KL of q(z | image) from the uniform prior (B,)."""
        log_q = self.posterior(image)
        chosen = F.gumbel_softmax(log_q, self.cfg.gumbel_temperature, hard=True, dim=1)
        return torch.einsum("bkmhw,kd->bdmhw", chosen, self.embed.weight), kl_to_uniform(log_q)


class CategoricalEncoder(nn.Module):
    """Posterior q(z | image), independent over the codes of the map."""

    def __init__(self, cfg: ImageConfig):
        super().__init__()
        self.encoder = ImageEncoder(cfg.coder)
        self.logits = Linear(cfg.coder.dim, cfg.quantizer.codebook_size)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 -> log-probabilities (B, K, M, h, w), in float32 or wider."""
        z = rearrange(self.encoder(to_unit(image)), "b d m h w -> b m h w d")
        logits = self.logits(z)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return rearrange(logits.log_softmax(-1), "b m h w k -> b k m h w")


def sample_codes(log_q: Tensor, num_samples: int) -> Tensor:
    """Log-probabilities (B, K, M, h, w) -> sampled codes (S, B, M, h, w) int64, S = num_samples."""
    rows = rearrange(log_q.detach().exp(), "b k m h w -> (b m h w) k")
    shape = log_q[:, 0].shape
    return torch.multinomial(rows, num_samples, replacement=True).T.reshape(num_samples, *shape)


def kl_to_uniform(log_q: Tensor) -> Tensor:
    """Log-probabilities (B, K, M, h, w) -> KL from the uniform distribution in nats, summed over the map (B,)."""
    return (log_q.exp() * (log_q + math.log(log_q.shape[1]))).flatten(1).sum(1)
