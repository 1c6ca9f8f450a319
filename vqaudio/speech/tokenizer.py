"""Encoding with one shape for everything: the same bits alone, in a batch and streamed.

Kernels sum in an order that depends on the shape, and a different last bit can move a vector across the border
between two codes. So an utterance is always encoded by itself, in chunks of the same number of frames.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vqaudio.data.audio import blocks
from vqaudio.nn.encoder import Encoder, EncoderState

CHUNK_FRAMES = 256


def encode_in_chunks(encoder: Encoder, pieces: Iterable[Tensor]) -> Iterator[tuple[Tensor, int]]:
    """Consecutive pieces (T,) of an utterance, of any lengths -> (frames (1, D, CHUNK_FRAMES), how many are its own).

    The frames are those of `encoder` on the whole utterance; only the last chunk has some that lie behind its end.
    Memory does not grow with the length.
    """
    chunk_samples = CHUNK_FRAMES * encoder.cfg.hop
    wanted = encoder.cfg.lookahead + chunk_samples  # the first chunk needs to hear that much
    waiting = encoder.out.weight.new_zeros(0)
    state, num_samples, num_frames = encoder.start(), 0, 0
    for piece in pieces:
        num_samples += piece.shape[0]
        waiting = torch.cat([waiting, piece.to(waiting)])
        while waiting.shape[0] >= wanted:
            z, state = _continue(encoder, waiting[:wanted], state)
            waiting, wanted = waiting[wanted:], chunk_samples
            num_frames += CHUNK_FRAMES
            yield z, CHUNK_FRAMES
    total = -(-num_samples // encoder.cfg.hop)
    while num_frames < total:  # silence after the end; twice where the look-ahead reaches beyond a chunk
        heard = F.pad(waiting[:wanted], (0, max(0, wanted - waiting.shape[0])))
        z, state = _continue(encoder, heard, state)
        waiting, wanted = waiting[wanted:], chunk_samples
        yield z, min(CHUNK_FRAMES, total - num_frames)
        num_frames += CHUNK_FRAMES


def audio_pieces(
    audio: str | Path | np.ndarray | Tensor, sample_rate: int | None, wanted_rate: int
) -> Iterator[Tensor]:
    """A file, or a waveform (T,) at `sample_rate` (None: `wanted_rate`) -> its pieces (T,) at `wanted_rate`.

    Raises AudioError for a file that cannot be used, ValueError for such a waveform.
    """
    if isinstance(audio, (str, Path)):
        if sample_rate is not None:
            raise ValueError("a file knows its own sample rate; leave sample_rate out")
        yield from map(torch.from_numpy, blocks(audio, wanted_rate))
        return
    if sample_rate not in (None, wanted_rate):
        raise ValueError(f"this model takes waveforms at {wanted_rate} Hz, got {sample_rate}; resample first")
    wav = torch.as_tensor(audio).detach().cpu()
    if not wav.is_floating_point():
        raise ValueError(f"a waveform must hold floating-point samples in [-1, 1], got {wav.dtype}; scale it first")
    wav = wav.float()
    if wav.ndim != 1 or not wav.numel() or not wav.isfinite().all():
        raise ValueError(f"a waveform must be (T,) with T > 0 and all values finite, got {tuple(wav.shape)}")
    yield wav


def _continue(encoder: Encoder, wav: Tensor, state: EncoderState) -> tuple[Tensor, EncoderState]:
    with torch.autocast(wav.device.type, enabled=False):  # whoever calls: codes are computed in float32
        z, after = encoder(wav.view(1, 1, -1), state)
    assert after is not None
    return z, after
