"""Prediction of the next frame's codes from the last frames' codes and the actions, with a PixelCNN.

Van den Oord et al., arXiv 1711.00937, section 4.3: frames are imagined purely in the latent space of a trained image
model; only its decoder maps codes to pixels.

Shapes: B batch, T frames, N context frames, h x w positions, K codes, C channels, A dimension of the action vector.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vqaudio.images.pixelcnn import PixelCNN, PixelCNNConfig, gate
from vqaudio.nn.linear import Linear
from vqaudio.nn.quantizer_protocol import check_codes


@dataclass(frozen=True)
class ContextEncoderConfig:
    """Architecture of the encoder of the context frames."""

    code_dim: int = 32
    """dimension of the embedding of a code"""
    channels: int = 64
    """C, channels of its layers"""
    layers: int = 4
    """number of gated residual layers"""
    kernel_size: int = 3
    """kernel size, odd"""
    dilations: tuple[int, ...] = (1, 2)
    """dilations of the layers, repeated"""

    def __post_init__(self) -> None:
        for name in ("code_dim", "channels", "layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd and at least 1, got {self.kernel_size}")
        if not self.dilations or min(self.dilations) < 1:
            raise ValueError(f"dilations must all be at least 1, got {self.dilations}")


@dataclass(frozen=True)
class VideoPriorConfig:
    """Options of a video prior. The recipe sets everything except `context`, `action_dim`, `past` and `net`."""

    map_shape: tuple[int, ...] = (21, 21)
    """(h, w) of the code map of a frame; set by the recipe"""
    actions: tuple[str, ...] = ("left", "right", "forward")
    """names of the actions; set by the recipe"""
    model: str = ""
    """fingerprint of the model whose codes are modelled; set by the recipe"""
    context: int = 4
    """N, number of context frames"""
    action_dim: int = 32
    """A, dimension of the vector of the actions, which enters every layer"""
    past: ContextEncoderConfig = field(default_factory=ContextEncoderConfig)
    """encoder of the context frames"""
    net: PixelCNNConfig = field(default_factory=PixelCNNConfig)
    """PixelCNN over the next frame; its conditions are derived from the other options"""

    def __post_init__(self) -> None:
        if len(self.map_shape) != 2 or min(self.map_shape) < 1:
            raise ValueError(f"map_shape must be two numbers of at least 1, got {self.map_shape}")
        if not self.actions or len(set(self.actions)) < len(self.actions):
            raise ValueError(f"actions must be different names, at least one, got {self.actions}")
        if self.context < 1 or self.action_dim < 1:
            raise ValueError(f"context and action_dim must be at least 1, got {self.context} and {self.action_dim}")
        conditions = {"cond_dim": self.action_dim, "cond_map_channels": self.past.channels}
        object.__setattr__(self, "net", replace(self.net, num_maps=1, num_labels=0, **conditions))


class ContextLayer(nn.Module):
    """A gated residual layer over the positions of a frame; the actions enter it."""

    def __init__(self, cfg: ContextEncoderConfig, dilation: int, action_dim: int):
        super().__init__()
        c = cfg.channels
        padding = cfg.kernel_size // 2 * dilation
        self.conv = nn.Conv2d(c, 2 * c, cfg.kernel_size, padding=padding, dilation=dilation)
        self.action = Linear(action_dim, 2 * c)
        self.out = nn.Conv2d(c, c, 1)

    def forward(self, x: Tensor, action: Tensor) -> Tensor:
        """(B, C, h, w), (B, A) -> (B, C, h, w)."""
        return x + self.out(gate(self.conv(x) + self.action(action)[..., None, None]))


class ContextEncoder(nn.Module):
    """Codes of the context frames -> features of every position of the next frame.

    The frames are adjacent channels: each layer sees all of them, and positions all around.
    """

    def __init__(self, cfg: VideoPriorConfig):
        super().__init__()
        own = cfg.past
        self.embed = nn.Embedding(cfg.net.codebook_size, own.code_dim)
        self.into = nn.Conv2d(cfg.context * own.code_dim, own.channels, own.kernel_size, padding=own.kernel_size // 2)
        dilations = (own.dilations * own.layers)[: own.layers]
        self.layers = nn.ModuleList(ContextLayer(own, dilation, cfg.action_dim) for dilation in dilations)

    def forward(self, codes: Tensor, action: Tensor) -> Tensor:
        """(B, N, h, w) int64, (B, A) -> (B, C, h, w)."""
        x = self.into(rearrange(self.embed(codes), "b n h w d -> b (n d) h w"))
        for layer in self.layers:
            x = layer(x, action)
        return x


class VideoPrior(nn.Module):
    """The codes of a frame given those of the N frames before it and the N actions that lead from each to the next."""

    def __init__(self, cfg: VideoPriorConfig):
        super().__init__()
        self.cfg = cfg
        # an embedding for every action at every position of the window
        self.actions = nn.Embedding(cfg.context * len(cfg.actions), cfg.action_dim)
        self.past = ContextEncoder(cfg)
        self.net = PixelCNN(cfg.net)

    def forward(
        self, codes: Tensor, actions: Tensor, context_codes: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(B, T, h, w) int64, (B, T - 1) int64 -> loss () in nats per code of the frames N to T - 1, logs.

        context_codes: the codes that the context network reads, (B, T, h, w), such as with noise; default: `codes`.
        """
        loss = self.nll(codes, actions, context_codes).mean() / math.prod(self.cfg.map_shape)
        return loss, {"bits_per_code": loss.detach() / math.log(2)}

    def nll(self, codes: Tensor, actions: Tensor, context_codes: Tensor | None = None) -> Tensor:
        """(B, T, h, w), (B, T - 1) -> negative log-likelihood in nats of each frame that has a context, (B, T - N)."""
        logits = self.logits(codes, actions, context_codes)
        target = codes[:, self.cfg.context :]
        return F.cross_entropy(logits.movedim(2, 1).float(), target, reduction="none").sum((2, 3))

    def logits(self, codes: Tensor, actions: Tensor, context_codes: Tensor | None = None) -> Tensor:
        """(B, T, h, w), (B, T - 1) -> logits (B, T - N, K, h, w) of the frames N to T - 1.

        Those of a position depend on the N frames and actions before and, within the frame, on the positions before it
        in raster order. Raises ValueError for other shapes, and for codes and actions out of range.
        """
        n = self.cfg.context
        self.check(codes, actions)
        if context_codes is not None and context_codes.shape != codes.shape:
            raise ValueError(
                f"context_codes must have the shape of codes, {tuple(codes.shape)}, got {tuple(context_codes.shape)}"
            )
        windows = (codes if context_codes is None else context_codes).unfold(1, n, 1)[:, :-1]  # (B, T - N, h, w, N)
        past = rearrange(windows, "b t h w n -> (b t) n h w")
        cond, cond_map = self.conditions(past, rearrange(actions.unfold(1, n, 1), "b t n -> (b t) n"))
        logits = self.net(codes[:, n:].flatten(0, 1), cond, None, cond_map)
        return rearrange(logits, "(b t) k h w -> b t k h w", b=len(codes))

    def conditions(self, past: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """N frames (B, N, h, w) and actions (B, N) -> conditions of the PixelCNN: (B, A), (B, C, h, w)."""
        offsets = torch.arange(self.cfg.context, device=actions.device) * len(self.cfg.actions)
        action = self.actions(actions + offsets).sum(1)
        return action, self.past(past, action)

    def check(self, codes: Tensor, actions: Tensor) -> None:
        """Raises ValueError for codes that are not (B, T, h, w), T > N, with actions (B, T - 1), all in range."""
        right = codes.ndim == 4 and tuple(codes.shape[2:]) == tuple(self.cfg.map_shape)
        if not right or codes.shape[1] <= self.cfg.context:
            wanted = ", ".join(map(str, self.cfg.map_shape))
            raise ValueError(
                f"codes must be (B, T, {wanted}) with T above the {self.cfg.context} context frames, got "
                f"{tuple(codes.shape)}"
            )
        wanted = (len(codes), codes.shape[1] - 1)
        if actions.shape != wanted:
            raise ValueError(f"actions must be {wanted}, one between frames, got {tuple(actions.shape)}")
        check_codes(codes, self.cfg.net.codebook_size)
        if actions.numel() and not 0 <= int(actions.min()) <= int(actions.max()) < len(self.cfg.actions):
            raise ValueError(f"actions must lie in 0 to {len(self.cfg.actions) - 1}, got {actions.unique().tolist()}")

    @torch.no_grad()
    def initialise_embeddings(self, codebook: Tensor) -> None:
        """Initialise the embeddings of codes with the codebook (K, D) of the model; D must be `past.code_dim`."""
        self.past.embed.weight.copy_(codebook / codebook.std())  # unit variance, as embeddings have

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return self.actions.weight.device
