"""Priors over codes: what the codes themselves are likely to be.

Letters: B batch, N codes of an utterance, M codes at each place of an image, h rows, w columns, K codes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vqaudio.fingerprint import CachedFingerprint, FingerprintFields, config_facts
from vqaudio.nn.wavenet import WaveNet, WaveNetConfig
from vqaudio.sampling.backends import generate
from vqaudio.sampling.config import SamplingConfig, SamplingOptions
from vqaudio.sampling.logits import Generators


@dataclass(frozen=True)
class CodePriorConfig:
    """Of a prior over speech codes; what a recipe does not fill in from the tokenizer is in `net`."""

    FINGERPRINT: ClassVar = FingerprintFields(
        always={
            "speakers": "speakers",
            "model": "model",
            "frame_rate": "frame_rate",
            "speaker_dropout": "speaker_dropout",
        },
        nested=("net",),
    )

    speakers: tuple[str, ...] = ()
    """names of the voices that it is conditioned on; a recipe fills them in"""
    model: str = ""
    """fingerprint of the tokenizer whose codes these are; a recipe fills it in"""
    frame_rate: float = 250.0
    """codes per second; a recipe fills it in"""
    speaker_dropout: float = 0.1
    """share of the training chunks whose speaker is hidden: the prior without a speaker comes with it"""
    net: WaveNetConfig = field(
        default_factory=lambda: WaveNetConfig(num_classes=512, layers=16, layers_per_stack=8, residual_channels=96)
    )
    """its speakers follow from the rest; it has no local conditioning"""

    def __post_init__(self) -> None:
        if len(set(self.speakers)) < len(self.speakers):
            raise ValueError(f"speakers must be different names, got {self.speakers}")
        if not 0 <= self.speaker_dropout < 1 or not self.frame_rate > 0:
            raise ValueError(f"speaker_dropout must lie in [0, 1) and frame_rate be above 0, got {self}")
        heard = len(self.speakers) + 1 if self.speakers else 0  # the last one is nobody
        object.__setattr__(self, "net", replace(self.net, hop=1, cond_dim=0, num_speakers=heard))


class CodePrior(nn.Module):
    """A WaveNet over speech codes: how likely is what is said, by a speaker or by anybody."""

    def __init__(self, cfg: CodePriorConfig):
        super().__init__()
        self.cfg = cfg
        self.net = WaveNet(cfg.net)
        self._fingerprint = CachedFingerprint()

    def forward(self, codes: Tensor, speaker: Tensor, lengths: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """(B, N) int64, (B,), valid codes (B,) -> loss () in nats per code, weighted with the valid share, logs."""
        if self.training and self.cfg.speakers and self.cfg.speaker_dropout:
            hidden = torch.rand(speaker.shape, device=speaker.device) < self.cfg.speaker_dropout
            speaker = torch.where(hidden, self.null_speaker, speaker)
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
        facts = config_facts(self.cfg) | {"net": config_facts(self.cfg.net)}
        return self._fingerprint.of(facts, self.state_dict())

    @property
    def null_speaker(self) -> int:
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
        return torch.tensor([self.null_speaker if name is None else known[name] for name in names], dtype=torch.long)

    def sample(
        self,
        steps: int,
        speakers: Sequence[str | None],
        prompt: Tensor | None = None,
        sampling: SamplingConfig = SamplingConfig(),
        *,
        generator: Generators | None = None,
        **options: Unpack[SamplingOptions],
    ) -> Tensor:
        """`steps` new codes for each speaker (None: the null speaker), after `prompt` (B, P) -> (B, steps) int64.

        `sampling` and `options` as in `SpeechVQVAE.decode_batch`; `generator` as in `vqaudio.sampling.generate`.
        """
        speaker = self.speaker_ids(speakers).to(self.net.out.weight.device) if self.cfg.speakers else None
        return generate(
            self.net,
            None,
            speaker,
            steps=steps,
            sampling=sampling.override(**options),
            generator=generator,
            streams=len(speakers),
            prompt=prompt,
        )
