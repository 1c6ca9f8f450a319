"""vqaudio adapt: adds new speakers to a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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


def adapt(
    data: Path,
    out: Path,
    model: Model = "mini",
    speaker: Annotated[str | None, arg(metavar="NAME", help="the speaker's name; by default the folder's name")] = None,
    cfg: Annotated[AdaptConfig, arg(name="")] = AdaptConfig(),  # noqa: B008 (it is frozen)
    threads: Threads = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
) -> int:
    """Add new speakers to a model. The codes do not change, so existing token files remain valid.

    Some utterances are held out from training; the metrics printed at the end are measured on them.

    Args:
        data: folder with a few minutes of one speaker's audio, or folder with train.jsonl (and valid.jsonl) from
            vqaudio prepare, for one or several new speakers
        out: folder for the new model, which keeps all speakers of the original one
    """
    from vqaudio.speech.enroll_data import find_new_speakers
    from vqaudio.speech.enroll_run import adapt_to, check_target

    check_target(out, overwrite=overwrite)
    speech = find_new_speakers(data, speaker)
    net = load(model, device, threads)
    adapted = adapt_to(out, net, speech, cfg, overwrite=overwrite)
    print_facts({"tokens": f"unchanged, of model {adapted.model.fingerprint}", "written": str(out)})
    return max(print_enrolled(adapted.speakers), report_failures(speech.failures))
