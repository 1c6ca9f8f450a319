"""A new voice for a trained model, and not one code of it changed.

Encoder, normaliser and codebook stay as they are, so the fingerprint of the tokens does too, and token files that the
model made before remain its own. What is learned is a row of the speakers' embedding (and the decoder, if asked for).

Letters: S voices that the model has, V new ones.
"""

from __future__ import annotations

import copy
import math
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor, nn
from torch.nn import functional as F

from vqaudio.data.crops import Batch, CropConfig, SpeechCrops, validation_batches
from vqaudio.data.packed import PackedSpeech, pack
from vqaudio.nn.wavenet import WaveNet
from vqaudio.speech.enroll_config import AdaptConfig
from vqaudio.speech.enroll_data import NewSpeakers
from vqaudio.speech.model import SpeechVQVAE
from vqaudio.speech.speaker_bits import bits_by_speaker, quantized_codes
from vqaudio.speech.speakers import check_new_names, with_speakers
from vqaudio.training import FitConfig, TrainingError, fit

HELD_OUT_CROPS, HELD_OUT_SAMPLES = 8, 8192  # of each new speaker: what the figures are measured on
MOST_OTHERS = 16  # old voices that a new one is compared with; with more of them, these are spread evenly over the list


class EnrolledSpeaker(NamedTuple):
    """A new speaker, and what the utterances that were held out cost in bits per sample, teacher-forced."""

    name: str
    seconds: float  # that it was learned from
    scored_seconds: float  # of what was held out, at most: what the figures below were measured on
    nearest: str  # the old voice that says its training speech best
    bits: float  # in its own voice, learned
    bits_before: float  # in the voice that it began as
    bits_mean: float  # in the mean of the old voices, before
    bits_others: float  # in old voices, the average of them
    bits_nearest: float  # in the nearest of them

    @property
    def gap(self) -> float:
        """Bits per sample that are lost when another voice says it; not above 0: its voice was not learned."""
        return self.bits_others - self.bits


class Adapted(NamedTuple):
    """The new model, and what was learned."""

    model: SpeechVQVAE
    voices: tuple[EnrolledSpeaker, ...]


def adapt(
    model: SpeechVQVAE, speech: NewSpeakers, cfg: AdaptConfig | None = None, work: str | Path | None = None
) -> Adapted:
    """A copy of `model` that speaks as `speech`'s speakers too; the model itself is not touched.

    `work`: folder for decoded audio and checkpoints; called again with the same arguments, a run that was interrupted
    continues there. Raises ValueError for a model that cannot speak, and names that it knows, and for a run that
    diverges, AudioError for audio that cannot be decoded. SIGINT and SIGTERM end it as they end `fit`.
    """
    cfg = cfg or AdaptConfig()
    model.check_decodes()
    if work is None:
        with tempfile.TemporaryDirectory() as temporary:
            return adapt(model, speech, cfg, temporary)
    work = Path(work)
    check_new_names(model, speech.speakers)
    grown = with_speakers(model, speech.speakers)  # every new voice the mean of the old
    train = pack(speech.train, work / "train", grown.sample_rate, grown.speakers)
    valid = pack(speech.valid, work / "valid", grown.sample_rate, grown.speakers)
    trials = [_Trial.of(grown, name, train, valid, cfg) for name in speech.speakers]
    old, others = list(range(len(model.speakers))), _spread(len(model.speakers))
    means = [trial.held_out(grown, [trial.id])[0] for trial in trials]
    for trial in trials:
        trial.begin(grown, old)
    starts = [trial.held_out(grown, [trial.id])[0] for trial in trials]

    crops = CropConfig(cfg.crop_samples, cfg.batch_size, cfg.seed, speaker_balance=1.0)
    loader = SpeechCrops(train, crops, grown.cfg.decoder.num_classes)
    _learn(Learner(grown), loader, cfg, cfg.lr, work / "voice")
    if cfg.decoder:
        _learn(Learner(grown, keep=len(old)), loader, cfg, cfg.decoder_lr, work / "decoder")
    grown.eval().requires_grad_(False).to(model.device)
    assert grown.fingerprint == model.fingerprint

    voices = []
    for trial, mean, start in zip(trials, means, starts, strict=True):
        own, nearest, *rest = trial.held_out(grown, [trial.id, trial.nearest, *others])
        voices.append(
            EnrolledSpeaker(
                grown.speakers[trial.id],
                _seconds(train, trial.id),
                min(_seconds(valid, trial.id), HELD_OUT_CROPS * HELD_OUT_SAMPLES / grown.sample_rate),
                grown.speakers[trial.nearest],
                own,
                start,
                mean,
                sum(rest) / len(rest),
                nearest,
            )
        )
    return Adapted(grown, tuple(voices))


