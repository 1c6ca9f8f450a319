"""Encodes utterances in chunks of a fixed size, so that the codes are the same alone, in a batch and streamed.

The summation order of the kernels depends on the tensor shape, and a different last bit can move a vector across the
border between two codes. An utterance is therefore always encoded by itself, in chunks of CHUNK_FRAMES frames.

Letters: T samples, D code width, N frames.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vqaudio.data.audio import blocks, check_scale
from vqaudio.nn.encoder import Encoder, EncoderState
from vqaudio.nn.pitch_quantizer import PitchQuantizer
from vqaudio.speech.tokens import PitchTokens

CHUNK_FRAMES = 256
NO_PITCH_TOKENS = (
    "this model has no pitch tokens (vqaudio info MODEL would tell their rate); recipes/pitch_tokens.py adds them to a "
    "model that predicts pitch"
)


def encode_in_chunks(encoder: Encoder, pieces: Iterable[Tensor]) -> Iterator[Tensor]:
    """Consecutive pieces (T,) of an utterance, of any lengths -> its frames as chunks (1, D, N), N <= CHUNK_FRAMES.

    The frames equal those of `encoder` on the whole utterance, and are computed in float32 even under autocast. Memory
    does not grow with the length of the utterance. Raises ValueError for whole numbers, and for samples at their scale.
    """
    state, like = encoder.start(chunk_frames=CHUNK_FRAMES), encoder.out.weight
    for piece in pieces:
        if not piece.is_floating_point():
            raise ValueError(f"a waveform must be floating-point, in [-1, 1], got {piece.dtype}; convert and scale it")
        if piece.numel():
            check_scale(float(piece.detach().abs().max()))
        for part in piece.split(CHUNK_FRAMES * encoder.cfg.hop):
            z, state = _float32(encoder, part.to(like).view(1, 1, -1), state)
            if z.shape[2]:
                yield z
    with torch.autocast(like.device.type, enabled=False):
        z, _ = encoder.finish(state)
    yield from (chunk for chunk in z.split(CHUNK_FRAMES, dim=2) if chunk.shape[2])


def audio_pieces(
    audio: str | Path | np.ndarray | Tensor, sample_rate: int | None, wanted_rate: int
) -> Iterator[Tensor]:
    """An audio file, or a waveform (T,) at `sample_rate` Hz (None: `wanted_rate`) -> pieces (T,) at `wanted_rate` Hz.

    Files are resampled, waveforms are not. Raises AudioError for a file that cannot be used, and ValueError for a
    waveform at another rate, of another shape or type, or with values that are not finite.
    """
    if isinstance(audio, (str, Path)):
        if sample_rate is not None:
            raise ValueError(f"sample_rate is read from the audio file, got {sample_rate}; omit it")
        yield from map(torch.from_numpy, blocks(audio, wanted_rate))
        return
    if sample_rate not in (None, wanted_rate):
        raise ValueError(f"this model expects waveforms at {wanted_rate} Hz, got {sample_rate} Hz; resample them first")
    wav = torch.as_tensor(audio).detach().cpu()
    if not wav.is_floating_point():
        raise ValueError(f"a waveform must be floating-point, in [-1, 1], got {wav.dtype}; convert and scale it first")
    wav = wav.float()
    if wav.ndim != 1 or not wav.numel() or not wav.isfinite().all():
        raise ValueError(
            f"a waveform must be of shape (T,) with T > 0 and finite values, got shape {tuple(wav.shape)}"
            f"{'' if wav.isfinite().all() else ' and values that are not finite'}; mix down or clean the audio first"
        )
    yield wav


def _float32(encoder: Encoder, wav: Tensor, state: EncoderState) -> tuple[Tensor, EncoderState]:
    with torch.autocast(wav.device.type, enabled=False):
        z, after = encoder(wav, state)
    assert after is not None
    return z, after


def check_pitch_quantizer(quantizer: PitchQuantizer | None) -> PitchQuantizer:
    """The pitch quantizer of a model. Raises ValueError for a model without one, and for one without a codebook."""
    if quantizer is None or not quantizer.quantizer.initialised:
        raise ValueError(NO_PITCH_TOKENS)
    return quantizer


class Metered:
    """Pieces (T,) of an utterance on their way to the encoder: counted, and heard by a pitch quantizer, if given."""

    def __init__(self, pieces: Iterable[Tensor], quantizer: PitchQuantizer | None):
        self.pieces, self.quantizer, self.num_samples = pieces, quantizer, 0
        self._codes = bytearray()
        self._state = None if quantizer is None else quantizer.start()

    def __iter__(self) -> Iterator[Tensor]:
        for piece in self.pieces:
            self.num_samples += len(piece)
            if self.quantizer is not None and self._state is not None:
                codes, self._state = self.quantizer.extend(piece, self._state)
                self._codes += codes.numpy().tobytes()
            yield piece

    def pitch(self) -> PitchTokens | None:
        """The pitch tokens of all pieces, once all have passed."""
        if self.quantizer is None or self._state is None:
            return None
        whole = self._codes + self.quantizer.finish(self._state).numpy().tobytes()
        return PitchTokens(torch.frombuffer(whole, dtype=torch.int64), self.quantizer.hop, self.quantizer.fingerprint)
