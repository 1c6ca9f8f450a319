"""Flags that several verbs share, and functions that load models and print results.

torch is imported inside the functions, so that --help is fast.
"""

from __future__ import annotations

import gc
import sys
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TextIO, TypeVar

from tqdm import tqdm
from tyro.conf import arg

from vqaudio.data.audio import AudioWarning, Failures
from vqaudio.pipes import DASH
from vqaudio.sampling.config import SamplingConfig, check_threads
from vqaudio.speech.vocoders import Vocoder
from vqaudio.tokens.layout import Layout

if TYPE_CHECKING:
    from torch import nn

    from vqaudio.speech.enroll import EnrolledSpeaker
    from vqaudio.speech.model import SpeechVQVAE
    from vqaudio.tokens.decoding import DecodeJob

T = TypeVar("T")
Net = TypeVar("Net", bound="nn.Module")
Device = Annotated[Literal["auto", "cpu", "cuda"], arg(help="device to run on; auto: a GPU if PyTorch finds one")]
Inputs = Annotated[
    tuple[Path, ...],
    arg(
        metavar="INPUT [INPUT ...]",
        help="audio files (-: standard input), folders (all audio in them and their subfolders) and manifests (.jsonl)",
        help_behavior_hint="(required)",
    ),
]
Model = Annotated[str, arg(metavar="M", help="name of a shipped model, folder of a model, or Hugging Face Hub id")]
Overwrite = Annotated[bool, arg(help="replace existing output")]
SpeakerLevel = Annotated[
    int,
    arg(
        metavar="INT",
        help="which folder below a folder of audio names the speaker: 1 the first, 2 the one in it, and so on",
    ),
]
Resume = Annotated[bool, arg(help="continue interrupted work: skip what is done already and matches")]
Sampling = Annotated[SamplingConfig, arg(name="")]  # --temperature --top-k --top-p --seed --precision --threads
ChosenVocoder = Annotated[
    Vocoder | None,
    arg(
        help="vocoder: istft (source-filter), wavenet, or griffin-lim (from the predicted log-mel spectrum); of the "
        "sampling options, istft and griffin-lim use only --seed; default: the model's (vqaudio info MODEL)"
    ),
]
TokenLayout = Annotated[Layout, arg(name="")]  # --format --dedup --shard-rows --shard-bytes
Batch = Annotated[int, arg(help="number of utterances decoded at once")]
Threads = Annotated[
    int | None, arg(metavar="INT", help="largest number of CPU threads; by default as set by OMP_NUM_THREADS")
]


def fail(message: str, code: int) -> int:
    """Prints an error on standard error, as one line even if a library's message has several; returns `code`."""
    print(f"error: {' '.join(message.splitlines())}", file=sys.stderr)
    return code


