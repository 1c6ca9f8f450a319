"""What latents cost, and the bound that they make together with what is said given them."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def sample_gaussian(mean: Tensor, log_scale: Tensor) -> tuple[Tensor, Tensor]:
    """(B, ...), (B, ...) -> a draw with its gradient, the divergence from the standard normal in nats (B,)."""
    log_scale = 5 * torch.tanh(log_scale / 5)  # no more than exp(5) either way: a first step too far must not overflow
    z = mean + log_scale.exp() * torch.randn_like(mean)
    kl = 0.5 * (mean.square() + (2 * log_scale).exp() - 1) - log_scale
    return z, kl.flatten(1).sum(1)


def rate_logs(given_latents: Tensor, latents: Tensor, dims: int, *, of: str, per: str) -> dict[str, Tensor]:
    """Nats () of what is modelled given the latents, and of the latents, `dims` of it -> bits per one, the sum first.

    {"bits_per_PER": their sum, "bits_of_OF": the first, "bits_of_latents": the second}.
    """
    first, second = (nats / (dims * math.log(2)) for nats in (given_latents, latents))
    return {f"bits_per_{per}": first + second, f"bits_of_{of}": first, "bits_of_latents": second}


def elbo_loss(given: Tensor, latents: Tensor, dims: int, *, of: str, per: str) -> tuple[Tensor, dict[str, Tensor]]:
    """Nats of each example (B,), the latents' own (B,) -> the negative bound () in nats per one of `dims`, its logs."""
    return (given + latents).mean() / dims, rate_logs(
        given.detach().mean(), latents.detach().mean(), dims, of=of, per=per
    )
