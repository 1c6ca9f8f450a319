"""How classes are drawn: one configuration for the command line, the models and all sampling backends.

Importable without PyTorch, so that `vqaudio --help` is fast.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TypedDict, Unpack

from vqaudio.kernels.precision import PRECISIONS, Precision

MAX_THREADS = 1024  # more is a mistake, and the system may refuse to start them
MAX_COUNT = 1_000_000  # samples of one speaker or class; more is a mistake


def check_count(count: int) -> None:
    """Raises ValueError for a number of samples, of one speaker or class, that is out of range."""
    if not 1 <= count <= MAX_COUNT:
        raise ValueError(f"count must lie in 1..{MAX_COUNT}, got {count}")


def check_threads(threads: int | None) -> None:
    """Raises ValueError for a number of threads that is out of range."""
    if threads is not None and not 1 <= threads <= MAX_THREADS:
        bound = "least 1" if threads < 1 else f"most {MAX_THREADS}"
        raise ValueError(f"threads must be at {bound}, got {threads}; leave it out to use all of them")


class SamplingOptions(TypedDict, total=False):
    """The fields of `SamplingConfig` as keyword arguments, each of them optional."""

    temperature: float
    top_k: int | None
    top_p: float | None
    seed: int
    precision: Precision
    threads: int | None


@dataclass(frozen=True)
class SamplingConfig:
    """How classes (samples of a waveform, or codes) are drawn from a model's logits, and how they are computed.

    Temperature is applied first, then top-k, then top-p; `vqaudio.sampling.logits.draw` defines the rule, which all
    backends follow. Raises ValueError for values out of range.
    """

    temperature: float = 1.0
    """sampling temperature: 1 samples from the trained distribution, below 1 sharpens it, 0 is greedy"""
    top_k: int | None = None
    """sample from the k most likely classes only; None samples from all of them, 1 is greedy"""
    top_p: float | None = None
    """nucleus sampling (arXiv 1904.09751): sample from the smallest set of most likely classes whose probability, after
    temperature and top-k, reaches p, 0 < p <= 1; None and 1 sample from all of them"""
    seed: int = 0
    """random seed: the same seed gives the same output on the same kind of machine"""
    precision: Precision = "float32"
    """precision of the WaveNet's weights, for the compiled kernels on a CPU: bf16 and int8 are faster with AVX-512, and
    cost the shipped model 0.0004 and 0.006 bits per sample"""
    threads: int | None = None
    """maximum number of CPU threads; None uses as many as OMP_NUM_THREADS allows"""

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature must be a finite number, 0 (greedy) or more, got {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(
                f"top_k must be at least 1 (greedy), got {self.top_k}; leave it out to sample from all classes"
            )
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(
                f"top_p must be above 0 and at most 1, got {self.top_p}; leave it out to sample from all classes"
            )
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must lie in 0..2**32 - 1, got {self.seed}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}")
        check_threads(self.threads)

    @property
    def greedy(self) -> bool:
        """Whether the most likely class is always taken, so that nothing is random."""
        return self.temperature == 0 or self.top_k == 1

    def override(self, **options: Unpack[SamplingOptions]) -> SamplingConfig:
        """The same with the fields given as keyword arguments replaced. Raises TypeError for names that are no fields.

        This is the one place where the keyword arguments of public methods, as in `model.decode(tokens, top_p=0.9)`,
        become a configuration.
        """
        known = [field.name for field in dataclasses.fields(self)]
        if unknown := [name for name in options if name not in known]:
            raise TypeError(f"{', '.join(unknown)}: no sampling option of this name; there are {', '.join(known)}")
        return dataclasses.replace(self, **options) if options else self
