"""Codes to speech by a model's decoder: utterances together, or one as its codes arrive.

Letters: B utterances, T samples, N frames, D code width, C channels that the decoder is conditioned on (D without a
context).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from vqaudio.data.mulaw import mulaw_decode
from vqaudio.nn.context import Context
from vqaudio.nn.quantizer import Quantizer
from vqaudio.nn.wavenet import WaveNet
from vqaudio.sampling.backends import choose, generate
from vqaudio.sampling.config import SamplingConfig

CANNOT_DECODE = (
    "the decoder of this model has not been trained (stage: codes); train it first, with --init-from THIS_MODEL and "
    "--model.stage decoder"
)
STREAM_FRAMES = 16  # codes of an utterance that are spoken at once where all of them are there


class Piece(NamedTuple):
    """A part of an utterance that begins with a frame."""

    cond: Tensor  # (D, N), after the context (C, N)
    num_samples: int  # N * hop; fewer only at the end of the utterance


def check_codes(codes: Tensor, codebook_size: int) -> None:
    """Raises ValueError for codes that are not in 0..K-1."""
    if len(codes) and not 0 <= codes.min() <= codes.max() < codebook_size:
        raise ValueError(f"codes must lie in 0..{codebook_size - 1}, got {codes.min()}..{codes.max()}")


def pieces(
    quantizer: Quantizer, arriving: Iterable[int | Tensor], hop: int, num_samples: int | None
) -> Iterator[Piece]:
    """Codes as they arrive, one or some (N,) at a time -> pieces, `num_samples` in all (None: whole frames)."""
    for some in arriving:
        codes = torch.as_tensor(some).reshape(-1)
        if codes.is_floating_point():
            raise ValueError(f"codes must be whole numbers, got {codes.dtype}")
        check_codes(codes, quantizer.codebook_size)
        samples = len(codes) * hop if num_samples is None else min(len(codes) * hop, num_samples)
        num_samples = None if num_samples is None else num_samples - samples
        if samples:
            yield Piece(quantizer.decode(codes.long().to(quantizer.device)[None])[0], samples)


@torch.no_grad()
def contextualize(
    context: Context | None, decoder: WaveNet, arriving: Iterable[Piece], speaker: Tensor | None
) -> Iterator[Piece]:
    """Pieces of code vectors (D, N) of one utterance, speaker (1,) -> the same as the decoder hears them, (C, N)."""
    if context is None:
        yield from arriving
        return
    voice = None if decoder.speaker is None or speaker is None else decoder.speaker(speaker)
    state = context.start(context.code.weight)
    for piece in arriving:
        cond, state = context.extend(piece.cond[None], voice, state)
        yield piece._replace(cond=cond[0])


def synthesize(
    decoder: WaveNet,
    cond: Tensor,
    speaker: Tensor | None,
    num_samples: Sequence[int],
    sampling: SamplingConfig,
) -> list[Tensor]:
    """cond (B, C, N), speaker (B,), samples of each utterance -> their waveforms, (T,) float32 in [-1, 1].

    Each utterance has a generator of its own with the same seed, so that it does not depend on the others.
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


@torch.no_grad()
def synthesize_stream(
    decoder: WaveNet,
    pieces: Iterable[Piece],
    speaker: Tensor | None,
    sampling: SamplingConfig,
) -> Iterator[Tensor]:
    """Pieces of one utterance, speaker (1,) -> the waveform of each, (T,) float32 in [-1, 1], as it comes.

    Together they equal `synthesize` on the whole utterance.
    """
    state = choose(decoder, sampling).open(speaker, 1)
    generator = torch.Generator().manual_seed(sampling.seed)
    for cond, num_samples in pieces:
        uniforms = torch.rand(1, num_samples, generator=generator).to(cond.device)
        lengths = torch.tensor([num_samples])
        classes = state.extend(cond[None], uniforms, lengths)
        yield mulaw_decode(classes[0].cpu(), decoder.cfg.num_classes)
