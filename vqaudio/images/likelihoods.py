"""Pixel likelihood: a mixture of discretized logistics (PixelCNN++, Salimans et al., arXiv 1701.05517).

The three colour channels of a pixel share the mixture component; within a component, the mean of green depends on red
and that of blue on both. Each channel is a logistic distribution integrated over the 256 bins, with the tails assigned
to the first and last bin. The probabilities of all values sum to one, so that bits per dimension are exact.

Shapes: B batch, H x W pixels, J components.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

LEVELS = 256
LOG_SCALE_OFFSET = -1.3  # log-scale of a parameter of 0: about the spread of colours in photographs
MIN_LOG_SCALE, MAX_LOG_SCALE = (
    -7.0,
    7.0,
)  # a logistic narrower than a fifth of a value gains nothing and breaks the gradient
PER_COMPONENT = 10  # mixture weight; means and log-scales of 3 channels; 3 coefficients between channels


def to_unit(pixels: Tensor) -> Tensor:
    """Integer values 0 to 255 -> float32 in [-1, 1]. Raises ValueError for floating-point input."""
    if pixels.is_floating_point():
        raise ValueError(f"images must be uint8, 0 to 255, got {pixels.dtype}")
    return pixels.float() / (LEVELS / 2 - 0.5) - 1


def to_pixels(unit: Tensor) -> Tensor:
    """Values in [-1, 1] -> nearest uint8 values."""
    return ((unit + 1) * (LEVELS / 2 - 0.5)).round().clamp(0, LEVELS - 1).to(torch.uint8)


class PixelMixture:
    """The distribution p(image | parameters)."""

    def __init__(self, components: int):
        if components < 1:
            raise ValueError(f"components must be at least 1, got {components}")
        self.components = components

    @property
    def outputs(self) -> int:
        """Number of parameters per pixel, which a decoder must output."""
        return PER_COMPONENT * self.components

    def log_prob(self, parameters: Tensor, image: Tensor) -> Tensor:
        """(B, outputs, H, W), (B, 3, H, W) uint8 -> log-probability of each image in nats (B,), in float32 or wider."""
        with torch.autocast(parameters.device.type, enabled=False):
            logits, means, log_scales, coefficients = self._split(parameters)
            x = to_unit(image)[:, None].to(means.dtype)  # (B, 1, 3, H, W)
            each = discretized_logistic(x, _shifted_means(means, coefficients, x), log_scales).sum(2)  # (B, J, H, W)
            return torch.logsumexp(logits.log_softmax(1) + each, 1).sum((1, 2))

    def expected(self, parameters: Tensor) -> Tensor:
        """(B, outputs, H, W) -> approximate mean of each pixel, (B, 3, H, W) uint8, for reconstructions.

        Means of components outside the value range are clamped to it.
        """
        logits, means, _, coefficients = self._split(parameters)
        of_each = _channel_by_channel(means, coefficients, lambda _, mean: mean.clamp(-1, 1))
        return to_pixels((logits.softmax(1)[:, :, None] * of_each).sum(1))

    def sample(self, parameters: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """(B, outputs, H, W) -> (B, 3, H, W) uint8, sampled independently per pixel; `generator` is on the CPU."""
        logits, means, log_scales, coefficients = self._split(parameters)

        def uniform(like: Tensor) -> Tensor:
            return torch.rand(like.shape, generator=generator).clamp(1e-5, 1 - 1e-5).to(like.device)

        chosen = (logits - (-uniform(logits).log()).log()).argmax(1)  # Gumbel-max trick
        index = chosen[:, None, None].expand(-1, 1, 3, -1, -1)
        means, log_scales, coefficients = (part.gather(1, index) for part in (means, log_scales, coefficients))
        drawn = uniform(means)
        spread = log_scales.exp() * (drawn.log() - (-drawn).log1p())
        pixels = _channel_by_channel(means, coefficients, lambda i, mean: to_unit(to_pixels(mean + spread[:, :, i])))
        return to_pixels(pixels[:, 0])

    def _split(self, parameters: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """-> logits (B, J, H, W); means, log-scales and coefficients between channels, each (B, J, 3, H, W)."""
        if parameters.shape[1] != self.outputs:
            raise ValueError(f"the mixture needs {self.outputs} parameters per pixel, got {parameters.shape[1]}")
        parameters = parameters.to(torch.promote_types(parameters.dtype, torch.float32))
        parts = rearrange(parameters, "b (n j) h w -> b j n h w", j=self.components)
        logits, means, log_scales, coefficients = parts.split([1, 3, 3, 3], dim=2)
        return (
            logits[:, :, 0],
            means,
            (log_scales + LOG_SCALE_OFFSET).clamp(MIN_LOG_SCALE, MAX_LOG_SCALE),
            coefficients.tanh(),
        )


def _shifted_means(means: Tensor, coefficients: Tensor, x: Tensor) -> Tensor:
    """Means (B, J, 3, H, W) conditioned on the true values (B, 1, 3, H, W) of the preceding channels."""
    red, green = x[:, :, 0], x[:, :, 1]
    by = coefficients.unbind(2)
    shift = torch.stack([torch.zeros_like(by[0]), by[0] * red, by[1] * red + by[2] * green], 2)
    return means + shift


def _channel_by_channel(means: Tensor, coefficients: Tensor, finish: Callable[[int, Tensor], Tensor]) -> Tensor:
    """As `_shifted_means`, channel by channel: `finish(i, mean)` maps the mean of channel i to its value."""
    by = coefficients.unbind(2)
    red = finish(0, means[:, :, 0])
    green = finish(1, means[:, :, 1] + by[0] * red)
    blue = finish(2, means[:, :, 2] + by[1] * red + by[2] * green)
    return torch.stack([red, green, blue], 2)


def discretized_logistic(x: Tensor, means: Tensor, log_scales: Tensor) -> Tensor:
    """Values in [-1, 1], on the grid of 256 -> log-probability of each, in nats.

    The probability between two edges a > b of a logistic is sigmoid(a) sigmoid(-b) (1 - exp(b - a)): three factors
    whose logarithms are accurate however small the probability, without special cases.
    """
    half = 1 / (LEVELS - 1)
    inverse = (-log_scales).exp()
    above, below = (x - means + half) * inverse, (x - means - half) * inverse
    log_width = torch.log(-torch.expm1(-2 * half * inverse))
    lowest, highest = x < -1 + half, x > 1 - half
    upper = torch.where(highest, 0.0, F.logsigmoid(above))
    lower = torch.where(lowest, 0.0, F.logsigmoid(-below))
    return upper + lower + torch.where(lowest | highest, 0.0, log_width)
