"""The negative evidence lower bound (ELBO) of latent variable models, in nats and in bits per dimension."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def sample_gaussian(mean: Tensor, log_scale: Tensor) -> tuple[Tensor, Tensor]:
    """Mean, log-scale (B, ...) -> reparameterised sample (B, ...), KL from the standard normal in nats (B,)."""
    log_scale = 5 * torch.tanh(log_scale / 5)  # soft limit of +-5, so that a large first update cannot overflow
    z = mean + log_scale.exp() * torch.randn_like(mean)
    kl = 0.5 * (mean.square() + (2 * log_scale).exp() - 1) - log_scale
    return z, kl.flatten(1).sum(1)


def rate_logs(nll: Tensor, kl: Tensor, num_dims: int, *, of: str, per: str) -> dict[str, Tensor]:
    """Nats () of the data given the latents, and of the latents -> both, and their sum, in bits per dimension.

    {"bits_per_PER": sum, "bits_of_OF": data given the latents, "bits_of_latents": latents}.
    """
    data, latents = (nats / (num_dims * math.log(2)) for nats in (nll, kl))
    return {f"bits_per_{per}": data + latents, f"bits_of_{of}": data, "bits_of_latents": latents}


def elbo_loss(nll: Tensor, kl: Tensor, num_dims: int, *, of: str, per: str) -> tuple[Tensor, dict[str, Tensor]]:
    """NLL given the latents (B,) and KL (B,) in nats -> negative ELBO () in nats per dimension, logs in bits."""
    logs = rate_logs(nll.detach().mean(), kl.detach().mean(), num_dims, of=of, per=per)
    return (nll + kl).mean() / num_dims, logs
