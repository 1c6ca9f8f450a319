"""New voices for a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from vqaudio.cli.console import (
    Device,
    Model,
    Overwrite,
    Threads,
    load,
    print_enrolled,
    print_facts,
    report_failures,
)
from vqaudio.speech.enroll_config import AdaptConfig

if TYPE_CHECKING:
    pass


def adapt(
    data: Path,
    out: Path,
    model: Model = "mini",
    speaker: Annotated[str | None, arg(metavar="NAME", help="of a folder of audio; without it the folder's")] = None,
    learning: Annotated[AdaptConfig, arg(name="")] = AdaptConfig(),  # noqa: B008 (it is frozen)
    threads: Threads = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
) -> int:
    """A new speaker for a model, whose tokens stay the same: its token files remain valid.

    Some utterances are held out; what is told about the new voice at the end is measured on them.

    Args:
        data: folder of one speaker's audio, a few minutes of it; or with train.jsonl (and valid.jsonl) of vqaudio
            prepare, of one new speaker or several
        out: folder for the new model, which keeps all voices of the old one
    """
    from vqaudio.speech.enroll_data import find_new_speakers
    from vqaudio.speech.enroll_run import adapt_to, check_target

    check_target(out, overwrite=overwrite)
    speech = find_new_speakers(data, speaker)
    net = load(model, device, threads)
    adapted = adapt_to(out, net, speech, learning, overwrite=overwrite)
    print_facts({"tokens": f"unchanged, of model {adapted.model.fingerprint}", "written": str(out)})
    return max(print_enrolled(adapted.voices), report_failures(speech.failures))
