"""Lossless coding of code sequences: range coding under a prior, or a fixed number of bits per code.

A range decoder needs exactly the probabilities that the encoder used. They are computed by the compiled kernels, whose
logits are identical, bit for bit, for any number of threads and any split into steps. The encoder can therefore compute
many steps at once and the decoder one at a time. Everything after the logits is arithmetic that IEEE 754 defines
exactly, so it is the same on every machine.

Letters: B streams, T steps, K codebook size, M codes of several streams.
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
Advance = Callable[[int], object]  # progress callback, called with the number of codes since the last call
PRECISION = 24  # bits of a probability in constriction
LOGITS_AT_ONCE = 2**21  # logits that the encoder computes in one call
WEIGHT_BITS = 30  # fixed-point bits of the most probable code's weight
MIN_EXPONENT = -64.0  # smaller powers of two have a weight of 0 in any case
LN_2 = 0.6931471805599453
LOG2_E = 1.4426950408889634


class Coder(NamedTuple):
    """The prior and the settings of the entropy coder."""

    prior: CodePrior
    kernels: Kernels
    streams: int  # largest B
    threads: int  # of the kernels, at most


def constriction() -> ModuleType:
    """The library of the range coder. Raises ModuleNotFoundError, with the package to install, if it is missing."""
    try:
        return importlib.import_module("constriction")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "archives with a prior need constriction: pip install 'vqaudio[archive]', or pack without a prior"
        ) from error


def encode(
    coder: Coder, codes: Sequence[Codes], speakers: Sequence[str | None], advance: Advance
) -> tuple[bytes, float]:
    """Sequences, longest first, and their speakers -> the coded bytes and the codes' negative log2-likelihood."""
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
    """Bytes and the lengths of the sequences, longest first -> the sequences.

    Raises ValueError if the bytes cannot have been coded with these probabilities. Not every such case is detected
    here; the caller compares a checksum of the codes.
    """
    library = constriction().stream
    words = np.frombuffer(payload, "<u4").astype(np.uint32)
    decoder, family = library.queue.RangeDecoder(words), library.model.Categorical(perfect=False)
    sequences: list[Codes] = []
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
                raise ValueError("the payload is not valid under the prior's probabilities") from error
            rows[:going, t] = chosen
            before[:going, 0] = torch.from_numpy(rows[:going, t])
            advance(going)
        sequences += [row[:length] for row, length in zip(rows, lengths[part], strict=True)]
    return sequences


def counts(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Logits (M, K) -> integers (M, K) that sum to 2^24 - K, proportional to the probabilities and rounded down.

    The remainder from rounding is added to the most probable code, the first one if there are several. constriction
    adds 1 to each count, so that no code is impossible or costs more than 24 bits, and its own scale factor is then
    exactly 1. Powers of two are computed from their Taylor series, to 1e-8, because the libraries' exp functions
    differ between machines.
    """
    exponent = np.subtract(logits, logits.max(axis=1, keepdims=True), dtype=np.float64)
    exponent *= LOG2_E
    np.maximum(exponent, MIN_EXPONENT, out=exponent)
    whole = np.rint(exponent)
    exponent -= whole  # -0.5..0.5
    series = [1.0]
    for n in range(1, 8):
        series.append(series[-1] * LN_2 / n)
    weights = np.full_like(exponent, series.pop())
    while series:
        weights *= exponent
        weights += series.pop()
    weights = np.floor(np.ldexp(weights, whole.astype(np.int32) + WEIGHT_BITS))
    total = 2.0**PRECISION - logits.shape[1]
    weights *= total / weights.sum(axis=1, keepdims=True)  # a sum of integers below 2^53 is exact in any order
    np.floor(weights, out=weights)
    weights[np.arange(len(logits)), logits.argmax(axis=1)] += total - weights.sum(axis=1)
    return weights


def encode_fixed(codes: Sequence[Codes], codebook_size: int) -> bytes:
    """Sequences -> bytes with ceil(log2 K) bits per code, most significant bit first, without padding in between."""
    shifts = np.arange(fixed_bits(codebook_size))[::-1]
    return np.packbits((np.concatenate(codes)[:, None] >> shifts & 1).astype(np.uint8)).tobytes()


def decode_fixed(payload: bytes, lengths: Sequence[int], codebook_size: int) -> list[Codes]:
    """Bytes and the lengths of the sequences -> the sequences. Raises ValueError for a wrong number of bytes."""
    bits, total = fixed_bits(codebook_size), sum(lengths)
    if len(payload) != -(-bits * total // 8):
        raise ValueError(f"{total} codes of {bits} bits require {-(-bits * total // 8)} bytes, got {len(payload)}")
    unpacked = np.unpackbits(np.frombuffer(payload, np.uint8), count=bits * total).reshape(total, bits)
    codes = unpacked.astype(np.int64) @ (1 << np.arange(bits)[::-1])
    return np.split(codes, np.cumsum(lengths)[:-1])


def fixed_bits(codebook_size: int) -> int:
    """Bits per code without entropy coding: ceil(log2 K)."""
    return (codebook_size - 1).bit_length()


def _forced_logits(
    coder: Coder, codes: Sequence[Codes], speakers: Sequence[str | None]
) -> Iterator[tuple[npt.NDArray[np.float32], Codes]]:
    """B sequences -> teacher-forced logits (M, K) and codes (M,), ordered by step and then stream, many steps each."""
    lengths = torch.tensor([len(sequence) for sequence in codes])
    targets = torch.zeros(len(codes), int(lengths[0]), dtype=torch.long)
    for row, sequence in zip(targets, codes, strict=True):
        row[: len(sequence)] = torch.from_numpy(sequence)
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
    """New streams; a speaker that is not in the prior becomes the null speaker."""
    speaker: Tensor | None = None
    if coder.prior.cfg.speakers:
        speaker = coder.prior.speaker_ids([name if name in coder.prior.cfg.speakers else None for name in speakers])
    sampling = SamplingConfig(temperature=0.0, threads=coder.threads)
    return open_compiled(coder.kernels, coder.prior.net, speaker, len(speakers), sampling)


def _parts(count: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, count, size))


def _bits(logits: npt.NDArray[np.float32], chosen: Codes) -> float:
    """(M, K), (M,) -> negative log2-likelihood of the codes, summed over them."""
    shifted = np.subtract(logits, logits.max(axis=1, keepdims=True), dtype=np.float64)
    selected = shifted[np.arange(len(chosen)), chosen]
    return float((np.log(np.exp(shifted).sum(axis=1)) - selected).sum() / math.log(2))
