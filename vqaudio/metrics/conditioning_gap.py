"""Conditioning gap, the check for posterior collapse: how much the decoder uses the codes and the speaker, in bits."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from einops import rearrange, repeat
from torch import Tensor

from vqaudio.metrics.confidence import Estimate, ratio
from vqaudio.nn.modes import check_evaluating
from vqaudio.nn.quantizer import Quantized, perplexity
from vqaudio.speech.acoustic import decoded_target
from vqaudio.speech.losses import resynthesis_losses
from vqaudio.speech.model import SpeechVQVAE

MAX_SAMPLES = 2**16  # in a batch of the decoder: about a gigabyte


class ConditionedNLL(NamedTuple):
    """Negative log-likelihoods of utterances under four conditionings, and their codes."""

    nats: Tensor  # (4, B): given their codes, those of another utterance, the mean code vector, another speaker
    num_samples: Tensor  # (B,)
    num_speakers: int  # different speakers of the utterances
    counts: Tensor  # (K,) frames of each code
    classes: int  # Q


def conditioning_metrics(model: SpeechVQVAE, batches: Iterable[dict[str, Tensor]]) -> dict[str, float]:
    """Batches as in training -> `gap_metrics`, or what fits the stage of the model.

    stage: codes has `unit_metrics` or `spectrum_metrics`, stage: context `spectrum_metrics`, stage: istft
    `resynthesis_metrics`.
    """
    if model.cfg.predicts_units:
        return unit_metrics(model, batches)
    if model.cfg.stage in ("codes", "context"):
        return spectrum_metrics(model, batches)
    if model.cfg.stage == "istft":
        return resynthesis_metrics(model, batches)
    return gap_metrics(conditioned_nll(model, batches))


@torch.no_grad()
def spectrum_metrics(model: SpeechVQVAE, batches: Iterable[dict[str, Tensor]]) -> dict[str, float]:
    """Batches as in training -> how well codes and speaker predict the spectrum, and how much each contributes.

    spectrum_error: mean squared error of standardised log-mel spectra, whose variance is about 1. conditioning_gap and
    speaker_gap: its increase with the codes, or the speaker, of the batch's next utterance. perplexity, entropy, usage,
    dead_codes and codebook_size as in `gap_metrics`. With `pitch`, also voicing_error, the fraction of frames with the
    wrong voicing, and pitch_error, the mean squared error of F0 in octaves squared, over voiced frames. Raises as
    `conditioned_nll` does.
    """
    check_evaluating(model)
    errors, speakers = torch.zeros(3, dtype=torch.float64), set[int]()
    pitch = torch.zeros(3, dtype=torch.float64)  # frames with the wrong voicing, squared error, voiced frames
    counts = torch.zeros(model.codebook_size, device=model.device)
    for cpu_batch in batches:
        batch = {name: value.to(model.device) for name, value in cpu_batch.items()}
        speaker, lengths, audio = batch["speaker"], batch["lengths"], _audio(model, batch)
        _check_batch(lengths)
        speakers |= set(speaker.tolist())
        _, q = _quantized(model, batch)
        mask = model.valid_frames(lengths, q.codes.shape[1])
        counts += torch.bincount(q.codes[mask], minlength=len(counts))
        for i, (z_q, who) in enumerate(((q.z_q, speaker), (q.z_q.roll(1, 0), speaker), (q.z_q, speaker.roll(1, 0)))):
            cond = model.conditioned(z_q, who)
            errors[i] += model.spectrum_error_of_each(audio, cond, lengths).double().sum().cpu()
            if i == 0 and model.pitch is not None:
                pitch += model.pitch.errors(cond, model.known(speaker), audio, mask)
    if not counts.sum():
        raise ValueError("there is nothing to evaluate: no batch")
    true, other_codes, other_speakers = (errors / counts.sum().item()).tolist()
    of_speaker = {"speaker_gap": other_speakers - true} if model.speakers and len(speakers) > 1 else {}
    metrics = {"spectrum_error": true, "conditioning_gap": other_codes - true, **of_speaker}
    if model.pitch is not None:
        wrong, squared_error, voiced = pitch.tolist()
        frames = counts.sum().item() * (model.hop // model.cfg.spectrum.hop_length)
        metrics |= {"voicing_error": wrong / frames, "pitch_error": squared_error / max(1.0, voiced)}
    return metrics | _usage(counts)


@torch.no_grad()
def resynthesis_metrics(model: SpeechVQVAE, batches: Iterable[dict[str, Tensor]]) -> dict[str, float]:
    """Batches as in training -> multi-resolution STFT losses of the vocoder istft, given spectrum and pitch of speech.

    spectral_convergence and log_stft_error (nepers), as of `MultiResolutionSTFT`, and resynthesis_loss, their sum.
    Raises ValueError for no batch; RuntimeError for a model in training mode.
    """
    check_evaluating(model)
    rows: list[Tensor] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # of the noise: the same in every evaluation
        for batch in batches:
            batch = {name: value.to(model.device) for name, value in batch.items()}
            found = resynthesis_losses(model, _audio(model, batch), batch["speaker"])
            rows.append(torch.stack(found).double().cpu())
    if not rows:
        raise ValueError("there is nothing to evaluate: no batch")
    convergence, error = torch.stack(rows).mean(0).tolist()
    return {
        "resynthesis_loss": convergence + error,
        "spectral_convergence": convergence,
        "log_stft_error": error,
    }


@torch.no_grad()
def unit_metrics(model: SpeechVQVAE, batches: Iterable[dict[str, Tensor]]) -> dict[str, float]:
    """Batches as in training with target: units -> how well a code predicts what is around it.

    cluster_bits: cross-entropy of a cluster, in bits. cepstrum_error: mean squared error of normalised cepstra, whose
    variance is about 1. unit_loss: both with their weights (the cross-entropy in nats), as in training.
    conditioning_gap and speaker_gap: increase of unit_loss with the codes, or the speaker, of the batch's next
    utterance. As the targets are normalised by speaker, the speaker gap may be 0. spectrum_error, if the model has a
    spectrum head, and perplexity, entropy, usage, dead_codes and codebook_size as in `spectrum_metrics`. Raises as
    `conditioned_nll` does.
    """
    check_evaluating(model)
    cfg, speakers = model.cfg.units, set[int]()
    sums, sizes = torch.zeros(3, 2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    counts, spectrum_error = torch.zeros(model.codebook_size, device=model.device), 0.0
    for cpu_batch in batches:
        batch = {name: value.to(model.device) for name, value in cpu_batch.items()}
        speaker, lengths = batch["speaker"], batch["lengths"]
        _check_batch(lengths)
        speakers |= set(speaker.tolist())
        _, q = _quantized(model, batch)
        mask = model.valid_frames(lengths, q.codes.shape[1])
        counts += torch.bincount(q.codes[mask], minlength=len(counts))
        for i, (z_q, who) in enumerate(((q.z_q, speaker), (q.z_q.roll(1, 0), speaker), (q.z_q, speaker.roll(1, 0)))):
            found = model.unit_losses(z_q, who, mask, batch["units"], batch["cepstra"])
            sums[i] += torch.stack([found.cross_entropy.sum(), found.squared_error.sum()]).double().cpu()
        sizes += torch.stack([found.num_clusters.sum(), found.num_cepstra.sum()]).double().cpu()
        if model.spectrum is not None:
            cond = model.conditioned(q.z_q, speaker)
            spectrum_error += float(model.spectrum_error_of_each(_audio(model, batch), cond, lengths).sum())
    if not sizes.all():
        raise ValueError("there is nothing to evaluate: no batch")
    nats, error = (sums / sizes).T
    loss = cfg.cluster_weight * nats + cfg.cepstrum_weight * error
    true, other_codes, other_speakers = loss.tolist()
    metrics = {"unit_loss": true, "conditioning_gap": other_codes - true}
    metrics |= {"speaker_gap": other_speakers - true} if model.speakers and len(speakers) > 1 else {}
    metrics |= {"cluster_bits": float(nats[0]) / math.log(2), "cepstrum_error": float(error[0])}
    metrics |= {"spectrum_error": spectrum_error / counts.sum().item()} if model.spectrum is not None else {}
    return metrics | _usage(counts)


def _audio(model: SpeechVQVAE, batch: dict[str, Tensor]) -> Tensor:
    """The speech of a batch as in training, (B, T)."""
    return batch["audio"] if "audio" in batch else decoded_target(model, batch["target"], batch["lengths"])


def _quantized(model: SpeechVQVAE, batch: dict[str, Tensor]) -> tuple[Tensor, Quantized]:
    """A batch as in training -> encoder output, Quantized."""
    around = {name: batch[name] for name in ("past", "past_lengths", "future") if name in batch}
    return model.quantize(batch["wav"], batch["lengths"], **around)


def _check_batch(lengths: Tensor) -> None:
    if len(lengths) < 2:
        raise ValueError("a batch must have at least 2 utterances: each is also decoded with the codes of the next one")


def _usage(counts: Tensor) -> dict[str, float]:
    """Frame counts (K,) -> perplexity, entropy, usage, dead_codes, codebook_size."""
    spread, used, codes = perplexity(counts).item(), int((counts > 0).sum()), len(counts)
    return {
        "perplexity": spread,
        "entropy": math.log2(spread),
        "usage": used / codes,
        "dead_codes": codes - used,
        "codebook_size": codes,
    }


@torch.no_grad()
def conditioned_nll(model: SpeechVQVAE, batches: Iterable[dict[str, Tensor]]) -> ConditionedNLL:
    """Batches as in training -> teacher-forced negative log-likelihoods, in evaluation mode and float32.

    Other codes and other speakers are those of the batch's next utterance. Raises ValueError for no batch and for a
    batch of a single utterance; RuntimeError for a model in training mode.
    """
    check_evaluating(model)
    device = model.device
    nats, num_samples, speakers = [], [], set[int]()
    counts = torch.zeros(model.codebook_size, device=device)
    for cpu_batch in batches:
        batch = {name: value.to(device) for name, value in cpu_batch.items()}
        lengths = batch["lengths"]
        _check_batch(lengths)
        _, q = _quantized(model, batch)
        codes = q.codes[model.valid_frames(lengths, q.codes.shape[1])]
        nats.append(_with_and_without(model, batch, q.z_q, model.quantizer.decode(codes[None])))
        num_samples.append(lengths)
        speakers |= set(batch["speaker"].tolist()) if model.speakers else set()
        counts += torch.bincount(codes, minlength=len(counts))
    if not nats:
        raise ValueError("there is nothing to evaluate: no batch")
    return ConditionedNLL(
        torch.cat(nats, 1), torch.cat(num_samples), len(speakers), counts, model.cfg.decoder.num_classes
    )


def gap_metrics(nll: ConditionedNLL) -> dict[str, float]:
    """Averages over all samples.

    bits_per_sample: cross-entropy of the next sample given the past, the codes and the speaker (teacher-forced).
    conditioning_gap, speaker_gap: its increase with the codes, or the speaker, of another utterance;
    conditioning_gap_mean: with the mean code vector instead. 0 means that the decoder ignores them. speaker_gap is left
    out for a single speaker. perplexity (1 to K), entropy (bits), usage (0 to 1) and dead_codes: of the codes of all
    utterances. uniform_bits and codebook_size: for comparison.
    """
    true, other_codes, mean_code, other_speakers = (nll.nats.sum(1) / nll.num_samples.sum() / math.log(2)).tolist()
    of_speaker = {"speaker_gap": other_speakers - true} if nll.num_speakers > 1 else {}
    return {
        "bits_per_sample": true,
        "conditioning_gap": other_codes - true,
        "conditioning_gap_mean": mean_code - true,
        **of_speaker,
        **_usage(nll.counts),
        "uniform_bits": math.log2(nll.classes),
    }


def gap_estimates(nll: ConditionedNLL) -> dict[str, Estimate]:
    """bits_per_sample and the gaps of `gap_metrics`, with intervals over crops."""
    bits = nll.nats.double().cpu().numpy() / math.log(2)
    gaps = {"conditioning_gap": bits[1] - bits[0], "conditioning_gap_mean": bits[2] - bits[0]}
    gaps |= {"speaker_gap": bits[3] - bits[0]} if nll.num_speakers > 1 else {}
    num_samples = nll.num_samples.cpu().numpy()
    return {name: ratio(cost, num_samples) for name, cost in {"bits_per_sample": bits[0], **gaps}.items()}


def _with_and_without(model: SpeechVQVAE, batch: dict[str, Tensor], z_q: Tensor, valid: Tensor) -> Tensor:
    """z_q (B, D, N), valid vectors (1, D, M) -> nats (4, B): true, other codes, their mean, another speaker.

    One batch of four times as many rows, in parts that fit into memory.
    """
    mean = valid.mean(2, keepdim=True).expand_as(z_q)
    speaker = batch["speaker"]
    rows = max(1, MAX_SAMPLES // batch["target"].shape[1])
    parts = zip(
        repeat(batch["target"], "b t -> (four b) t", four=4).split(rows),
        torch.cat([z_q, z_q.roll(1, 0), mean, z_q]).split(rows),
        torch.cat([speaker, speaker, speaker, speaker.roll(1, 0)]).split(rows),
        repeat(batch["lengths"], "b -> (four b)", four=4).split(rows),
        strict=True,
    )
    summed = torch.cat([model.nll_of_each(*part) for part in parts])
    return rearrange(summed, "(four b) -> four b", four=4)
