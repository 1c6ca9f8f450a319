"""Codes to bytes and back: a range coder told by a prior, or a fixed number of bits per code.

A range decoder must be told the very probabilities that the encoder was told. They come from the compiled kernels,
which give a stream the same logits, bit for bit, on any number of threads and in any pieces: so the encoder takes many
steps at once, the decoder one at a time. All that follows the logits is arithmetic that IEEE 754 rounds in one way
only, the same on every machine.

Letters: B streams, T steps, K codes, M codes of several streams.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vqaudio.kernels.library import Kernels
from vqaudio.kernels.wavenet import CompiledState
from vqaudio.sampling.compiled import open_compiled
from vqaudio.sampling.config import SamplingConfig
from vqaudio.speech.prior import CodePrior

Codes = npt.NDArray[np.int64]
Advance = Callable[[int], object]  # is told how many codes were done
PRECISION = 24  # bits of a probability in constriction
LOGITS_AT_ONCE = 2**21  # numbers, of the encoder
FINEST = 30  # bits by which the likeliest code's weight is known
LEAST_EXPONENT = -64.0  # weights below 2 to this are 0 anyway
LN_2 = 0.6931471805599453
LOG2_E = 1.4426950408889634


class Coder(NamedTuple):
    """By what codes are coded."""

    prior: CodePrior
    kernels: Kernels
    streams: int  # B at most
    threads: int


def constriction() -> ModuleType:
    """The range coder's library. Raises ModuleNotFoundError that says what to install."""
    try:
        return importlib.import_module("constriction")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "archives with a prior are coded by constriction: pip install 'vqaudio[archive]', or pack without a prior"
        ) from error


def encode(
    coder: Coder, codes: Sequence[Codes], speakers: Sequence[str | None], advance: Advance
) -> tuple[bytes, float]:
    """Sequences whose lengths do not increase -> their bytes, and the bits that they cost under the prior."""
    library = constriction().stream
    encoder, family = library.queue.RangeEncoder(), library.model.Categorical(perfect=False)
    ideal = 0.0
    for part in _parts(len(codes), coder.streams):
        for logits, chosen in _forced_logits(coder, codes[part], speakers[part]):
            encoder.encode(chosen.astype(np.int32), family, counts(logits))
            ideal += _bits(logits, chosen)
            advance(len(chosen))
    return encoder.get_compressed().astype("<u4").tobytes(), ideal


def decode(
    coder: Coder, payload: bytes, lengths: Sequence[int], speakers: Sequence[str | None], advance: Advance
) -> list[Codes]:
    """Bytes and the lengths of the sequences, which do not increase -> the sequences.

    Raises ValueError where the bytes cannot have been coded with these probabilities; not every such case is seen.
    """
    library = constriction().stream
    words = np.frombuffer(payload, "<u4").astype(np.uint32)
    decoder, family = library.queue.RangeDecoder(words), library.model.Categorical(perfect=False)
    found: list[Codes] = []
    for part in _parts(len(lengths), coder.streams):
        own = torch.tensor(lengths[part])
        streams, size = _open(coder, speakers[part]), len(own)
        uniforms = torch.zeros(size, 1)
        before = torch.full((size, 1), coder.prior.net.start)
        logits = torch.zeros(size, 1, coder.prior.cfg.net.num_classes)
        rows = np.zeros((size, int(own[0])), dtype=np.int64)
        for t in range(rows.shape[1]):
            todo = (own > t).long()
            streams.extend(None, uniforms, todo, teacher_forced=before, logits=logits)
            going = int(todo.sum())
            try:
                chosen = decoder.decode(family, counts(logits[:going, 0].numpy()))
            except AssertionError as error:
                raise ValueError("the coder came upon what it cannot have written") from error
            rows[:going, t] = chosen
            before[:going, 0] = torch.from_numpy(rows[:going, t])
            advance(going)
        found += [row[:length] for row, length in zip(rows, lengths[part], strict=True)]
    return found


