"""WaveNet (van den Oord et al., arXiv 1609.03499): the speech decoder and the prior over codes.

Shapes: B batch, T steps, N frames (T = N * hop), D code width, Q classes, R residual channels, S skip channels.

Conditioning is computed once per frame for all layers and broadcast over the steps of the frame.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vqaudio.fingerprint import FingerprintFields
from vqaudio.nn.conv import CausalConv1d
from vqaudio.nn.linear import Linear
from vqaudio.nn.regularizers import noisy_past, replace_inputs
from vqaudio.nn.wavenet_fused import StackWeights, run_stack


@dataclass(frozen=True)
class WaveNetConfig:
    """Architecture of a WaveNet. The default decoder generates faster than real time on one CPU core."""

    FINGERPRINT: ClassVar = FingerprintFields(  # of a prior, whose probabilities it decides
        always={
            "num_classes": "classes",
            "layers": "layers",
            "layers_per_stack": "cycle",
            "kernel_size": "kernel_size",
            "residual_channels": "residual",
            "skip_channels": "skip",
            "hop": "hop",
            "cond_dim": "condition",
            "num_speakers": "speakers",
            "cond_hidden_channels": "hidden",
            "input_noise": "input_noise",
            "input_dropout": "input_dropout",
        },
        never=("past_noise",),  # no prior has it
    )

    num_classes: int = 256
    """Q, number of output classes"""
    layers: int = 20
    """number of dilated convolution layers"""
    layers_per_stack: int = 10
    """layers per stack; within a stack the dilation doubles from layer to layer, starting at 1"""
    kernel_size: int = 2
    """kernel size of the dilated convolutions"""
    residual_channels: int = 64
    """R, residual channels"""
    skip_channels: int = 128
    """S, skip channels, also of the output layers"""
    hop: int = 64
    """steps per frame of the local conditioning"""
    cond_dim: int = 0
    """D, channels of the local conditioning; 0: no local conditioning"""
    num_speakers: int = 0
    """number of speakers; 0: not conditioned on a speaker"""
    cond_hidden_channels: int = 128
    """hidden channels of the conditioning, where codes and speaker are added"""
    input_noise: float = 0.0
    """fraction of the past steps that are replaced by a random class in training"""
    input_dropout: float = 0.0
    """fraction of the past steps that are masked in training"""
    past_noise: float = 0.0
    """standard deviation of normal noise on the past samples in training, in classes; that of each sequence is drawn
    from 0 to this. What has to predict the clean sample from a noisy past does not add up its own noise in generation
    (Valin and Skoglund, "LPCNet", 2019). For samples, whose classes are ordered; not for priors over codes"""

    def __post_init__(self) -> None:
        positive = ("layers", "layers_per_stack", "residual_channels", "skip_channels", "hop", "cond_hidden_channels")
        for name in positive:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.num_classes < 2 or self.kernel_size < 2:
            raise ValueError(
                f"num_classes and kernel_size must be at least 2, got {self.num_classes} and {self.kernel_size}"
            )
        if self.cond_dim < 0 or self.num_speakers < 0:
            raise ValueError(
                f"cond_dim and num_speakers must be 0 or more, got {self.cond_dim} and {self.num_speakers}"
            )
        for name in ("input_noise", "input_dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], a fraction of the steps, got {getattr(self, name)}")
        if not 0 <= self.past_noise < math.inf:
            raise ValueError(f"past_noise must be a finite number of classes, 0 or more, got {self.past_noise}")

    @property
    def dilations(self) -> tuple[int, ...]:
        """Dilation of each layer, in steps."""
        return tuple(2 ** (layer % self.layers_per_stack) for layer in range(self.layers))

    @property
    def receptive_field(self) -> int:
        """Number of past steps that a prediction depends on."""
        return sum(self.dilations) * (self.kernel_size - 1) + 1

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of one step of one sequence, without the conditioning."""
        r, s = self.residual_channels, self.skip_channels
        of_layers = self.layers * (2 * r * r * self.kernel_size + r * r + r * s) - r * r
        return of_layers + s * (s + self.num_classes)


class WaveNetState(NamedTuple):
    """State of streaming computation between two chunks."""

    position: int  # steps since the start of the sequence
    pasts: tuple[Tensor, ...]  # one per layer, (B, past_length, R)


