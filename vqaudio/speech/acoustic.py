"""Acoustic frames of speech, and as the codes of a model predict them.

Shapes: B batch, T samples, N codes, R frames per code, C conditioning channels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vqaudio.data.mulaw import mulaw_decode
from vqaudio.nn.acoustic import AcousticFrames, upsampled
from vqaudio.nn.modes import evaluating
from vqaudio.nn.wavenet import WaveNet

if TYPE_CHECKING:
    from vqaudio.speech.model import SpeechVQVAE


def frames_per_code(model: SpeechVQVAE) -> int:
    """R."""
    return model.hop // model.cfg.spectrum.hop_length


def decoded_target(model: SpeechVQVAE, target: Tensor, lengths: Tensor) -> Tensor:
    """Mu-law classes (B, T), valid samples (B,) -> waveforms (B, T), zero in padding."""
    levels = mulaw_decode(torch.arange(model.cfg.decoder.num_classes), model.cfg.decoder.num_classes)
    wav = levels.to(target.device)[target]
    return wav * (torch.arange(target.shape[1], device=wav.device) < lengths[:, None])


@torch.no_grad()
def quantized_vectors(model: SpeechVQVAE, wav: Tensor) -> Tensor:
    """(B, 1, T) -> (B, D, N) float32: the quantized vectors, exactly those that the decoder receives at inference."""
    precise = torch.autocast(wav.device.type, enabled=False)  # half precision would change some codes
    with precise, evaluating(model.encoder, model.normalizer):
        z, _ = model.encoder(wav)
        return model.quantizer.decode(model.quantizer.encode(model.normalizer(z)))


def true_frames(model: SpeechVQVAE, audio: Tensor, num_codes: int) -> AcousticFrames:
    """(B, T) -> the frames of the speech itself, (B, num_codes * R), with noise on the spectrum in training."""
    assert model.spectrum is not None and model.pitch is not None
    num_frames = num_codes * frames_per_code(model)
    spectrum = model.spectrum.log_mel.centred(audio, num_frames)
    if model.training:
        spectrum = spectrum + model.cfg.frame_noise * torch.randn_like(spectrum)
    return AcousticFrames(spectrum, model.pitch.tracker(audio, num_frames))


def predicted_frames(model: SpeechVQVAE, cond: Tensor, speaker: Tensor | None) -> AcousticFrames:
    """Output of the context network (B, C, N), speakers (B,) -> (B, N * R)."""
    assert model.spectrum is not None and model.pitch is not None
    return AcousticFrames(model.spectrum(cond), model.pitch.predict(cond, model.known(speaker)))


def decoder_conditioning(
    model: SpeechVQVAE, z_q: Tensor, speaker: Tensor | None, num_samples: int, decoder: WaveNet | None = None
) -> Tensor:
    """Code vectors (B, D, N), speakers (B,) -> conditioning of `decoder` (None: the model's own) for so many samples.

    (B, C, M): the output of the context network, or of the network over the acoustic frames that the codes predict.
    """
    cond = model.conditioned(z_q, speaker, decoder)
    if model.acoustic is None:
        return cond
    return encoded_frames(model, predicted_frames(model, cond, speaker), num_samples)


def true_conditioning(model: SpeechVQVAE, cond: Tensor, audio: Tensor) -> Tensor:
    """Output of the context network (B, C, N), speech (B, T) -> conditioning of the WaveNet in training (B, C, M)."""
    if model.acoustic is None:
        return cond
    return encoded_frames(model, true_frames(model, audio, cond.shape[2]), audio.shape[1])


def encoded_frames(model: SpeechVQVAE, frames: AcousticFrames, num_samples: int) -> Tensor:
    """Frames (B, N * R) -> conditioning of the WaveNet (B, C, M), M = ceil(num_samples / hop of the WaveNet)."""
    assert model.acoustic is not None
    frames = frames.part(0, -(-num_samples // model.cfg.spectrum.hop_length))
    if model.harmonics is not None:
        frames = model.harmonics(frames)
    vectors = upsampled(model.acoustic(frames.features()), None, model.cfg.acoustic.upsampling)
    return vectors[:, :, : -(-num_samples // model.cfg.decoder.hop)]


@torch.no_grad()
def with_conversions(model: SpeechVQVAE, wav: Tensor, speaker: Tensor, lengths: Tensor) -> Tensor:
    """Encoder input (B, 1, T), speakers (B,), valid samples (B,) -> the same, some crops converted.

    A random fraction `conversions` of the crops is converted to random other speakers, at the level that it has, by the
    context network as it is and the vocoder istft.
    """
    rows = _drawn_rows(model.cfg.conversions, wav)
    if rows is None:
        return wav
    assert model.spectrum is not None and model.pitch is not None and model.istft is not None
    own, source = wav[rows], speaker[rows]
    target = other_speakers(model, source)
    with torch.autocast(wav.device.type, enabled=False):
        spectrum = model.spectrum(model.conditioned(quantized_vectors(model, own), target))
        pitch = model.pitch.tracker(own[:, 0], spectrum.shape[1])
        # by the distance of the speakers: a crop is too short for a median and a range of its own
        frames = AcousticFrames(
            spectrum, pitch._replace(octaves=pitch.octaves + model.pitch.distance(source, target)[:, None])
        )
        converted = model.istft.corrected(frames)[:, None, : wav.shape[2]]
    valid = torch.arange(wav.shape[2], device=wav.device) < lengths[rows, None]
    converted = converted * valid[:, None]
    gain = own.square().sum(2, keepdim=True) / converted.square().sum(2, keepdim=True).clamp(min=1e-9)
    mixed = wav.clone()
    mixed[rows] = converted * gain.sqrt()
    return mixed


@torch.no_grad()
def with_predicted_spectra(model: SpeechVQVAE, frames: AcousticFrames, wav: Tensor, speaker: Tensor) -> AcousticFrames:
    """Frames (B, N), their speech (B, T), speakers (B,) -> the same with some spectra as the codes predict them.

    Those of a random fraction `predicted_spectra` of the crops, at the mean level of the true ones.
    """
    rows = _drawn_rows(model.cfg.predicted_spectra, wav)
    if rows is None:
        return frames
    assert model.spectrum is not None
    true = frames.spectrum[rows]
    cond = model.conditioned(quantized_vectors(model, wav[rows, None]), model.known(speaker[rows]))
    predicted = model.spectrum(cond)[:, : true.shape[1]]
    spectrum = frames.spectrum.clone()
    spectrum[rows] = predicted + (true - predicted).mean((1, 2), keepdim=True)
    return frames._replace(spectrum=spectrum)


def other_speakers(model: SpeechVQVAE, speaker: Tensor) -> Tensor:
    """Speakers (B,) -> for each a random other one of the model, (B,), drawn on the host.

    Raises ValueError for a model with fewer than 2 speakers.
    """
    if len(model.speakers) < 2:
        raise ValueError(f"conversions need 2 speakers or more, the model has {len(model.speakers)}; set conversions 0")
    steps = torch.randint(1, len(model.speakers), speaker.shape).to(speaker.device, non_blocking=True)
    return (speaker + steps) % len(model.speakers)


def _drawn_rows(fraction: float, batch: Tensor) -> Tensor | None:
    """Rows of a batch (B, ...), each drawn with the probability `fraction`, on its device; None for none of them.

    They are drawn on the host, so that their number is known without waiting for the device.
    """
    draws = torch.rand(len(batch))
    if not fraction or not len(rows := (draws < fraction).nonzero()[:, 0]):
        return None
    return rows.to(batch.device, non_blocking=True)