def counts(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """(M, K) -> (M, K) whole numbers that sum to 2^24 - K, in proportion to the probabilities, rounded down.

    What rounding leaves goes to the likeliest code, the first of equals. constriction adds 1 to each, so that no code
    is impossible and none costs more than 24 bits, and its scale is then exactly 1. Powers of two are summed up from
    the Taylor series, to 1e-8.
    """
    exponent = np.subtract(logits, logits.max(axis=1, keepdims=True), dtype=np.float64)
    exponent *= LOG2_E
    np.maximum(exponent, LEAST_EXPONENT, out=exponent)
    whole = np.rint(exponent)
    exponent -= whole  # -0.5..0.5
    series = [1.0]
    for n in range(1, 8):
        series.append(series[-1] * LN_2 / n)
    weights = np.full_like(exponent, series.pop())
    while series:
        weights *= exponent
        weights += series.pop()
    weights = np.floor(np.ldexp(weights, whole.astype(np.int32) + FINEST))
    room = 2.0**PRECISION - logits.shape[1]
    weights *= room / weights.sum(axis=1, keepdims=True)  # of whole numbers below 2^53: exact in any order
    np.floor(weights, out=weights)
    weights[np.arange(len(logits)), logits.argmax(axis=1)] += room - weights.sum(axis=1)
    return weights


def encode_fixed(codes: Sequence[Codes], codebook_size: int) -> bytes:
    """Sequences -> ceil(log2 K) bits for each code, the highest first, one after the other."""
    places = np.arange(fixed_bits(codebook_size))[::-1]
    return np.packbits((np.concatenate(codes)[:, None] >> places & 1).astype(np.uint8)).tobytes()


def decode_fixed(payload: bytes, lengths: Sequence[int], codebook_size: int) -> list[Codes]:
    """Bytes and the lengths of the sequences -> the sequences. Raises ValueError for another number of bytes."""
    bits, total = fixed_bits(codebook_size), sum(lengths)
    if len(payload) != -(-bits * total // 8):
        raise ValueError(f"{total} codes of {bits} bits are {-(-bits * total // 8)} bytes, got {len(payload)}")
    spread = np.unpackbits(np.frombuffer(payload, np.uint8), count=bits * total).reshape(total, bits)
    codes = spread.astype(np.int64) @ (1 << np.arange(bits)[::-1])
    return np.split(codes, np.cumsum(lengths)[:-1])


def fixed_bits(codebook_size: int) -> int:
    """Of a code, without any compression."""
    return (codebook_size - 1).bit_length()


def _forced_logits(
    coder: Coder, codes: Sequence[Codes], speakers: Sequence[str | None]
) -> Iterator[tuple[npt.NDArray[np.float32], Codes]]:
    """B sequences -> logits (M, K) and codes (M,), step by step, within a step stream by stream; many steps at once."""
    lengths = torch.tensor([len(own) for own in codes])
    targets = torch.zeros(len(codes), int(lengths[0]), dtype=torch.long)
    for row, own in zip(targets, codes, strict=True):
        row[: len(own)] = torch.from_numpy(own)
    forced = coder.prior.net.shift(targets)
    streams, classes = _open(coder, speakers), coder.prior.cfg.net.num_classes
    piece = max(1, LOGITS_AT_ONCE // (len(codes) * classes))
    for begin in range(0, targets.shape[1], piece):
        stop = min(begin + piece, targets.shape[1])
        todo = (lengths - begin).clamp(0, stop - begin)
        logits = torch.zeros(len(codes), stop - begin, classes)
        uniforms = torch.zeros(len(codes), stop - begin)
        given = forced[:, begin:stop].contiguous()
        streams.extend(None, uniforms, todo, teacher_forced=given, logits=logits)
        going = torch.arange(stop - begin)[:, None] < todo  # (T, B)
        yield logits.transpose(0, 1)[going].numpy(), targets[:, begin:stop].T[going].numpy()


def _open(coder: Coder, speakers: Sequence[str | None]) -> CompiledState:
    """Streams at their beginning; a speaker whom the prior does not know is nobody."""
    speaker: Tensor | None = None
    if coder.prior.cfg.speakers:
        speaker = coder.prior.speaker_ids([name if name in coder.prior.cfg.speakers else None for name in speakers])
    sampling = SamplingConfig(temperature=0.0, threads=coder.threads)
    return open_compiled(coder.kernels, coder.prior.net, speaker, len(speakers), sampling)


def _parts(count: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, count, size))


def _bits(logits: npt.NDArray[np.float32], chosen: Codes) -> float:
    """(M, K), (M,) -> what the codes cost, all together."""
    less = np.subtract(logits, logits.max(axis=1, keepdims=True), dtype=np.float64)
    own = less[np.arange(len(chosen)), chosen]
    return float((np.log(np.exp(less).sum(axis=1)) - own).sum() / math.log(2))
