"""Adds speakers to a trained model without changing a single code.

Encoder, normaliser and codebook stay frozen, so the fingerprint stays the same and existing token files remain valid.
Trained are the new rows of the speaker embedding and, optionally, the decoder.

Letters: S speakers of the original model, V new speakers, B crops, T samples, D code width, N frames, Q output classes,
H channels of a speaker embedding.
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
from vqaudio.speech.acoustic import decoder_conditioning, quantized_vectors
from vqaudio.speech.enroll_config import AdaptConfig
from vqaudio.speech.enroll_data import NewSpeakers
from vqaudio.speech.frontend_init import evenly_spaced
from vqaudio.speech.model import SpeechVQVAE
from vqaudio.speech.pitch_init import initialise_pitch
from vqaudio.speech.speaker_bits import bits_by_speaker
from vqaudio.speech.speakers import check_new_names, with_speakers
from vqaudio.training import FitConfig, TrainingError, fit

EVAL_CROPS, EVAL_SAMPLES = 8, 8192  # number and length, in samples, of each new speaker's evaluation crops
MAX_COMPARED_SPEAKERS = 16  # original speakers that a new one is compared with, evenly spaced in the speaker list


class EnrolledSpeaker(NamedTuple):
    """A new speaker, with teacher-forced cross-entropies in bits per sample on its held-out utterances."""

    name: str
    seconds: float  # of training speech
    held_out_seconds: float  # of held-out speech that the cross-entropies are measured on, at most
    nearest_speaker: str  # original speaker whose embedding gives the lowest cross-entropy on the training speech
    bits: float  # with the trained embedding
    bits_initial: float  # with the embedding that training started from
    bits_mean_embedding: float  # with the mean of the original embeddings, before training
    bits_other_speakers: float  # with the embeddings of original speakers, averaged over them
    bits_nearest_speaker: float  # with the embedding of the nearest original speaker

    @property
    def conditioning_gap(self) -> float:
        """Bits per sample by which other speakers' embeddings are worse; not above 0 if enrollment has failed."""
        return self.bits_other_speakers - self.bits


class Adapted(NamedTuple):
    """The new model, and the speakers that were added to it."""

    model: SpeechVQVAE
    speakers: tuple[EnrolledSpeaker, ...]


def adapt(
    model: SpeechVQVAE, speech: NewSpeakers, cfg: AdaptConfig | None = None, work: str | Path | None = None
) -> Adapted:
    """A copy of `model` with the speakers of `speech` added; `model` itself is not modified.

    `work` is a folder for decoded audio and training checkpoints. If a run was interrupted, the same call continues it
    there. Raises ValueError for a model that cannot decode, for speaker names that the model already has and for a run
    that diverges, and AudioError for audio that cannot be decoded. Signals end it as they end `fit`.
    """
    cfg = cfg or AdaptConfig()
    model.check_vocoder("wavenet")  # which is trained, whatever the default vocoder is
    if work is None:
        with tempfile.TemporaryDirectory() as temporary:
            return adapt(model, speech, cfg, temporary)
    work = Path(work)
    check_new_names(model, speech.speakers)
    adapted = with_speakers(model, speech.speakers)  # new embeddings start at the mean of the original ones
    train = pack(speech.train, work / "train", adapted.sample_rate, adapted.speakers)
    valid = pack(speech.valid, work / "valid", adapted.sample_rate, adapted.speakers)
    PartialState(cpu=model.device.type == "cpu")  # before anything else makes it: it would choose an available GPU
    initialise_pitch(adapted, train)
    crops = [_EnrollmentCrops.of(adapted, name, train, valid, cfg) for name in speech.speakers]
    original = list(range(len(model.speakers)))
    bits_mean = [each.evaluate(adapted, [each.id])[0] for each in crops]
    for each in crops:
        each.initialise(adapted, original)
    bits_initial = [each.evaluate(adapted, [each.id])[0] for each in crops]

    crop_cfg = CropConfig(cfg.crop_samples, cfg.batch_size, cfg.seed, speaker_balance=1.0)
    loader = SpeechCrops(train, crop_cfg, adapted.cfg.decoder.num_classes)
    _train(EnrollmentObjective(adapted), loader, cfg, cfg.lr, work / "embedding")
    if cfg.decoder:
        objective = EnrollmentObjective(adapted, distilled_speakers=len(original))
        _train(objective, loader, cfg, cfg.decoder_lr, work / "decoder")
    adapted.eval().requires_grad_(False).to(model.device)
    assert adapted.fingerprint == model.fingerprint

    compared, speakers = evenly_spaced(len(original), MAX_COMPARED_SPEAKERS), []
    for each, mean, initial in zip(crops, bits_mean, bits_initial, strict=True):
        trained, nearest, *others = each.evaluate(adapted, [each.id, each.nearest, *compared])
        seconds = min(_seconds(valid, each.id), EVAL_CROPS * EVAL_SAMPLES / adapted.sample_rate)
        speakers.append(
            EnrolledSpeaker(
                name=adapted.speakers[each.id],
                seconds=_seconds(train, each.id),
                held_out_seconds=seconds,
                nearest_speaker=adapted.speakers[each.nearest],
                bits=trained,
                bits_initial=initial,
                bits_mean_embedding=mean,
                bits_other_speakers=sum(others) / len(others),
                bits_nearest_speaker=nearest,
            )
        )
    return Adapted(adapted, tuple(speakers))