class WaveNet(nn.Module):
    """Autoregressive distribution of the next step given past steps, local conditioning and speaker."""

    compiled_in_training: ClassVar = True  # if `fit.compile` allows it

    def __init__(self, cfg: WaveNetConfig):
        super().__init__()
        self.cfg = cfg
        r, gates = cfg.residual_channels, 2 * cfg.residual_channels
        self.embed = nn.Embedding(cfg.num_classes + 1, r)  # the last row is the start class
        self.speaker = nn.Embedding(cfg.num_speakers, cfg.cond_hidden_channels) if cfg.num_speakers else None
        self.condition = Linear(cfg.cond_dim, cfg.cond_hidden_channels) if cfg.cond_dim else None
        self.project = (
            Linear(cfg.cond_hidden_channels, cfg.layers * gates) if cfg.num_speakers or cfg.cond_dim else None
        )
        self.dilated = nn.ModuleList(CausalConv1d(r, gates, cfg.kernel_size, dilation=d) for d in cfg.dilations)
        self.residual = nn.ModuleList(Linear(r, r) for _ in range(cfg.layers - 1))
        self.skip = Linear(cfg.layers * r, cfg.skip_channels)  # all skip projections and their sum in one product
        self.head = Linear(cfg.skip_channels, cfg.skip_channels)
        self.out = Linear(cfg.skip_channels, cfg.num_classes)

    @property
    def start(self) -> int:
        """The start class: input of the first step, and mask of input dropout."""
        return self.cfg.num_classes

    def forward(
        self,
        x: Tensor,
        cond: Tensor | None = None,
        speaker: Tensor | None = None,
        state: WaveNetState | None = None,
    ) -> tuple[Tensor, WaveNetState]:
        """(B, T) int64, (B, D, N), (B,) int64 -> logits (B, Q, T) of the step after each input, state.

        logits[:, :, t] predict the step after x[:, t]; the first input is `start` (`shift` makes such an input from
        targets). cond[:, :, n] conditions the predicted steps n * hop to n * hop + hop - 1, counted from the frame in
        which the chunk starts. Without a state the input is the start of a sequence, with a state its continuation.
        """
        bias = self.conditioning(cond, speaker)  # (B, N or 1, L, 2R) | None
        h = self.embed(self.corrupted_inputs(x))  # (B, T, R)
        if state is None and self._can_run_fused(h, bias):
            skips, pasts = self._run_fused(h, bias)  # (B, T, S)
        else:
            state = state or WaveNetState(0, (None,) * self.cfg.layers)  # pyright: ignore[reportArgumentType]
            skips, pasts = self._run_layers(h, bias, state)
        logits = self.out(F.relu(self.head(F.relu(skips))))
        return rearrange(logits, "b t q -> b q t"), WaveNetState((state.position if state else 0) + x.shape[1], pasts)

    def _run_layers(self, h: Tensor, bias: Tensor | None, state: WaveNetState) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Layer by layer: (B, T, R), (B, N or 1, L, 2R) -> sum of the skip connections (B, T, S), layer states."""
        gated, pasts = [], []
        for layer, dilated in enumerate(self.dilated):
            y, past = dilated(h, state.pasts[layer])  # (B, T, 2R)
            if bias is not None:
                y = self._add_frames(y, bias[:, :, layer], state.position % self.cfg.hop)
            z = gate(y)  # (B, T, R)
            gated.append(z)
            pasts.append(past)
            if layer < self.cfg.layers - 1:
                h = h + self.residual[layer](z)
        return self.skip(torch.cat(gated, dim=2)), tuple(pasts)

    def _can_run_fused(self, h: Tensor, bias: Tensor | None) -> bool:
        """Whether `_run_fused` applies to (B, T, R): on a CPU, with gradients, and a whole number of frames."""
        steps = h.shape[1]
        whole = bias is None or steps == bias.shape[1] * self.cfg.hop or self.condition is None
        wanted = torch.is_grad_enabled() and not torch.compiler.is_compiling()
        return wanted and h.device.type == "cpu" and steps > 0 and whole

    def _run_fused(self, h: Tensor, bias: Tensor | None) -> tuple[Tensor, tuple[Tensor, ...]]:
        """As `_run_layers` without a state, with the fused kernels for training; no gradient through the states."""
        convs, paths = cast(list[CausalConv1d], list(self.dilated)), cast(list[nn.Linear], list(self.residual))
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else h.dtype
        with torch.autocast("cpu", enabled=False):
            frames = rearrange(torch.stack([conv.bias for conv in convs]), "l g -> l 1 1 g")
            if bias is not None:
                frames = frames + rearrange(bias, "b n l g -> l b n g")
            empty = h.new_empty(
                0, self.cfg.residual_channels, self.cfg.residual_channels
            )  # a single layer has no residual connection
            weights = StackWeights(
                taps=rearrange([conv.weight for conv in convs], "l g r k -> l k g r"),
                residual=torch.stack([path.weight for path in paths]) if paths else empty,
                residual_bias=torch.stack([path.bias for path in paths]) if paths else empty[:, 0],
                skip=rearrange(self.skip.weight, "s (l r) -> l s r", l=self.cfg.layers),
                skip_bias=self.skip.bias,
            )
            weights = StackWeights(*(weight.to(dtype).contiguous() for weight in weights))
            frames = frames.to(dtype).expand(-1, h.shape[0], -1, -1).contiguous()
            skips, inputs = run_stack(h.to(dtype), frames, weights, self.cfg.dilations)
        pasts = [
            F.pad(x[:, -conv.past_length :], (0, 0, max(0, conv.past_length - x.shape[1]), 0))
            for conv, x in zip(convs, inputs, strict=True)
        ]
        return skips, tuple(pasts)

    def corrupted_inputs(self, x: Tensor) -> Tensor:
        """(B, T) int64 -> inputs with noise and dropout in training, unchanged in evaluation."""
        if self.training and self.cfg.input_noise:
            x = replace_inputs(x, self.cfg.input_noise, None, self.cfg.num_classes)
        if self.training and self.cfg.input_dropout:
            x = replace_inputs(x, self.cfg.input_dropout, self.start, self.cfg.num_classes)
        if self.training and self.cfg.past_noise:
            x = noisy_past(x, self.cfg.past_noise, self.cfg.num_classes)
        return x

    def shift(self, target: Tensor) -> Tensor:
        """Targets (B, T) -> inputs (B, T): shifted right by one step, with the start class first."""
        return F.pad(target[:, :-1], (1, 0), value=self.start)

    def conditioning(self, cond: Tensor | None, speaker: Tensor | None) -> Tensor | None:
        """(B, D, N), (B,) -> bias of each layer's gates (B, N, L, 2R); N is 1 without local conditioning.

        Raises ValueError if a condition is missing, or given to a network without it.
        """
        if (cond is None) != (self.condition is None):
            raise ValueError(f"this WaveNet takes {'no' if cond is not None else 'a'} local conditioning")
        if (speaker is None) != (self.speaker is None):
            raise ValueError(f"this WaveNet takes {'no' if speaker is not None else 'a'} speaker")
        h = None
        if cond is not None and self.condition is not None:
            h = self.condition(rearrange(cond, "b d n -> b n d"))
        if speaker is not None and self.speaker is not None:
            embedding = rearrange(self.speaker(speaker), "b c -> b 1 c")
            h = embedding if h is None else h + embedding
        if h is None or self.project is None:
            return None
        return rearrange(self.project(F.relu(h)), "b n (l g) -> b n l g", l=self.cfg.layers)

    def _add_frames(self, y: Tensor, bias: Tensor, offset: int) -> Tensor:
        """(B, T, 2R) + (B, N, 2R) broadcast over each frame's steps; the chunk starts `offset` steps into a frame."""
        if bias.shape[1] == 1 and self.condition is None:
            return y + bias
        hop, steps = self.cfg.hop, y.shape[1]
        frames = -(-(offset + steps) // hop)
        if bias.shape[1] != frames:
            raise ValueError(
                f"{steps} steps from offset {offset} in a frame of {hop} steps lie in {frames} frames, "
                f"but cond has {bias.shape[1]}"
            )
        if offset == 0 and steps == frames * hop:
            by_frame = rearrange(y, "b (n hop) g -> b n hop g", hop=hop) + rearrange(bias, "b n g -> b n 1 g")
            return rearrange(by_frame, "b n hop g -> b (n hop) g")
        return y + bias.repeat_interleave(hop, dim=1)[:, offset : offset + steps]


def gate(y: Tensor) -> Tensor:
    """(B, T, 2R) -> (B, T, R): tanh of the first half times the sigmoid of the second (arXiv 1609.03499, eq. 2)."""
    filter_, gate_ = y.chunk(2, dim=-1)
    # sigmoid(s) = (1 + tanh(s / 2)) / 2: tanh is five times as fast on a CPU in PyTorch
    return torch.tanh(filter_) * torch.add(0.5, torch.tanh(gate_ * 0.5), alpha=0.5)
