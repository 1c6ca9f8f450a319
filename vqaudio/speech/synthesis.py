"""Codes to waveforms with the WaveNet of a model: a batch of utterances, or one utterance as a stream.

Shapes: B utterances, T samples, N frames, D code dimension, C conditioning channels (D without a context network).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from vqaudio.data.mulaw import mulaw_decode
from vqaudio.nn.context import Context
from vqaudio.nn.modes import check_not_traced
from vqaudio.nn.quantizer import Quantizer
from vqaudio.nn.quantizer_protocol import check_codes
from vqaudio.nn.wavenet import WaveNet
from vqaudio.sampling.backends import choose, generate
from vqaudio.sampling.config import SamplingConfig
from vqaudio.torch_defaults import with_own_defaults

STREAM_FRAMES = 16  # codes that are decoded at a time when `decode_stream` gets a whole utterance


class Piece(NamedTuple):
    """Consecutive frames of an utterance."""

    cond: Tensor  # (D, N) code vectors; after the context network (C, N)
    num_samples: int  # N * hop; fewer only at the end of the utterance


def checked_codes(codes: int | Tensor, codebook_size: int) -> Tensor:
    """A code, or several (N,), as a caller gives them -> (N,) int64.

    Raises ValueError for numbers that are not whole, and for codes outside 0..K-1.
    """
    codes = torch.as_tensor(codes).reshape(-1)
    if codes.is_floating_point():
        raise ValueError(f"codes must be whole numbers, got {codes.dtype}")
    check_codes(codes, codebook_size)
    return codes.long()


def pieces(quantizer: Quantizer, arriving: Iterable[Tensor], hop: int, num_samples: int | None) -> Iterator[Piece]:
    """Consecutive codes (N,) int64 in 0..K-1 -> pieces of `num_samples` samples in total (None: whole frames)."""
    for codes in arriving:
        samples = len(codes) * hop if num_samples is None else min(len(codes) * hop, num_samples)
        num_samples = None if num_samples is None else num_samples - samples
        if samples:
            yield Piece(quantizer.decode(codes.to(quantizer.device)[None])[0], samples)


@torch.no_grad()
def contextualize(
    context: Context | None, decoder: WaveNet, arriving: Iterable[Piece], speaker: Tensor | None
) -> Iterator[Piece]:
    """Pieces with code vectors (D, N) of one utterance, speaker (1,) -> pieces with the decoder's conditioning (C, N).

    The same bits however the utterance is divided into pieces.
    """
    if context is None:
        yield from arriving
        return
    embedding = None if decoder.speaker is None or speaker is None else decoder.speaker(speaker)
    state = context.start(context.code.weight)
    for piece in arriving:
        cond, state = context.extend(piece.cond[None], embedding, state)
        yield piece._replace(cond=cond[0])


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
) -> Iterator[Tensor]:
    """Pieces of one utterance, speaker (1,) -> the waveform of each piece, (T,) float32 in [-1, 1].

    Concatenated, they equal `synthesize` on the whole utterance.
    """
    check_not_traced("generation")
    state = choose(decoder, sampling).open(speaker, 1)
    generator = torch.Generator().manual_seed(sampling.seed)
    for cond, num_samples in pieces:
        uniforms = torch.rand(1, num_samples, generator=generator).to(cond.device)
        lengths = torch.tensor([num_samples])
        classes = state.extend(cond[None], uniforms, lengths)
        yield mulaw_decode(classes[0].cpu(), decoder.cfg.num_classes)
