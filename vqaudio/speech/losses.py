"""Losses of the parts of a speech model beside the quantizer and the WaveNet.

Shapes: B batch, T samples, N codes, C conditioning channels, R spectra per code, M frames: of units those with targets,
of spectra N * R; F mel bands.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vqaudio.nn.context import frame_means
from vqaudio.nn.log_mel import STD_DB
from vqaudio.nn.pitch import PitchLosses
from vqaudio.nn.source_filter import DELAY_FRAMES
from vqaudio.nn.stft_loss import WINDOWS
from vqaudio.nn.units import UnitLosses, UnitsConfig
from vqaudio.speech.acoustic import other_speakers, true_frames, with_predicted_spectra

if TYPE_CHECKING:
    from vqaudio.speech.model import SpeechVQVAE

VOICING_WEIGHT, PITCH_WEIGHT = 0.3, 1.0  # of the losses of voicing (nats) and F0 (octaves squared)
EDGE_FRAMES = 8  # at both ends of a crop, whose windows are not within it: not part of the loss of the vocoder istft
SMOOTHED = 5  # frames, and bands, over which the smoothed spectrum is averaged
QUIET_DB = 40.0  # below the loudest band of a crop, where an error of the smoothed spectrum counts half
QUIET_SLOPE_DB = 6.0  # how fast it counts less there
LEAST_LOUD = 0.2  # least divisor of the weights of a crop: one that is mostly far below its loudest band counts less

Loss = tuple[Tensor, dict[str, Tensor]]


def unit_loss(cfg: UnitsConfig, found: UnitLosses, units: Tensor) -> Loss:
    """Clusters (B, M) -> the weighted losses () and logs; sums divided by what they are for a batch without padding."""
    frames = units.shape[0] * (units.shape[1] - 2 * cfg.margin)
    cross_entropy = found.cross_entropy.sum() / (frames * len(cfg.cluster_offsets))
    squared_error = found.squared_error.sum() / (frames * len(cfg.cepstrum_offsets))
    logs = {
        "cluster_bits": found.cross_entropy.detach().sum() / found.num_clusters.sum().clamp(min=1) / math.log(2),
        "cepstrum_error": found.squared_error.detach().sum() / found.num_cepstra.sum().clamp(min=1),
    }
    return cfg.cluster_weight * cross_entropy + cfg.cepstrum_weight * squared_error, logs


def spectrum_loss(model: SpeechVQVAE, audio: Tensor, cond: Tensor, mask: Tensor) -> Loss:
    """Speech (B, T), conditioning (B, C, N), valid frames (B, N) -> the weighted losses () of a mean frame and logs.

    The squared error of the log-mel spectrum and, with `smoothed_spectrum_loss_weight`, of the smoothed spectrum
    without its mean over the crop, where it is loud.
    """
    assert model.spectrum is not None
    predicted, target = model.spectrum.compared(cond, audio)
    frames = mask.sum().clamp(min=1)
    error = frame_means((predicted - target).square(), mask).sum() / frames
    loss, logs = model.cfg.spectrum_loss_weight * error, {"spectrum_error": error.detach()}
    if model.cfg.smoothed_spectrum_loss_weight:
        valid = mask.repeat_interleave(target.shape[1] // mask.shape[1], dim=1)[..., None]
        differences = (predicted - target) * valid
        constant = differences.sum(1, keepdim=True) / valid.sum(1, keepdim=True).clamp(min=1)  # in level and timbre
        squares = smoothed((differences - constant) * valid).square() * loudness_weights(target, valid)
        smooth = frame_means(squares, mask).sum() / frames
        loss = loss + model.cfg.smoothed_spectrum_loss_weight * smooth
        logs["smoothed_spectrum_error"] = smooth.detach()
    return loss, logs


def conversion_loss(model: SpeechVQVAE, z_q: Tensor, speaker: Tensor, mask: Tensor) -> Loss:
    """Code vectors (B, D, N), speakers (B,), valid frames (B, N) -> the weighted loss () of a mean frame and logs.

    The squared error of the predicted log-mel spectra of the same content by random other speakers; the targets are the
    teacher's.
    """
    if not model.conversion_teacher:
        raise RuntimeError("conversion_loss_weight needs a teacher: call initialise_conversion_teacher before training")
    assert model.spectrum is not None
    target, teacher = other_speakers(model, speaker), model.conversion_teacher[0].to(z_q.device)
    wanted, predicted = teacher(z_q, speaker, target), model.spectrum(model.conditioned(z_q, target))
    error = frame_means((predicted - wanted).square(), mask).sum() / mask.sum().clamp(min=1)
    return model.cfg.conversion_loss_weight * error, {"conversion_error": error.detach()}


def smoothed(values: Tensor) -> Tensor:
    """(B, M, F) float32 -> the means over SMOOTHED frames and bands around each; beyond the ends are zeros."""
    frames, bands = (_moving_average(length, values.device) for length in values.shape[1:])
    with torch.autocast(values.device.type, enabled=False):
        return frames @ values @ bands


def _moving_average(length: int, device: torch.device) -> Tensor:
    """The matrix (length, length) that averages SMOOTHED neighbours."""
    places = torch.arange(length, device=device)
    return ((places[:, None] - places).abs() <= SMOOTHED // 2).float() / SMOOTHED


def loudness_weights(spectrum: Tensor, valid: Tensor) -> Tensor:
    """Log-mel spectra (B, M, F) as of `LogMel`, valid frames (B, M, 1) -> weights (B, M, F).

    They are largest for the loudest bands of a crop, and half of that QUIET_DB below. Their mean over valid frames is
    1, or less for a crop of which less than LEAST_LOUD is loud.
    """
    below = STD_DB * (spectrum - spectrum.amax((1, 2), keepdim=True))  # in dB
    weights = torch.sigmoid((below + QUIET_DB) / QUIET_SLOPE_DB)
    count = (valid.sum((1, 2), keepdim=True) * spectrum.shape[2]).clamp(min=1)
    mean = (weights * valid).sum((1, 2), keepdim=True) / count
    return weights / mean.clamp(min=LEAST_LOUD)


def pitch_loss(found: PitchLosses) -> Loss:
    """The weighted losses of voicing and F0 of a mean frame, () and logs."""
    frames = found.num_frames.clamp(min=1)
    nats, error = found.cross_entropy.sum() / frames, found.squared_error.sum() / frames
    logs = {
        "voicing_bits": nats.detach() / math.log(2),
        "pitch_error": found.squared_error.detach().sum() / found.num_voiced.sum().clamp(min=1),
    }
    return VOICING_WEIGHT * nats + PITCH_WEIGHT * error, logs


def istft_loss(model: SpeechVQVAE, wav: Tensor, lengths: Tensor, speaker: Tensor) -> Loss:
    """Waveforms (B, T), valid samples (B,), speakers (B,) -> loss () and logs.

    Shorter utterances count with their padding.
    """
    convergence, distance = resynthesis_losses(model, wav, speaker)
    logs = {"spectral_convergence": convergence.detach(), "log_stft_error": distance.detach()}
    return (convergence + distance) * (lengths.sum() / wav.numel()), logs


def resynthesis_losses(model: SpeechVQVAE, wav: Tensor, speaker: Tensor) -> tuple[Tensor, Tensor]:
    """(B, T), (B,) -> STFT losses (), () of the vocoder istft, given the pitch and the spectrum of the speech itself.

    Of some crops, with `predicted_spectra`, the spectrum that their codes predict. Raises ValueError for crops that are
    too short for the longest window.
    """
    assert model.istft is not None
    edge = EDGE_FRAMES * model.istft.hop
    lost = 2 * edge + DELAY_FRAMES * model.istft.hop  # samples of whole codes that are not compared
    if wav.shape[1] // model.hop * model.hop - lost < max(WINDOWS):
        least = -(-(max(WINDOWS) + lost) // model.hop) * model.hop
        raise ValueError(
            f"the vocoder istft is trained on crops of at least {least} samples, got {wav.shape[1]}; set crops.samples "
            "and validation.samples"
        )
    with torch.autocast(wav.device.type, enabled=False):
        frames = with_predicted_spectra(model, true_frames(model, wav, wav.shape[1] // model.hop), wav, speaker)
        resynthesis = model.istft(frames)[:, edge:-edge]
        return model.istft.loss(resynthesis, wav[:, edge:][:, : resynthesis.shape[1]])
