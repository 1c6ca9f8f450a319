"""vqaudio verify: whether a model and this installation do what they promise."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from vqaudio.cli.console import Device, Model, Threads, load, report_failures

if TYPE_CHECKING:
    from vqaudio.data.audio import Failures
    from vqaudio.verify.checks import Outcome

MARKS = {"passed": ("✓", "ok    "), "failed": ("✗", "FAILED"), "skipped": ("-", "-     ")}


def verify(
    model: Positional[Model],
    audio: Annotated[
        tuple[Path, ...],
        arg(metavar="FILE [FILE ...]", help="audio files, folders or manifests on which codes are compared too"),
    ] = (),
    onnx: Annotated[
        Path | None,
        arg(metavar="FILE_OR_DIR", help="what vqaudio export onnx wrote for M: its codes are compared"),
    ] = None,
    hf: Annotated[Path | None, arg(metavar="DIR", help="what vqaudio export hf wrote for M, likewise")] = None,
    device: Device = "auto",
    threads: Threads = None,
) -> int:
    """Check that a model and this installation do what they promise: a table, and exit code 1 if a check failed.

    The tokens of a shipped model's examples are those that it was shipped with; utterances have the same codes alone,
    in a batch, in chunks and streamed; the compiled kernels give what PyTorch gives; archives and saved models are
    restored.
    """
    from vqaudio.checkpoint import ModelError, model_folder
    from vqaudio.verify.checks import run_checks
    from vqaudio.verify.exports import checks_of_exports
    from vqaudio.verify.speech_model import Subject, checks_of
    from vqaudio.verify.utterances import examples, of_files, synthetic

    folder = model_folder(model)
    try:
        net = load(str(folder), device, threads)
    except ModelError as error:
        if not (folder / "config.json").is_file():
            raise  # no model, but wrong usage
        return report_failures([error])
    unusable: Failures = []
    utterances = [*examples(folder, net), *synthetic(net), *of_files(audio, net.sample_rate, unusable)]
    subject, broken = Subject(net, folder, utterances), []
    for outcome in run_checks([*checks_of(subject), *checks_of_exports(subject, onnx, hf)]):
        print(_row(outcome), flush=True)
        if outcome.status == "failed":
            broken.append(ValueError(f"{outcome.title}: {outcome.detail}"))
    return report_failures([*unusable, *broken])


def _row(outcome: Outcome) -> str:
    """Mark, title, seconds, and what was compared or why it was not; what failed is printed on standard error."""
    mark, word = MARKS[outcome.status]
    try:
        mark.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        mark = word
    detail = "" if outcome.status == "failed" else outcome.detail
    return f"{mark} {outcome.title:<32} {outcome.seconds:6.2f} s  {detail}".rstrip()
