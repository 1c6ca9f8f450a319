"""Encodes utterances in batches of a fixed shape, so that the codes are the same alone, in a batch and streamed.

The summation order of the kernels depends on the tensor shape, and a different last bit can move a vector across the
border between two codes. Every utterance is therefore encoded in chunks of CHUNK_FRAMES frames, and every batch has
`num_rows` rows, whether they are all in use or not: one on a CPU, where more are no faster, and many on a GPU, which
one utterance leaves idle.

Letters: T samples, S samples of a chunk, R rows of a batch, D code width, N frames.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from vqaudio.data.audio import blocks, check_scale
from vqaudio.nn.encoder import Encoder, EncoderConfig
from vqaudio.nn.modes import check_evaluating, check_not_traced
from vqaudio.nn.pitch_quantizer import PitchQuantizer
from vqaudio.speech.tokens import PitchTokens

CHUNK_FRAMES = 256
ROWS = {"cuda": 64}  # of a batch; other devices have one
NO_PITCH_TOKENS = (
    "this model has no pitch tokens (vqaudio info MODEL would list their rate); recipes/pitch_tokens.py adds them to a "
    "model that predicts pitch"
)


def num_rows(device: torch.device) -> int:
    """R: how many utterances are encoded at once on a device, always."""
    return ROWS.get(device.type, 1)


class Part(NamedTuple):
    """What a row of a batch holds: the next frames of an utterance."""

    row: int
    number: int  # of the utterance, counted from 0
    num_frames: int  # at most CHUNK_FRAMES; the others are padding


class _Chunk(NamedTuple):
    samples: Tensor  # (S,), or fewer, which zeros follow
    num_frames: int
    is_first: bool


def check_encoding(model: nn.Module) -> None:
    """Raise RuntimeError in training mode, and within torch.jit.trace."""
    check_evaluating(model)
    check_not_traced("encoding in chunks")


def checked_batch(wavs: Tensor, lengths: Tensor | None) -> tuple[list[Iterator[Tensor]], Tensor]:
    """Waveforms (B, 1, T), valid samples (B,) (None: T) -> pieces of each utterance, lengths (B,) on the CPU.

    Raises ValueError for other shapes and lengths.
    """
    if wavs.ndim != 3 or wavs.shape[1] != 1:
        raise ValueError(f"encode takes waveforms of shape (B, 1, T), got {tuple(wavs.shape)}")
    batch, _, num_samples = wavs.shape
    lengths = torch.full((batch,), num_samples) if lengths is None else lengths.cpu()
    if lengths.dtype == torch.bool or lengths.is_floating_point() or lengths.is_complex():
        raise ValueError(f"lengths must be whole numbers of samples, got {lengths.dtype}; convert them")
    if lengths.shape != (batch,) or (batch and not 0 < lengths.min() <= lengths.max() <= num_samples):
        raise ValueError(f"lengths must be ({batch},) with values in 1..{num_samples}, got {lengths}")
    return [checked_pieces([wav[0, :length]]) for wav, length in zip(wavs, lengths.tolist(), strict=True)], lengths


def checked_pieces(pieces: Iterable[Tensor]) -> Iterator[Tensor]:
    """The same pieces (T,) of an utterance. Raises ValueError for integer dtypes and as `check_scale` does."""
    for piece in pieces:
        if not piece.is_floating_point():
            raise ValueError(f"a waveform must be floating-point, in [-1, 1], got {piece.dtype}; convert and scale it")
        if piece.numel():
            check_scale(float(piece.detach().abs().max()))
        yield piece


def encode_in_chunks(encoder: Encoder, pieces: Iterable[Tensor]) -> Iterator[Tensor]:
    """Consecutive pieces (T,) of an utterance, of any lengths -> its frames as chunks (1, D, N), N <= CHUNK_FRAMES.

    As `encode_batches`, which it calls. Raises as `checked_pieces` does.
    """
    for z, parts in encode_batches(encoder, [checked_pieces(pieces)]):
        yield z[:1, :, : parts[0].num_frames]


def encode_batches(encoder: Encoder, utterances: Iterable[Iterable[Tensor]]) -> Iterator[tuple[Tensor, list[Part]]]:
    """Utterances, each as consecutive pieces (T,) of any lengths -> batches (R, D, CHUNK_FRAMES), the rows in use.

    The frames equal those of `encoder` on the whole utterance, and are computed in float32 even under autocast. A row
    takes the next utterance when its own has ended, so that utterances are begun in their order. Memory does not grow
    with their length.
    """
    like, waiting = encoder.out.weight, enumerate(utterances)
    rows = num_rows(like.device)
    before = encoder.start(rows)
    frontend, pasts = before.frontend, before.pasts
    for held in zip_longest(*(_chunks_of_row(waiting, encoder.cfg) for _ in range(rows))):
        wav = _batch([each[1].samples if each else None for each in held], CHUNK_FRAMES * encoder.cfg.hop, like)
        fresh = torch.tensor([each is not None and each[1].is_first for each in held])
        if fresh.any():
            fresh = fresh.to(like.device, non_blocking=True)  # or it would wait for the batch before
            frontend, pasts = _restarted(frontend, before.frontend, fresh), _restarted(pasts, before.pasts, fresh)
        with torch.autocast(like.device.type, enabled=False):
            z, frontend, pasts = encoder.chunk(wav, frontend, pasts)
        yield z, [Part(row, each[0], each[1].num_frames) for row, each in enumerate(held) if each]


def encode_each(
    encoder: Encoder, quantize: Callable[[Tensor], Tensor], utterances: Iterable[Iterable[Tensor]]
) -> Iterator[Tensor]:
    """Utterances as `encode_batches` takes them, (R, D, N) -> (R, N) -> the codes (N,) int64 of each, in their order.

    The codes lie on the CPU. They are fetched from a GPU while it computes the next batch.
    """
    num_begun, num_done = 0, 0
    codes: dict[int, bytearray] = defaultdict(bytearray)  # growing blocks: small tensors would fragment the memory
    computed: deque[tuple[list[Part], Callable[[], Tensor]]] = deque()

    def counted() -> Iterator[Iterable[Tensor]]:
        nonlocal num_begun
        for pieces in utterances:
            num_begun += 1
            yield pieces

    def fetch() -> None:
        parts, arrived = computed.popleft()
        found = arrived()
        for part in parts:
            codes[part.number] += found[part.row, : part.num_frames].numpy().tobytes()

    for z, parts in encode_batches(encoder, counted()):
        computed.append((parts, _copy_to_cpu(quantize(z))))
        if len(computed) > 1:
            fetch()
        for number in range(num_done, min(part.number for part in parts)):  # these were begun, and no row holds them
            num_done += 1
            yield _tensor(codes.pop(number, b""))
    while computed:
        fetch()
    for number in range(num_done, num_begun):
        yield _tensor(codes.pop(number, b""))


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


def whole_audio(audio: str | Path | np.ndarray | Tensor, sample_rate: int | None, wanted_rate: int) -> Tensor:
    """The pieces of `audio_pieces` joined, (T,). Raises as it does, and as `check_scale` does."""
    return torch.cat(list(checked_pieces(audio_pieces(audio, sample_rate, wanted_rate))))


def check_pitch_quantizer(quantizer: PitchQuantizer | None) -> PitchQuantizer:
    """The pitch quantizer of a model. Raises ValueError for a model without one, and for one without a codebook."""
    if quantizer is None or not quantizer.quantizer.initialised:
        raise ValueError(NO_PITCH_TOKENS)
    return quantizer


class CountedPieces:
    """Pieces (T,) of an utterance on their way to the encoder: counted, and read by a pitch quantizer, if given."""

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


def _chunks_of_row(waiting: Iterator[tuple[int, Iterable[Tensor]]], cfg: EncoderConfig) -> Iterator[tuple[int, _Chunk]]:
    """The chunks of utterances that no other row has taken, one utterance after another, and their numbers."""
    for number, pieces in waiting:
        for chunk in _advanced_chunks(pieces, cfg):
            yield number, chunk


def _advanced_chunks(pieces: Iterable[Tensor], cfg: EncoderConfig) -> Iterator[_Chunk]:
    """Pieces (T,) of an utterance -> chunks of it, shifted left by the look-ahead, with zeros after the end."""
    size = CHUNK_FRAMES * cfg.hop
    pending, to_skip, num_samples, num_frames = torch.zeros(0), cfg.lookahead, 0, 0
    for piece in pieces:
        num_samples += len(piece)
        skipped = min(to_skip, len(piece))
        to_skip -= skipped
        new = piece[skipped:].float()
        pending = torch.cat([pending.to(new.device), new]) if len(pending) else new
        while len(pending) >= size:
            yield _Chunk(pending[:size], CHUNK_FRAMES, num_frames == 0)
            pending, num_frames = pending[size:], num_frames + CHUNK_FRAMES
    for missing in range(-(-num_samples // cfg.hop) - num_frames, 0, -CHUNK_FRAMES):
        yield _Chunk(pending, min(missing, CHUNK_FRAMES), num_frames == 0)
        pending, num_frames = pending[size:], num_frames + CHUNK_FRAMES


def _batch(rows: list[Tensor | None], size: int, like: Tensor) -> Tensor:
    """R rows of at most S = `size` samples -> (R, 1, S) on the device of `like`, with zeros where samples are missing.

    Samples on the CPU are copied to a GPU without waiting.
    """
    on_gpu = any(row is not None and row.is_cuda for row in rows)
    empty = like.new_empty if on_gpu else partial(torch.empty, pin_memory=like.is_cuda)
    wav = empty(len(rows), 1, size)
    for place, row in zip(wav[:, 0], rows, strict=True):
        count = 0 if row is None else len(row)
        if row is not None:
            place[:count] = row
        place[count:] = 0
    return wav.to(like, non_blocking=True)


def _restarted(states: tuple[Tensor, ...], before: tuple[Tensor, ...], fresh: Tensor) -> tuple[Tensor, ...]:
    """States (R, ...), those before an utterance, which rows begin one (R,) bool -> states."""
    return tuple(
        torch.where(fresh.view(-1, *[1] * (state.ndim - 1)), start, state)
        for state, start in zip(states, before, strict=True)
    )


def _copy_to_cpu(codes: Tensor) -> Callable[[], Tensor]:
    """Begins to copy codes to the CPU; the result waits for them."""
    if not codes.is_cuda:
        return lambda: codes
    host, copied = codes.to("cpu", non_blocking=True), torch.cuda.Event()
    copied.record()

    def wait() -> Tensor:
        copied.synchronize()
        return host

    return wait


def _tensor(codes: bytes | bytearray) -> Tensor:
    return torch.frombuffer(codes, dtype=torch.int64) if codes else torch.zeros(0, dtype=torch.int64)
