"""Mu-law companding (the continuous curve of ITU-T G.711): samples in [-1, 1] <-> classes.

Computed in float64: float32 logarithms differ in their last bit between vectorised and scalar code, so that the class
of a sample could depend on its position in a tensor. By torchaudio, or by the same formula where it cannot be imported.
"""

from functools import lru_cache

import torch
from torch import Tensor

from vqaudio.torchaudio_functional import torchaudio_functional


def mulaw_encode(wav: Tensor, classes: int = 256) -> Tensor:
    """Floating-point samples of any shape, clipped to [-1, 1] -> int64 classes in [0, classes).

    Raises ValueError for a number of classes outside 2 to 65536 and for samples that are not
    floating-point numbers.
    """
    _check_classes(classes)
    if not wav.is_floating_point():
        raise ValueError(f"samples must be floating-point in [-1, 1], got {wav.dtype}")
    functional = torchaudio_functional()
    encode = functional.mu_law_encoding if functional else _mu_law_encoding
    return encode(wav.double().clamp(-1.0, 1.0), classes)


def mulaw_decode(codes: Tensor, classes: int = 256) -> Tensor:
    """Integer classes of any shape in [0, classes) -> float32 samples in [-1, 1].

    Raises ValueError for a number of classes outside 2 to 65536 and for codes out of range.
    """
    _check_classes(classes)
    if codes.is_floating_point() or codes.dtype == torch.bool:
        raise ValueError(f"mu-law codes must be integers, got {codes.dtype}")
    if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < classes:
        raise ValueError(
            f"mu-law codes must lie in 0 to {classes - 1}, got {int(codes.min())} to "
            f"{int(codes.max())}; use the number of classes that they were encoded with"
        )
    functional = torchaudio_functional()
    decode = functional.mu_law_decoding if functional else _mu_law_decoding
    return decode(codes.double(), classes).float()


@lru_cache
def mulaw_table(classes: int = 256) -> Tensor:
    """(65536,) int64: the class of every int16 sample s, at index s + 32768.

    A lookup replaces one logarithm per sample. The table is cached and shared; do not modify it.
    """
    return mulaw_encode(torch.arange(-32768, 32768, dtype=torch.float64) / 32768, classes)


def _check_classes(classes: int) -> None:
    if not 2 <= classes <= 65536:
        raise ValueError(f"mu-law classes must lie in 2 to 65536, got {classes}; 256 is usual")


def _mu_law_encoding(wav: Tensor, classes: int) -> Tensor:
    """Floating-point samples in [-1, 1] -> int64 classes, bit-identical to torchaudio.functional.mu_law_encoding."""
    mu = torch.tensor(classes - 1.0, dtype=wav.dtype)
    curve = torch.sign(wav) * torch.log1p(mu * wav.abs()) / torch.log1p(mu)  # in [-1, 1]
    return ((curve + 1) / 2 * mu + 0.5).to(torch.int64)


def _mu_law_decoding(codes: Tensor, classes: int) -> Tensor:
    """Classes as floating-point numbers -> samples, bit-identical to torchaudio.functional.mu_law_decoding."""
    mu = torch.tensor(classes - 1.0, dtype=codes.dtype)
    curve = codes / mu * 2 - 1.0  # in [-1, 1]
    return torch.sign(curve) * (torch.exp(curve.abs() * torch.log1p(mu)) - 1.0) / mu
