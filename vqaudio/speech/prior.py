"""Priors over codes: what the codes themselves are likely to be.

Letters: B batch, N codes of an utterance, M codes at each place of an image, h rows, w columns, K codes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TypedDict, Unpack

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vqaudio.config import to_dict
from vqaudio.fingerprint import fingerprint
from vqaudio.images.pixelcnn import PixelCNN, PixelCNNConfig
from vqaudio.images.sampling import generate_map_cached
from vqaudio.nn.wavenet import WaveNet, WaveNetConfig
from vqaudio.sampling.backends import generate
from vqaudio.sampling.logits import Generators


@dataclass(frozen=True)
class ImagePriorConfig:
    """What a recipe does not fill in from the codes is in `net`."""

    map_shape: tuple[int, ...] = (1, 8, 8)
    """(M, h, w) of the maps; a recipe fills it in"""
    classes: tuple[str, ...] = ()
    """names of the classes that it is conditioned on; a recipe fills them in"""
    model: str = ""
    """fingerprint of the model whose codes these are; a recipe fills it in"""
    net: PixelCNNConfig = field(default_factory=PixelCNNConfig)
    """its maps and labels follow from the rest"""

    def __post_init__(self) -> None:
        if len(self.map_shape) != 3 or min(self.map_shape) < 1:
            raise ValueError(f"map_shape must be three numbers of at least 1, got {self.map_shape}")
        if len(set(self.classes)) < len(self.classes):
            raise ValueError(f"classes must be different names, got {self.classes}")
        net = replace(self.net, maps=self.map_shape[0], labels=len(self.classes))
        object.__setattr__(self, "net", net)


class ImagePrior(nn.Module):
    """A gated PixelCNN over the codes of an image, all codes of a place one after the other."""

    def __init__(self, cfg: ImagePriorConfig):
        super().__init__()
        self.cfg = cfg
        self.net = PixelCNN(cfg.net)

    def forward(self, codes: Tensor, label: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """(B, M, h, w) int64, classes (B,) -> loss () in nats per code, logs."""
        loss = self.nll(codes, label).mean() / codes[0].numel()
        return loss, {"bits_per_code": loss.detach() / math.log(2)}

    def nll(self, codes: Tensor, label: Tensor | None = None) -> Tensor:
        """(B, M, h, w) int64, classes (B,) -> negative log-likelihood of each map in nats, (B,)."""
        return map_nll(self.net, codes, None, label)

    def sample(self, count: int = 1, label: Tensor | None = None, **options: Unpack[DrawOptions]) -> Tensor:
        """Classes (B,), or `count` for B where there are none -> codes (B, M, h, w) int64."""
        return draw_maps(self.net, self.cfg.map_shape, None, label, count, **options)

    def label_id(self, name: str) -> int:
        """Index of a class. Raises ValueError for a name that this prior does not know."""
        if name not in self.cfg.classes:
            known = ", ".join(self.cfg.classes) or "none: it was trained without classes"
            raise ValueError(f"class {name!r} is not in this prior; it knows {known}")
        return self.cfg.classes.index(name)


@dataclass(frozen=True)
class CodePriorConfig:
    """Of a prior over speech codes; what a recipe does not fill in from the tokenizer is in `net`."""

    speakers: tuple[str, ...] = ()
    """names of the voices that it is conditioned on; a recipe fills them in"""
    model: str = ""
    """fingerprint of the tokenizer whose codes these are; a recipe fills it in"""
    frame_rate: float = 250.0
    """codes per second; a recipe fills it in"""
    speaker_dropout: float = 0.1
    """share of the training chunks whose speaker is hidden: the prior without a speaker comes with it"""
    net: WaveNetConfig = field(default_factory=lambda: WaveNetConfig(classes=512, layers=16, cycle=8, residual=96))
    """its speakers follow from the rest; it has no local conditioning"""

    def __post_init__(self) -> None:
        if len(set(self.speakers)) < len(self.speakers):
            raise ValueError(f"speakers must be different names, got {self.speakers}")
        if not 0 <= self.speaker_dropout < 1 or not self.frame_rate > 0:
            raise ValueError(f"speaker_dropout must lie in [0, 1) and frame_rate be above 0, got {self}")
        heard = len(self.speakers) + 1 if self.speakers else 0  # the last one is nobody
        object.__setattr__(self, "net", replace(self.net, hop=1, condition=0, speakers=heard))


class CodePrior(nn.Module):
    """A WaveNet over speech codes: how likely is what is said, by a speaker or by anybody."""

    def __init__(self, cfg: CodePriorConfig):
        super().__init__()
        self.cfg = cfg
        self.net = WaveNet(cfg.net)

    def forward(self, codes: Tensor, speaker: Tensor, lengths: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """(B, N) int64, (B,), valid codes (B,) -> loss () in nats per code, weighted with the valid share, logs."""
        if self.training and self.cfg.speakers and self.cfg.speaker_dropout:
            hidden = torch.rand(speaker.shape, device=speaker.device) < self.cfg.speaker_dropout
            speaker = torch.where(hidden, self.nobody, speaker)
        loss = self.nll(codes, speaker, lengths).sum() / lengths.sum().clamp(min=1)
        return loss * (lengths.sum() / codes.numel()), {"bits_per_code": loss.detach() / math.log(2)}

    def nll(self, codes: Tensor, speaker: Tensor | None, lengths: Tensor) -> Tensor:
        """(B, N) int64, (B,), valid codes (B,) -> nats of each row, (B,); `nobody` is the speaker who is not known."""
        logits, _ = self.net(self.net.shift(codes), None, speaker if self.cfg.speakers else None)
        losses = F.cross_entropy(logits.float(), codes, reduction="none")
        return (losses * (torch.arange(codes.shape[1], device=codes.device) < lengths[:, None])).sum(1)

    @property
    def fingerprint(self) -> str:
        """A short name for what decides its probabilities: its configuration and its weights."""
        return fingerprint(to_dict(self.cfg), self.state_dict())

    @property
    def nobody(self) -> int:
        """Index of the speaker who is not known."""
        return len(self.cfg.speakers)

    def speaker_ids(self, names: Sequence[str | None]) -> Tensor:
        """Names -> (B,) int64; None is nobody. Raises ValueError for a name that this prior does not know."""
        known = {name: i for i, name in enumerate(self.cfg.speakers)}
        for name in names:
            if name is not None and name not in known:
                shown = ", ".join(self.cfg.speakers[:12]) + (", ..." if len(known) > 12 else "")
                raise ValueError(
                    f"speaker {name!r} is not in this prior; it knows {len(known)}: {shown} (vqaudio info P lists them)"
                )
        return torch.tensor([self.nobody if name is None else known[name] for name in names], dtype=torch.long)

    def sample(
        self, steps: int, speakers: Sequence[str | None], prompt: Tensor | None = None, **options: Unpack[DrawOptions]
    ) -> Tensor:
        """`steps` new codes for each speaker's name (None: nobody), after `prompt` (B, P) -> (B, steps) int64."""
        speaker = self.speaker_ids(speakers).to(self.net.out.weight.device) if self.cfg.speakers else None
        return generate(self.net, None, speaker, steps=steps, streams=len(speakers), prompt=prompt, **options)


def map_nll(net: PixelCNN, codes: Tensor, cond: Tensor | None, label: Tensor | None) -> Tensor:
    """(B, M, h, w), (B, D), (B,) -> nats of each map (B,); the codes of a place stand side by side in their row."""
    rows = rearrange(codes, "b m h w -> b h (w m)")
    return F.cross_entropy(net(rows, cond, label).float(), rows, reduction="none").sum((1, 2))


class DrawOptions(TypedDict, total=False):
    """How codes are drawn."""

    temperature: float
    top_k: int | None
    generator: Generators


def draw_maps(
    net: PixelCNN,
    map_shape: tuple[int, ...],
    cond: Tensor | None,
    label: Tensor | None,
    count: int,
    **options: Unpack[DrawOptions],
) -> Tensor:
    """(B, D), (B,), or `count` for B where neither is given -> codes (B, M, h, w) int64, drawn one after the other."""
    maps, height, width = map_shape
    rows = generate_map_cached(net, height, width * maps, cond, label, count=count, **options)
    return rearrange(rows, "b h (w m) -> b m h w", m=maps)