class EnrollmentObjective(nn.Module):
    """The module that `fit` trains to enroll speakers: frozen encoder and codebook, and the decoder's loss.

    Without `distilled_speakers` only the speaker embedding is trained, and of it only the rows that occur in the
    batches change. With it the whole decoder is trained, and its output distributions for the first
    `distilled_speakers` speakers are held to those of the original decoder by knowledge distillation (Hinton et al.,
    arXiv 1503.02531). The distillation uses the new speakers' speech with a random original speaker, so recordings of
    the original speakers are not needed.
    """

    def __init__(self, model: SpeechVQVAE, *, distilled_speakers: int | None = None):
        super().__init__()
        self.model, self.distilled_speakers = model.requires_grad_(False), distilled_speakers
        self.teacher = None if distilled_speakers is None else copy.deepcopy(model.decoder)
        trained = model.decoder.speaker if distilled_speakers is None else model.decoder
        assert trained is not None
        trained.requires_grad_(True)
        self.train()

    def train(self, mode: bool = True) -> EnrollmentObjective:
        """The model stays in evaluation mode: no noise, no codebook updates and no restarts of codes."""
        super().train(mode)
        for module in (self.model, self.teacher):
            if module is not None:
                module.eval()
        return self

    def forward(
        self, wav: Tensor, target: Tensor, speaker: Tensor, lengths: Tensor, audio: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(B, 1, T), (B, T) int64, (B,), (B,), (B, T) -> (loss (), logs), as of SpeechVQVAE; `audio` is not used.

        The loss is the negative log-likelihood in nats per sample, plus the distillation loss if there is a teacher.
        """
        z_q = quantized_vectors(self.model, wav)
        loss = self.model.nll(target, z_q, speaker, lengths)
        logs = {"bits_per_sample": loss.detach() / math.log(2)}
        if self.teacher is not None and self.distilled_speakers is not None:
            original = torch.randint(self.distilled_speakers, speaker.shape, device=speaker.device)  # `fit` seeds it
            distillation = self.distillation_loss(self.teacher, target, z_q, original, lengths)
            logs["distillation_bits"] = distillation.detach() / math.log(2)
            loss = loss + distillation
        return loss * (lengths.sum() / target.numel()), logs

    def distillation_loss(
        self, teacher: WaveNet, target: Tensor, z_q: Tensor, speaker: Tensor, lengths: Tensor
    ) -> Tensor:
        """(B, T), (B, D, N), (B,), (B,) -> (): KL(teacher || decoder), in nats per valid sample."""
        model, inputs = self.model, self.model.decoder.shift(target)
        with torch.no_grad():
            read = decoder_conditioning(model, z_q, speaker, inputs.shape[1], teacher)
            logits = teacher(inputs, read, speaker)[0]
            expected = logits.float().log_softmax(1)  # (B, Q, T)
        read = decoder_conditioning(model, z_q, speaker, inputs.shape[1])
        predicted = model.decoder(inputs, read, speaker)[0].float().log_softmax(1)
        divergence = F.kl_div(predicted, expected, log_target=True, reduction="none").sum(1)  # (B, T)
        valid = torch.arange(target.shape[1], device=target.device) < lengths[:, None]
        return (divergence * valid).sum() / lengths.sum()


def _train(objective: EnrollmentObjective, loader: SpeechCrops, cfg: AdaptConfig, lr: float, run: Path) -> None:
    """Calls `fit`; its errors are raised as ValueError that names the flags of `adapt`."""
    short = FitConfig(
        steps=cfg.steps, lr=lr, lr_warmup_steps=10, ema_decay=0.95, log_every=50, save_every=200, keep_checkpoints=1
    )
    try:
        fit(objective, loader, replace(short, seed=cfg.seed), run, facts={"adapt": asdict(cfg)})
    except TrainingError as error:
        advice = ", try a smaller --lr or --decoder-lr" if "diverged" in str(error) else ""
        raise ValueError(f"{str(error).partition(';')[0]}; no speaker was added{advice}") from error


@dataclass
class _EnrollmentCrops:
    """Evaluation crops of one new speaker's training and held-out speech, and its nearest original speaker."""

    id: int
    train: list[Batch]
    valid: list[Batch]
    nearest: int = 0

    @classmethod
    def of(
        cls, model: SpeechVQVAE, name: str, train: PackedSpeech, valid: PackedSpeech, cfg: AdaptConfig
    ) -> _EnrollmentCrops:
        id, classes = model.speaker_id(name), model.cfg.decoder.num_classes
        return cls(
            id,
            validation_batches(_only(train, id), cfg.crop_samples, EVAL_CROPS, 1, num_classes=classes),
            validation_batches(_only(valid, id), EVAL_SAMPLES, EVAL_CROPS, 1, num_classes=classes),
        )

    @torch.no_grad()
    def initialise(self, model: SpeechVQVAE, original: Sequence[int]) -> None:
        """Finds the nearest original speaker; its embedding replaces the mean one if its cross-entropy is lower."""
        bits = bits_by_speaker(model, self.train, [*original, self.id])
        self.nearest = min(original, key=bits.__getitem__)
        if bits[self.nearest] < bits[-1]:
            weight = _embedding(model)
            weight[self.id] = weight[self.nearest]

    def evaluate(self, model: SpeechVQVAE, speakers: Sequence[int]) -> list[float]:
        """Cross-entropy of the held-out speech in bits per sample, conditioned on each of `speakers`."""
        return bits_by_speaker(model, self.valid, speakers)


def _embedding(model: SpeechVQVAE) -> Tensor:
    """(S + V, H), the decoder's speaker embedding."""
    assert model.decoder.speaker is not None
    return model.decoder.speaker.weight


def _only(packed: PackedSpeech, speaker: int) -> PackedSpeech:
    """The utterances of one speaker."""
    rows = np.flatnonzero(packed.speaker_ids == speaker)
    ids = tuple(packed.utterance_ids[i] for i in rows)
    index = {"offsets": packed.offsets[rows], "lengths": packed.lengths[rows], "speaker_ids": packed.speaker_ids[rows]}
    return replace(packed, utterance_ids=ids, **index)


def _seconds(packed: PackedSpeech, speaker: int) -> float:
    return float(packed.lengths[packed.speaker_ids == speaker].sum() / packed.sample_rate)
