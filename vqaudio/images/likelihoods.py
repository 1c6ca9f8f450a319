"""The likelihood of pixels: a mixture of discretized logistics (Salimans et al., arXiv 1701.05517).

A pixel's red, green and blue share the mixture's component; within it green leans on red, and blue on both. Each
is a logistic distribution cut into the 256 values: what lies below the first and beyond the last belongs to them,
so that all values together have probability one and bits per dimension are real.

Letters: B batch, H height, W width, J components.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

LEVELS = 256
LOG_SCALE_OFFSET = -1.3  # of a parameter of 0: about as wide as the colours of photographs are spread
MIN_LOG_SCALE, MAX_LOG_SCALE = (
    -7.0,
    7.0,
)  # a logistic narrower than a fifth of a value gains nothing and breaks the gradient
PER_COMPONENT = 10  # its weight; mean and log-scale of three colours; how green leans on red, blue on red and green


def to_unit(pixels: Tensor) -> Tensor:
    """Values 0 to 255 -> float32 in [-1, 1]. Raises ValueError for what is not in whole numbers."""
    if pixels.is_floating_point():
        raise ValueError(f"images must be uint8, 0 to 255, got {pixels.dtype}")
    return pixels.float() / (LEVELS / 2 - 0.5) - 1


def to_pixels(unit: Tensor) -> Tensor:
    """The nearest values, uint8."""
    return ((unit + 1) * (LEVELS / 2 - 0.5)).round().clamp(0, LEVELS - 1).to(torch.uint8)


class PixelMixture:
    """p(image | parameters)."""

    def __init__(self, components: int):
        if components < 1:
            raise ValueError(f"components must be at least 1, got {components}")
        self.components = components

    @property
    def outputs(self) -> int:
        """Numbers per pixel that a decoder must give."""
        return PER_COMPONENT * self.components

    def log_prob(self, parameters: Tensor, image: Tensor) -> Tensor:
        """(B, outputs, H, W), (B, 3, H, W) uint8 -> log-probability of each image in nats (B,), at least float32."""
        with torch.autocast(parameters.device.type, enabled=False):
            logits, means, log_scales, lean = self._split(parameters)
            x = to_unit(image)[:, None].to(means.dtype)  # (B, 1, 3, H, W)
            each = discretized_logistic(x, _shifted_means(means, lean, x), log_scales).sum(2)  # (B, J, H, W)
            return torch.logsumexp(logits.log_softmax(1) + each, 1).sum((1, 2))

    def expected(self, parameters: Tensor) -> Tensor:
        """(B, outputs, H, W) -> about the mean of each pixel, (B, 3, H, W) uint8: what is shown of a reconstruction.

        A mean beyond the range counts as its end, where most of what is drawn about it falls.
        """
        logits, means, _, lean = self._split(parameters)
        of_each = _channel_by_channel(means, lean, lambda _, mean: mean.clamp(-1, 1))
        return to_pixels((logits.softmax(1)[:, :, None] * of_each).sum(1))

    def sample(self, parameters: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """(B, outputs, H, W) -> (B, 3, H, W) uint8, every pixel drawn by itself; `generator` on the CPU."""
        logits, means, log_scales, lean = self._split(parameters)

        def uniform(like: Tensor) -> Tensor:
            return torch.rand(like.shape, generator=generator).clamp(1e-5, 1 - 1e-5).to(like.device)

        chosen = (logits - (-uniform(logits).log()).log()).argmax(1)  # the Gumbel trick
        index = chosen[:, None, None].expand(-1, 1, 3, -1, -1)
        means, log_scales, lean = (part.gather(1, index) for part in (means, log_scales, lean))
        drawn = uniform(means)
        spread = log_scales.exp() * (drawn.log() - (-drawn).log1p())
        pixels = _channel_by_channel(means, lean, lambda i, mean: to_unit(to_pixels(mean + spread[:, :, i])))
        return to_pixels(pixels[:, 0])

    def _split(self, parameters: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """-> logits (B, J, H, W), then of each colour (B, J, 3, H, W): mean, log-scale, how it leans on others."""
        if parameters.shape[1] != self.outputs:
            raise ValueError(f"the mixture takes {self.outputs} numbers per pixel, got {parameters.shape[1]}")
        parameters = parameters.to(torch.promote_types(parameters.dtype, torch.float32))
        parts = rearrange(parameters, "b (n j) h w -> b j n h w", j=self.components)
        logits, means, log_scales, lean = parts.split([1, 3, 3, 3], dim=2)
        return (
            logits[:, :, 0],
            means,
            (log_scales + LOG_SCALE_OFFSET).clamp(MIN_LOG_SCALE, MAX_LOG_SCALE),
            lean.tanh(),
        )


def _shifted_means(means: Tensor, lean: Tensor, x: Tensor) -> Tensor:
    """Means (B, J, 3, H, W) as the true colours (B, 1, 3, H, W) before each shift them."""
    red, green = x[:, :, 0], x[:, :, 1]
    by = lean.unbind(2)
    shift = torch.stack([torch.zeros_like(by[0]), by[0] * red, by[1] * red + by[2] * green], 2)
    return means + shift


def _channel_by_channel(means: Tensor, lean: Tensor, finish: Callable[[int, Tensor], Tensor]) -> Tensor:
    """As `_led`, where a colour is known only when the one before is: `finish` makes colours of shifted means."""
    by = lean.unbind(2)
    red = finish(0, means[:, :, 0])
    green = finish(1, means[:, :, 1] + by[0] * red)
    blue = finish(2, means[:, :, 2] + by[1] * red + by[2] * green)
    return torch.stack([red, green, blue], 2)


def discretized_logistic(x: Tensor, means: Tensor, log_scales: Tensor) -> Tensor:
    """Values in [-1, 1], on the grid of 256 -> log-probability of each, in nats.

    The mass between two edges a > b of a logistic is sigmoid(a) sigmoid(-b) (1 - exp(b - a)): three factors whose
    logarithms are exact however small the mass, so that no case needs an approximation.
    """
    half = 1 / (LEVELS - 1)
    inverse = (-log_scales).exp()
    above, below = (x - means + half) * inverse, (x - means - half) * inverse
    log_width = torch.log(-torch.expm1(-2 * half * inverse))
    lowest, highest = x < -1 + half, x > 1 - half
    upper = torch.where(highest, 0.0, F.logsigmoid(above))
    lower = torch.where(lowest, 0.0, F.logsigmoid(-below))
    return upper + lower + torch.where(lowest | highest, 0.0, log_width)