@contextmanager
def warnings_in_one_line() -> Iterator[None]:
    """Prints an AudioWarning on standard error like an error, without the place in the code that it comes from."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def show_sentence(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if issubclass(category, AudioWarning):
                print(f"warning: {message}", file=sys.stderr)
            else:
                show(message, category, filename, lineno, file, line)

        warnings.showwarning = show_sentence
        yield


def print_facts(facts: dict[str, str], file: TextIO | None = None) -> None:
    """Prints one line per name and value, to standard output by default."""
    width = max([13, *map(len, facts)])
    for name, fact in facts.items():
        print(f"{name:<{width}} {fact}", file=file)


def facts_file(out: Path) -> TextIO:
    """Where facts are printed: on standard error if standard output is what the verb writes (-)."""
    return sys.stderr if str(out) == DASH else sys.stdout


def report_failures(failures: Iterable[ValueError]) -> int:
    """Prints every input that failed on standard error -> the exit code, 0 if there is none."""
    code = 0
    for failure in failures:
        code = fail(str(failure), 1)
    return code


@contextmanager
def failures_named() -> Iterator[Failures]:
    """A list for inputs that failed; they are printed when the block ends, also after an exception."""
    failures: Failures = []
    try:
        yield failures
    finally:
        report_failures(failures)


def progress(items: Iterable[T], total: int) -> Iterable[T]:
    """The items, with a progress bar that counts utterances."""
    return tqdm(items, total=total, unit="utt", disable=None)  # None: only if standard error is a terminal


def steps(items: Sequence[T], unit: str) -> Iterable[T]:
    """Like `progress`, for items that take very different times."""
    return tqdm(items, unit=unit, smoothing=0, disable=None)


def import_torch() -> None:
    """Imports PyTorch, whose objects stay: looking for garbage among them would take a third of a second."""
    if "torch" in sys.modules:
        return
    gc.disable()
    import torch  # noqa: F401

    gc.freeze()
    gc.enable()


def load(model: str, device: Device, threads: int | None = None) -> SpeechVQVAE:
    """A speech model. Raises ValueError for a model of another kind."""
    from vqaudio.speech.model import SpeechVQVAE

    net = load_any(model, device, threads)
    if not isinstance(net, SpeechVQVAE):
        raise ValueError(
            f"{model} is a model of kind {type(net).__name__}, but this verb needs a SpeechVQVAE; image models are "
            "supported by vqaudio evaluate, sample and info, and recipes/train_prior.py computes their codes"
        )
    return net


def load_any(model: str, device: Device, threads: int | None = None) -> nn.Module:
    """Like `load_kind`, for models of any kind."""
    from torch import nn

    return load_kind(model, device, nn.Module, threads)


def load_kind(model: str, device: Device, kind: type[Net], threads: int | None = None) -> Net:
    """A model of the given class on `device`; sets the number of threads of PyTorch first.

    Raises ValueError for a missing GPU, a number of threads below 1 and a model that cannot be loaded as this kind.
    """
    import torch

    from vqaudio.checkpoint import load_model

    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("PyTorch finds no GPU; use --device cpu")
    if threads is not None:
        check_threads(threads)
        torch.set_num_threads(threads)
    chosen = "cuda" if device == "cuda" or (device == "auto" and torch.cuda.is_available()) else "cpu"
    return load_model(model, chosen, kind=kind)


def check_resume(resume: bool, overwrite: bool) -> None:
    """Raises ValueError where both ways to treat existing output are asked for."""
    if resume and overwrite:
        raise ValueError("--resume keeps existing output and --overwrite replaces it; give one of them")


def decode_to_files(
    net: SpeechVQVAE,
    jobs: Iterable[DecodeJob],
    total: int,
    sampling: SamplingConfig,
    vocoder: Vocoder,
    *,
    batch_size: int,
    overwrite: bool,
    resume: bool = False,
) -> None:
    """Decodes `total` jobs, writes each utterance as soon as it is decoded, and prints the speed at the end.

    Audio by the WaveNet carries a `record` of what it was made from, as its comment. With `resume`, jobs whose audio is
    there are skipped. Raises as `decode_jobs` and `is_decoded` do.
    """
    from vqaudio.data.audio import to_int16, write_audio
    from vqaudio.tokens.decoding import decode_jobs, record

    if vocoder == "griffin-lim":
        from librosa import griffinlim as griffinlim  # before the time is taken: importing it takes a second

    if resume:
        jobs = _not_done(jobs, net, sampling, vocoder)
    decoded = decode_jobs(net, jobs, sampling, vocoder=vocoder, batch_size=batch_size)
    count, samples, started_at = 0, 0, time.perf_counter()
    for job, wav in progress(decoded, total):
        job.path.parent.mkdir(parents=True, exist_ok=True)
        comment = record(job, sampling, to_int16(wav.numpy())) if vocoder == "wavenet" else None
        write_audio(job.path, wav, net.sample_rate, overwrite=overwrite, comment=comment)
        count, samples = count + 1, samples + len(wav)
    print_synthesis(f"{count} audio files", samples, started_at, net, sampling, vocoder)


def _not_done(
    jobs: Iterable[DecodeJob], net: SpeechVQVAE, sampling: SamplingConfig, vocoder: Vocoder
) -> Iterator[DecodeJob]:
    """The jobs whose audio is still to be written."""
    from vqaudio.tokens.resume import is_decoded

    skipped = 0
    for job in jobs:
        if is_decoded(net, job, sampling, vocoder):
            skipped += 1
        else:
            yield job
    if skipped:
        print_facts({"skipped": f"{skipped} that were done already"})


def print_synthesis(
    written: str,
    samples: int,
    started_at: float,
    net: SpeechVQVAE,
    sampling: SamplingConfig,
    vocoder: Vocoder,
    file: TextIO | None = None,
) -> None:
    """Prints what was written, the real-time factor and the vocoder, to standard output by default."""
    from vqaudio.sampling.backends import choose

    seconds, elapsed = samples / net.sample_rate, time.perf_counter() - started_at
    facts = {"written": f"{written}, {seconds:.1f} s", "speed": real_time_factor(seconds, elapsed, net)}
    how = f", {choose(net.decoder, sampling).name}" if vocoder == "wavenet" else ""
    print_facts({**facts, "vocoder": f"{vocoder}{how}"}, file)


def print_enrolled(speakers: Iterable[EnrolledSpeaker]) -> int:
    """Prints the metrics of each new speaker -> the exit code; an enrollment without any gain is an error."""
    failures = []
    for s in speakers:
        facts = {
            "speaker": f"{s.name}: {s.seconds:.1f} s of training speech, {s.held_out_seconds:.1f} s of held-out speech",
            "bits": f"{s.bits:.3f} per sample of held-out speech, {s.bits_initial:.3f} before training",
            "others": f"{s.bits_mean_embedding:.3f} with the mean speaker embedding, {s.bits_other_speakers:.3f} with "
            f"another speaker on average, {s.bits_nearest_speaker:.3f} with the nearest one, {s.nearest_speaker}",
            "speaker gap": f"{s.conditioning_gap:.3f} bits per sample (others on average minus the new speaker)",
        }
        print_facts(facts)
        if not s.conditioning_gap > 0:
            failures.append(
                ValueError(
                    f"the trained embedding of {s.name} fits its held-out speech no better than other speakers' "
                    f"embeddings (speaker gap {s.conditioning_gap:.3f}); try more --steps"
                )
            )
    return report_failures(failures)


def real_time_factor(seconds: float, elapsed: float, net: SpeechVQVAE) -> str:
    """RTF = audio seconds per wall second: above 1 is faster than real time."""
    return f"RTF {seconds / elapsed:.3g} on {net.device.type} (audio seconds per wall second)"
