"""An autoregressive prior over the codes of speech.

Shapes: B batch, N codes of an utterance, P codes of a prompt.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vqaudio.fingerprint import CachedFingerprint, FingerprintFields, config_facts, merge_facts
from vqaudio.nn.wavenet import WaveNet, WaveNetConfig
from vqaudio.sampling.backends import generate
from vqaudio.sampling.config import SamplingConfig, SamplingOptions
from vqaudio.sampling.logits import Generators
from vqaudio.speech.speakers import speaker_id
from vqaudio.torch_defaults import with_own_defaults


@dataclass(frozen=True)
class CodePriorConfig:
    """Options of a prior over speech codes. A recipe fills in everything that follows from the tokenizer."""

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
    """names of the speakers that it is conditioned on; a recipe fills them in"""
    model: str = ""
    """fingerprint of the tokenizer; a recipe fills it in"""
    frame_rate: float = 250.0
    """codes per second; a recipe fills it in"""
    speaker_dropout: float = 0.1
    """fraction of the training crops whose speaker is replaced by the null speaker, so that the prior can also be used
    without a speaker"""
    net: WaveNetConfig = field(
        default_factory=lambda: WaveNetConfig(num_classes=512, layers=16, layers_per_stack=8, residual_channels=96)
    )
    """the WaveNet; its num_speakers follow from `speakers`, and it has no local conditioning"""

    def __post_init__(self) -> None:
        if len(set(self.speakers)) < len(self.speakers):
            raise ValueError(f"speakers must be different names, got {self.speakers}")
        if not 0 <= self.speaker_dropout < 1:
            raise ValueError(f"speaker_dropout must lie in [0, 1), got {self.speaker_dropout}")
        if not 0 < self.frame_rate < math.inf:
            raise ValueError(f"frame_rate must be a finite number above 0, got {self.frame_rate}")
        if self.net.past_noise:
            raise ValueError(
                f"net.past_noise must be 0, because codes have no order in which they are near, got "
                f"{self.net.past_noise}; net.input_dropout is for priors"
            )
        num_speakers = len(self.speakers) + 1 if self.speakers else 0  # the last one is the null speaker
        object.__setattr__(self, "net", replace(self.net, hop=1, cond_dim=0, num_speakers=num_speakers))


class CodePrior(nn.Module):
    """A WaveNet over speech codes, conditioned on the speaker or on the null speaker."""

    def __init__(self, cfg: CodePriorConfig):
        super().__init__()
        self.cfg = cfg
        self.net = WaveNet(cfg.net)
        self._fingerprint = CachedFingerprint()

    def forward(self, codes: Tensor, speaker: Tensor, lengths: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Codes (B, N) int64, speakers (B,), valid codes (B,) -> loss () in nats per code, logs.

        The loss is weighted with the fraction of valid codes, as that of `SpeechVQVAE.forward`.
        """
        if self.training and self.cfg.speakers and self.cfg.speaker_dropout:
            hidden = torch.rand(speaker.shape, device=speaker.device) < self.cfg.speaker_dropout
            speaker = torch.where(hidden, self.null_speaker, speaker)
        loss = self.nll(codes, speaker, lengths).sum() / lengths.sum().clamp(min=1)
        return loss * (lengths.sum() / codes.numel()), {"bits_per_code": loss.detach() / math.log(2)}

    def nll(self, codes: Tensor, speaker: Tensor | None, lengths: Tensor) -> Tensor:
        """Codes (B, N) int64, speakers (B,), valid codes (B,) -> negative log-likelihood of each utterance in nats."""
        logits, _ = self.net(self.net.shift(codes), None, speaker if self.cfg.speakers else None)
        losses = F.cross_entropy(logits.float(), codes, reduction="none")
        return (losses * (torch.arange(codes.shape[1], device=codes.device) < lengths[:, None])).sum(1)

    @property
    def fingerprint(self) -> str:
        """12 hex digits: a hash of configuration and weights."""
        facts = merge_facts(config_facts(self.cfg), {"net": config_facts(self.cfg.net)})
        return self._fingerprint.of(facts, self.state_dict())

    @property
    def null_speaker(self) -> int:
        """Index of the null speaker, for utterances of unknown speakers."""
        return len(self.cfg.speakers)

    @with_own_defaults
    def speaker_ids(self, names: Sequence[str | None]) -> Tensor:
        """Names -> (B,) int64; None is the null speaker. Raises ValueError for an unknown name."""
        ids = [self.null_speaker if n is None else speaker_id(self.cfg.speakers, n, "prior") for n in names]
        return torch.tensor(ids, dtype=torch.long)

    @with_own_defaults
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
