"""Causal convolutions with explicit state, and residual blocks in 1-D and 2-D.

Shapes: B batch, T time steps, H height, W width, C channels.

One-dimensional features are (B, T, C) in this package: a 1 x 1 convolution is then a plain matrix product, a dilated
one uses the channels-last kernel of oneDNN or cuDNN, and neither needs a transpose.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vqaudio.nn.linear import Linear


class CausalConv1d(nn.Module):
    """Causal strided or dilated convolution over time, with explicit state for streaming.

    With stride s, output n depends on inputs up to n * s + s - 1, so T inputs give T / s outputs. The state is the last
    `past_length` inputs: it is passed in and returned for the next chunk. None stands for zeros.
    """

    def __init__(self, channels_in: int, channels_out: int, kernel_size: int, stride: int = 1, dilation: int = 1):
        super().__init__()
        self.stride, self.dilation = stride, dilation
        self.past_length = (kernel_size - 1) * dilation + 1 - stride
        if self.past_length < 0:
            raise ValueError(f"a kernel of size {kernel_size} skips inputs at stride {stride}; use at least {stride}")
        self.weight = nn.Parameter(torch.empty(channels_out, channels_in, kernel_size))
        self.bias = nn.Parameter(torch.zeros(channels_out))
        # He initialisation (arXiv 1502.01852); the first layer is not preceded by a ReLU and needs no factor 2
        nn.init.normal_(self.weight, std=math.sqrt((2 if channels_in > 1 else 1) / (channels_in * kernel_size)))

    def forward(self, x: Tensor, past: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, T, C_in), (B, past_length, C_in) -> (B, T / stride, C_out), the next past.

        Raises ValueError unless T is a multiple of the stride.
        """
        if x.shape[1] % self.stride:
            raise ValueError(f"{x.shape[1]} time steps are not a multiple of the stride {self.stride}; pad the input")
        if past is None:
            past = x.new_zeros(x.shape[0], self.past_length, x.shape[2])
        x = torch.cat([past.to(x.dtype), x], dim=1)
        image = rearrange(x, "b t c -> b c 1 t")  # a view in channels-last memory format
        kernel = self.weight.unsqueeze(2).contiguous(memory_format=torch.channels_last)
        y = F.conv2d(image, kernel, self.bias, stride=(1, self.stride), dilation=(1, self.dilation))
        return rearrange(y, "b c 1 t -> b t c"), x[:, x.shape[1] - self.past_length :]


class ResidualBlock1d(nn.Module):
    """x + W relu(conv(relu(x))): a dilated causal and a pointwise convolution, as in arXiv 1711.00937."""

    def __init__(self, channels: int, kernel_size: int, dilation: int):
        super().__init__()
        self.conv = CausalConv1d(channels, channels, kernel_size, dilation=dilation)
        self.out = Linear(channels, channels)
        nn.init.zeros_(self.out.weight)  # the block starts as the identity
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, past: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, T, C), past -> (B, T, C), the next past."""
        h, next_past = self.conv(F.relu(x), past)
        return x + self.out(F.relu(h)), next_past


class ResidualBlock2d(nn.Module):
    """x + W relu(conv(relu(x))): a 3 x 3 and a pointwise convolution, as in the image models of arXiv 1711.00937."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.out = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.out.weight)  # the block starts as the identity
        nn.init.zeros_(cast(Tensor, self.out.bias))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return x + self.out(F.relu(self.conv(F.relu(x))))
