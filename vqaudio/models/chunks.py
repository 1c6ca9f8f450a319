"""Encoding with one shape for everything: the same bits alone, in a batch and streamed.

Kernels sum in an order that depends on the shape, and a different last bit can move a vector across the border
between two codes. So an utterance is always encoded by itself, in chunks of the same number of frames.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from vqaudio.nn.encoder import Encoder

CHUNK_FRAMES = 256


def encode_in_chunks(encoder: Encoder, pieces: Iterable[Tensor]) -> Iterator[tuple[Tensor, int]]:
    """Consecutive pieces (T,) of an utterance, of any lengths -> (frames (1, D, CHUNK_FRAMES), how many are its own).

    The frames are those of `encoder` on the whole utterance; only the last chunk has some that lie behind its end.
    Memory does not grow with the length.
    """
    hop, pasts = encoder.cfg.hop, encoder.start().pasts
    chunk_samples = CHUNK_FRAMES * hop
    waiting = encoder.out.weight.new_zeros(0)
    to_skip, num_samples, num_frames = encoder.cfg.lookahead, 0, 0
    for piece in pieces:
        num_samples += piece.shape[0]
        skipped = min(to_skip, piece.shape[0])
        to_skip -= skipped
        waiting = torch.cat([waiting, piece[skipped:].to(waiting)])
        while waiting.shape[0] >= chunk_samples:
            z, pasts = encoder.frames(waiting[:chunk_samples].view(1, 1, -1), pasts)
            waiting = waiting[chunk_samples:]
            num_frames += CHUNK_FRAMES
            yield z, CHUNK_FRAMES
    total = -(-num_samples // hop)
    while num_frames < total:  # twice where the look-ahead reaches beyond a chunk
        chunk = F.pad(waiting[:chunk_samples], (0, max(0, chunk_samples - waiting.shape[0])))
        z, pasts = encoder.frames(chunk.view(1, 1, -1), pasts)
        waiting = waiting[chunk_samples:]
        yield z, min(CHUNK_FRAMES, total - num_frames)
        num_frames += CHUNK_FRAMES