class Learner(nn.Module):
    """What `fit` sees of a model that learns voices: codes without a gradient, and the decoder's loss.

    Without `keep` its embedding of speakers alone is trained, of which only the rows in the batches move. With it the
    whole decoder is, and what it says in the first `keep` voices is held to what it said before, on the same speech
    in one of them at random (knowledge distillation, Hinton et al., arXiv 1503.02531; the old speakers' own speech
    need not be there).
    """

    def __init__(self, model: SpeechVQVAE, *, keep: int | None = None):
        super().__init__()
        self.model, self.keep = model.requires_grad_(False), keep
        self.before = None if keep is None else copy.deepcopy(model.decoder)
        learns = model.decoder.speaker if keep is None else model.decoder
        assert learns is not None
        learns.requires_grad_(True)
        self.train()

    def train(self, mode: bool = True) -> Learner:
        """The model stays in evaluation mode: no noise, and a codebook that neither moves nor restarts codes."""
        super().train(mode)
        for module in (self.model, self.before):
            if module is not None:
                module.eval()
        return self

    def forward(
        self, wav: Tensor, target: Tensor, speaker: Tensor, lengths: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """As SpeechVQVAE's; the loss is the negative log-likelihood, and what old voices lose where they are kept."""
        z_q = quantized_codes(self.model, wav)
        loss = self.model.nll(target, z_q, speaker, lengths)
        logs = {"bits_per_sample": loss.detach() / math.log(2)}
        if self.before is not None and self.keep is not None:
            old = torch.randint(self.keep, speaker.shape, device=speaker.device)  # `fit` seeds every step
            drift = self.drift(self.before, target, z_q, old, lengths)
            logs["drift"] = drift.detach() / math.log(2)
            loss = loss + drift
        return loss * (lengths.sum() / target.numel()), logs

    def drift(self, before: WaveNet, target: Tensor, z_q: Tensor, speaker: Tensor, lengths: Tensor) -> Tensor:
        """(B, T), (B, D, N), (B,), (B,) -> (): divergence in nats per valid sample from what was said before."""
        model, inputs = self.model, self.model.decoder.shift(target)
        with torch.no_grad():
            said = before(inputs, model.conditioned(z_q, speaker, before), speaker)
            expected = said[0].float().log_softmax(1)  # (B, Q, T)
        found = model.decoder(inputs, model.conditioned(z_q, speaker), speaker)[0].float().log_softmax(1)
        divergence = F.kl_div(found, expected, log_target=True, reduction="none").sum(1)  # (B, T)
        valid = torch.arange(target.shape[1], device=target.device) < lengths[:, None]
        return (divergence * valid).sum() / lengths.sum()


def _learn(learner: Learner, loader: SpeechCrops, cfg: AdaptConfig, lr: float, run: Path) -> None:
    """`fit`, on the device that the model is on; its errors in words of this verb."""
    PartialState(cpu=learner.model.device.type == "cpu")  # or it would take a GPU that is there
    short = FitConfig(
        steps=cfg.steps, lr=lr, lr_warmup_steps=10, ema_decay=0.95, log_every=50, save_every=200, keep_checkpoints=1
    )
    try:
        fit(learner, loader, replace(short, seed=cfg.seed), run, facts={"adapt": asdict(cfg)})
    except TrainingError as error:
        advice = ", try a smaller --lr or --decoder-lr" if "diverged" in str(error) else ""
        raise ValueError(f"{str(error).partition(';')[0]}; no voice was learned{advice}") from error


@dataclass
class _Trial:
    """One new speaker's crops, and its nearest old voice."""

    id: int
    train: list[Batch]
    valid: list[Batch]
    nearest: int = 0

    @classmethod
    def of(cls, model: SpeechVQVAE, name: str, train: PackedSpeech, valid: PackedSpeech, cfg: AdaptConfig) -> _Trial:
        id, classes = model.speaker_id(name), model.cfg.decoder.num_classes
        some = validation_batches(_only(train, id), cfg.crop_samples, HELD_OUT_CROPS, 1, num_classes=classes)
        held_out = validation_batches(_only(valid, id), HELD_OUT_SAMPLES, HELD_OUT_CROPS, 1, num_classes=classes)
        return cls(id, some, held_out)

    @torch.no_grad()
    def begin(self, model: SpeechVQVAE, old: Sequence[int]) -> None:
        """Its voice, the mean of the old ones so far, becomes the nearest of them where that says its speech better."""
        bits = bits_by_speaker(model, self.train, [*old, self.id])
        self.nearest = min(old, key=bits.__getitem__)
        if bits[self.nearest] < bits[-1]:
            weight = _embedding(model)
            weight[self.id] = weight[self.nearest]

    def held_out(self, model: SpeechVQVAE, voices: Sequence[int]) -> list[float]:
        """Bits per sample of what was held out, said by each of `voices`."""
        return bits_by_speaker(model, self.valid, voices)


def _embedding(model: SpeechVQVAE) -> Tensor:
    """(S, H) of the decoder."""
    assert model.decoder.speaker is not None
    return model.decoder.speaker.weight


def _only(packed: PackedSpeech, speaker: int) -> PackedSpeech:
    """One speaker's utterances."""
    own = np.flatnonzero(packed.speaker_ids == speaker)
    ids = tuple(packed.utterance_ids[i] for i in own)
    at = {"offsets": packed.offsets[own], "lengths": packed.lengths[own], "speaker_ids": packed.speaker_ids[own]}
    return replace(packed, utterance_ids=ids, **at)


def _seconds(packed: PackedSpeech, speaker: int) -> float:
    return float(packed.lengths[packed.speaker_ids == speaker].sum() / packed.sample_rate)


def _spread(count: int) -> list[int]:
    """0 to count - 1, or MOST_OTHERS of them in equal distances."""
    return [i * count // min(count, MOST_OTHERS) for i in range(min(count, MOST_OTHERS))]
