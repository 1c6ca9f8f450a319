"""Codes to waveforms with the vocoders of a model: a batch of utterances, or one utterance as a stream.

Shapes: B utterances, T samples, N frames, D code dimension, C conditioning channels (D without a context network), R
acoustic frames per code.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from vqaudio.data.mulaw import mulaw_decode
from vqaudio.nn.acoustic import AcousticFrames, upsampled
from vqaudio.nn.context import Context, MelHead
from vqaudio.nn.harmonics import Harmonics
from vqaudio.nn.modes import check_not_traced
from vqaudio.nn.pitch import Pitch, PitchHead
from vqaudio.nn.quantizer import Quantizer
from vqaudio.nn.source_filter import IstftVocoder
from vqaudio.nn.spectral_correction import SpectralCorrection
from vqaudio.nn.wavenet import WaveNet
from vqaudio.sampling.backends import choose, generate
from vqaudio.sampling.config import SamplingConfig
from vqaudio.torch_defaults import one_thread, with_own_defaults

STREAM_FRAMES = 16  # codes that are decoded at a time when `decode_stream` gets a whole utterance


class Piece(NamedTuple):
    """Consecutive frames of an utterance."""

    cond: Tensor  # (D, N) code vectors; after the context network (C, N)
    num_samples: int  # N times those of a frame; fewer only at the end of the utterance
    spectra: Tensor | None = None  # (1, frames, F) of the acoustic frames that a WaveNet is conditioned on


def pieces(quantizer: Quantizer, arriving: Iterable[Tensor], hop: int, num_samples: int | None) -> Iterator[Piece]:
    """Consecutive codes (N,) int64 in 0..K-1 -> pieces of `num_samples` samples in total (None: whole frames)."""
    for codes in arriving:
        samples = len(codes) * hop if num_samples is None else min(len(codes) * hop, num_samples)
        num_samples = None if num_samples is None else num_samples - samples
        if samples:
            yield Piece(quantizer.decode(codes.to(quantizer.device)[None])[0], samples)


class Generated(NamedTuple):
    """Consecutive samples of an utterance by a WaveNet."""

    wav: Tensor  # (T,)
    spectra: Tensor | None  # of its piece


class FramePiece(NamedTuple):
    """Consecutive acoustic frames of an utterance."""

    frames: AcousticFrames  # (1, N)
    num_samples: int


@torch.no_grad()
def contextualize(
    context: Context | None, decoder: WaveNet, arriving: Iterable[Piece], speaker: Tensor | None, hop: int
) -> Iterator[Piece]:
    """Pieces with code vectors (D, N) of one utterance, speaker (1,) -> pieces with the conditioning (C, N).

    The same bits however the utterance is divided into pieces.
    """
    if context is None:
        yield from arriving
        return
    embedding = None if decoder.speaker is None or speaker is None else decoder.speaker(speaker)
    yield from _through(context, arriving, embedding, hop)


@torch.no_grad()
def predict_frames(
    spectrum: MelHead, head: PitchHead, arriving: Iterable[Piece], speaker: Tensor | None, pitch: Pitch | None
) -> Iterator[FramePiece]:
    """Pieces with the conditioning (C, N), speaker (1,) -> acoustic frames, with the `pitch` (1, N * R) if it is given.

    The same bits however the utterance is divided into pieces, because codes are computed one at a time.
    """
    position = 0
    for cond, num_samples, _ in arriving:
        with one_thread(), torch.autocast(cond.device.type, enabled=False):
            each = [code[None] for code in cond.split(1, dim=1)]  # (1, C, 1)
            spectra = torch.cat([spectrum(code) for code in each], dim=1)
            found = [head.predict(code, speaker) for code in each] if pitch is None else []
        end = position + spectra.shape[1]
        if pitch is None:
            own = Pitch(*(torch.cat(parts, dim=1) for parts in zip(*found, strict=True)))
        else:
            own = Pitch(*(value[:, position:end].to(cond.device) for value in pitch))
        yield FramePiece(AcousticFrames(spectra, own), num_samples)
        position = end


@torch.no_grad()
def encode_frames(
    acoustic: Context, harmonics: Harmonics | None, arriving: Iterable[FramePiece], frame_hop: int, hop: int
) -> Iterator[Piece]:
    """Acoustic frames of one utterance -> pieces with the conditioning (C, M) of a WaveNet that is conditioned on them.

    Their spectra have, with `harmonics`, those of the pitch. frame_hop, hop: samples per frame and per conditioning
    vector. The same bits however the utterance is divided, because frames get harmonics one at a time.
    """
    spectra: deque[Tensor] = deque()  # (1, 1, F) each, of the frames that are still in the network

    def features() -> Iterator[Piece]:
        for frames, num_samples in arriving:
            if harmonics is not None:
                each = (frames.part(n, n + 1) for n in range(frames.spectrum.shape[1]))
                with one_thread():
                    frames = AcousticFrames.joined([harmonics(frame) for frame in each])
            spectra.extend(frames.spectrum.split(1, dim=1))
            yield Piece(frames.features()[0], num_samples)

    before = None
    for vectors, num_samples, _ in _through(acoustic, features(), None, frame_hop):
        own = torch.cat([spectra.popleft() for _ in range(vectors.shape[1])], dim=1)
        cond, before = upsampled(vectors[None], before, frame_hop // hop), vectors[None, :, -1:]
        yield _piece(cond, num_samples, hop)._replace(spectra=own)


def _through(context: Context, arriving: Iterable[Piece], embedding: Tensor | None, hop: int) -> Iterator[Piece]:
    """Pieces of one utterance -> the same through a context network, later by its look-ahead. `hop`: of its frames."""
    state, missing = context.start(context.code.weight), 0  # samples that arrived and were not yielded
    for vectors, num_samples, _ in arriving:
        cond, state = context.extend(vectors[None], embedding, state)
        missing += num_samples
        if samples := min(missing, cond.shape[2] * hop):
            missing -= samples
            yield _piece(cond, samples, hop)
    if missing:
        yield _piece(context.finish(embedding, state), missing, hop)


def _piece(cond: Tensor, num_samples: int, hop: int) -> Piece:
    """Without frames after the end of the utterance: its last code may have more of them than samples."""
    return Piece(cond[0, :, : -(-num_samples // hop)], num_samples)


@with_own_defaults
@torch.no_grad()
def render_stream(vocoder: IstftVocoder, arriving: Iterable[FramePiece], seed: int) -> Iterator[Tensor]:
    """Acoustic frames of one utterance -> its waveform in pieces, (T,) float32 in [-1, 1]. `seed`: of the noise.

    The same bits however the utterance is divided into pieces.
    """
    check_not_traced("generation")
    state, generator, missing = vocoder.start(), torch.Generator().manual_seed(seed), 0
    for frames, num_samples in arriving:
        with one_thread():
            wav, state = vocoder.extend(frames, state, generator)
        missing += num_samples
        wav = wav[:missing]  # the frames of the last code may be more than the samples of the utterance
        missing -= len(wav)
        yield wav.clamp(-1, 1).cpu()
    with one_thread():
        yield vocoder.finish(state, generator)[:missing].clamp(-1, 1).cpu()


def synthesize(
    decoder: WaveNet,
    cond: Tensor,
    speaker: Tensor | None,
    num_samples: Sequence[int],
    sampling: SamplingConfig,
) -> list[Tensor]:
    """cond (B, C, N), speaker (B,), length of each utterance in samples -> waveforms, (T,) float32 in [-1, 1].

    Each utterance has its own random generator with the same seed, so that it does not depend on the others.
    """
    classes = generate(
        decoder,
        cond,
        speaker,
        steps=num_samples,
        sampling=sampling,
        generator=[torch.Generator().manual_seed(sampling.seed) for _ in num_samples],
    )
    wavs = mulaw_decode(classes.cpu(), decoder.cfg.num_classes)
    return [wav[:length] for wav, length in zip(wavs, num_samples, strict=True)]


@with_own_defaults
@torch.no_grad()
def synthesize_stream(
    decoder: WaveNet,
    pieces: Iterable[Piece],
    speaker: Tensor | None,
    sampling: SamplingConfig,
) -> Iterator[Generated]:
    """Pieces of one utterance, speaker (1,) -> the waveform of each piece, float32 in [-1, 1], with its spectra.

    Concatenated, they equal `synthesize` on the whole utterance.
    """
    check_not_traced("generation")
    state = choose(decoder, sampling).open(speaker, 1)
    generator = torch.Generator().manual_seed(sampling.seed)
    for cond, num_samples, spectra in pieces:
        uniforms = torch.rand(1, num_samples, generator=generator).to(cond.device)
        lengths = torch.tensor([num_samples])
        classes = state.extend(cond[None], uniforms, lengths)
        yield Generated(mulaw_decode(classes[0].cpu(), decoder.cfg.num_classes), spectra)


@with_own_defaults
@torch.no_grad()
def correct(correction: SpectralCorrection, arriving: Iterable[Generated]) -> Iterator[Tensor]:
    """Samples of one utterance by a WaveNet -> as many samples with the spectra of its frames, in pieces (T,).

    Float32 in [-1, 1], later by the delay of the correction and a block. The same bits however they are divided.
    """
    state = correction.begin()
    for wav, spectra in arriving:
        assert spectra is not None
        with one_thread():
            wav, state = correction.extend(wav.to(spectra.device), spectra, state)
        if len(wav):
            yield wav.clamp(-1, 1).cpu()
    with one_thread():
        yield correction.finish(state).clamp(-1, 1).cpu()
