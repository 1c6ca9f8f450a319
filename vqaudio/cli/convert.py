"""Speech to other voices."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from vqaudio.cli.console import (
    Batch,
    Device,
    Inputs,
    Model,
    Overwrite,
    Sampling,
    failures_named,
    load,
    write_utterances,
)
from vqaudio.sampling.config import SamplingConfig


def convert(
    inputs: Positional[Inputs],
    out: Path,
    speaker: Annotated[
        tuple[str, ...], arg(metavar="S [S ...]", help="whose voices; all: every voice that the model knows")
    ],
    model: Model = "mini",
    sampling: Sampling = SamplingConfig(),
    batch: Batch = 16,
    device: Device = "auto",
    overwrite: Overwrite = False,
) -> int:
    """What was said, said in another voice.

    Args:
        out: NAME.wav or NAME.flac for one input and one speaker; else a folder, for ID.wav of each input, with several
            speakers for ID-SPEAKER.wav
    """
    from vqaudio.tokens.bulk import find_sources, tokenize_all
    from vqaudio.tokens.decoding import DecodeJob, decode_jobs, name_outputs

    net = load(model, device, sampling.threads)
    sources = find_sources(inputs)
    voices = net.speakers if speaker == ("all",) else tuple(dict.fromkeys(speaker))
    if not voices:
        raise ValueError("name at least one speaker (vqaudio info MODEL lists them)")
    for name in voices:
        net.speaker_id(name)
    outputs = name_outputs(sources, voices, out, overwrite=overwrite)
    with failures_named() as failures:
        rows = tokenize_all(net, sources, failures)
        lines = (DecodeJob(outputs[row.id, name], row.tokens, name) for row in rows for name in voices)
        write_utterances(decode_jobs(net, lines, sampling, batch=batch), len(outputs), net, sampling, overwrite)
    return 1 if failures else 0
