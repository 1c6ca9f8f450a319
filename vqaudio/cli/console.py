"""What the verbs share: their flags, and how they speak to people.

torch is imported inside the functions, so that --help answers at once.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TextIO, TypeVar

from tqdm import tqdm
from tyro.conf import arg

from vqaudio.data.corpora import Failures
from vqaudio.sampling.config import SamplingConfig

if TYPE_CHECKING:
    from torch import nn

    from vqaudio.speech.enroll import EnrolledSpeaker
    from vqaudio.speech.model import SpeechVQVAE
    from vqaudio.tokens.decoding import DecodedUtterance

T = TypeVar("T")
Net = TypeVar("Net", bound="nn.Module")
Device = Annotated[Literal["auto", "cpu", "cuda"], arg(help="where to compute; auto: on a GPU if PyTorch sees one")]
Inputs = Annotated[
    tuple[Path, ...],
    arg(
        metavar="INPUT [INPUT ...]",
        help="audio files, folders (all audio in them and below) and manifests (.jsonl)",
        help_behavior_hint="(required)",
    ),
]
Model = Annotated[str, arg(metavar="M", help="a shipped model's name, a model's folder or a Hugging Face Hub id")]
Overwrite = Annotated[bool, arg(help="replace what exists already under the name of the output")]
Sampling = Annotated[SamplingConfig, arg(name="")]  # --temperature --top-k --top-p --seed --precision --threads
Batch = Annotated[int, arg(help="utterances decoded at once (with --stream always one)")]
Threads = Annotated[
    int | None, arg(metavar="INT", help="compute on at most so many; without it as OMP_NUM_THREADS says")
]


def fail(message: str, code: int) -> int:
    print(f"error: {' '.join(message.splitlines())}", file=sys.stderr)  # one line, whatever a library had to say
    return code


def print_facts(facts: dict[str, str], file: TextIO | None = None) -> None:
    for name, fact in facts.items():
        print(f"{name:<13} {fact}", file=file)


def report_failures(failures: Iterable[ValueError]) -> int:
    """Name every input that failed -> the exit code."""
    code = 0
    for failure in failures:
        code = fail(str(failure), 1)
    return code


@contextmanager
def failures_named() -> Iterator[Failures]:
    """A list of inputs that failed; they are named when the block ends, however it ends."""
    failures: Failures = []
    try:
        yield failures
    finally:
        report_failures(failures)


def progress(items: Iterable[T], total: int) -> Iterable[T]:
    return tqdm(items, total=total, unit="utt", disable=None)  # None: only where standard error is a terminal


def steps(items: Sequence[T], unit: str) -> Iterable[T]:
    """As `progress`, of things that differ much in how long they take."""
    return tqdm(items, unit=unit, smoothing=0, disable=None)


def load(model: str, device: Device, threads: int | None = None) -> SpeechVQVAE:
    """A speech model. Raises ValueError for a model of another kind."""
    from vqaudio.speech.model import SpeechVQVAE

    net = load_any(model, device, threads)
    if not isinstance(net, SpeechVQVAE):
        raise ValueError(
            f"{model} is a model of kind {type(net).__name__}, and this verb is for speech, whose codes have a time: "
            "vqaudio evaluate, sample and info take image models, recipes/train_prior.py writes their codes"
        )
    return net


def load_any(model: str, device: Device, threads: int | None = None) -> nn.Module:
    """As `load_kind`, of any kind."""
    from torch import nn

    return load_kind(model, device, nn.Module, threads)


def load_kind(model: str, device: Device, kind: type[Net], threads: int | None = None) -> Net:
    """A model of one kind, on the device, after `threads` are set. Raises ValueError for what cannot be."""
    import torch

    from vqaudio.checkpoint import load_model

    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("PyTorch sees no GPU here; use --device cpu")
    if threads is not None:
        if threads < 1:
            raise ValueError(f"--threads must be at least 1, got {threads}")
        torch.set_num_threads(threads)
    chosen = "cuda" if device == "cuda" or (device == "auto" and torch.cuda.is_available()) else "cpu"
    return load_model(model, chosen, kind=kind)


def write_utterances(
    spoken: Iterable[DecodedUtterance], total: int, net: SpeechVQVAE, sampling: SamplingConfig, overwrite: bool
) -> None:
    """Write every utterance as it comes, and say how fast that was."""
    from vqaudio.data.audio import write_audio

    count, samples, started_at = 0, 0, time.perf_counter()
    for line, wav in progress(spoken, total):
        line.path.parent.mkdir(parents=True, exist_ok=True)
        write_audio(line.path, wav, net.sample_rate, overwrite=overwrite)
        count, samples = count + 1, samples + len(wav)
    print_synthesis(f"{count} audio files", samples, started_at, net, sampling)


def print_synthesis(
    written: str,
    samples: int,
    started_at: float,
    net: SpeechVQVAE,
    sampling: SamplingConfig,
    file: TextIO | None = None,
) -> None:
    """What was written, how fast, and by which means; to standard output or another file."""
    from vqaudio.sampling.backends import choose

    seconds, elapsed = samples / net.sample_rate, time.perf_counter() - started_at
    facts = {"written": f"{written}, {seconds:.1f} s", "speed": real_time_factor(seconds, elapsed, net)}
    print_facts({**facts, "sampler": choose(net.decoder, sampling).name}, file)


def print_enrolled(voices: Iterable[EnrolledSpeaker]) -> int:
    """What was learned of each new speaker -> the exit code; a voice that is no better than others is named."""
    failures = []
    for v in voices:
        old = f"{v.bits_mean:.3f} in the mean of the old voices, {v.bits_others:.3f} in one of them"
        facts = {
            "speaker": f"{v.name}, learned from {v.seconds:.1f} s; {v.scored_seconds:.1f} s of what was held out cost",
            "bits": f"{v.bits:.3f} per sample; {v.bits_before:.3f} before it learned; {old}, {v.bits_nearest:.3f} in "
            f"the nearest, {v.nearest}",
            "gap": f"{v.gap:.3f} bits per sample are lost in another voice",
        }
        print_facts(facts)
        if not v.gap > 0:
            failures.append(
                ValueError(f"the voice of {v.name} is no better for its speech than others; try more --steps")
            )
    return report_failures(failures)


def real_time_factor(seconds: float, elapsed: float, net: SpeechVQVAE) -> str:
    return f"{seconds / elapsed:.3g} times real time on {net.device.type}"
