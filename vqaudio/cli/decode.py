"""Tokens to speech."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from vqaudio.cli.console import (
    Batch,
    Device,
    Model,
    Overwrite,
    Sampling,
    load,
    print_synthesis,
    report_failures,
    write_utterances,
)
from vqaudio.sampling.config import SamplingConfig


def decode(
    tokens: Positional[Path],
    out: Path,
    speaker: Annotated[str | None, arg(metavar="S", help="whose voice; without it each row's own speaker")] = None,
    stream: Annotated[bool, arg(help="write samples while they are made, all rows one after another")] = False,
    model: Model = "mini",
    sampling: Sampling = SamplingConfig(),
    batch: Batch = 16,
    device: Device = "auto",
    overwrite: Overwrite = False,
) -> int:
    """Tokens to speech.

    Args:
        tokens: what vqaudio tokenize wrote with the same model: a .jsonl or .parquet file, or a folder
        out: folder for ID.wav of each row; with --stream a file (.wav, .flac, or .pcm without a header), or - for
            16-bit little-endian samples without a header on standard output, to be piped to a player
    """
    from vqaudio.data.audio_writer import STDOUT, check_destination, open_writer
    from vqaudio.tokens.decoding import DecodeJob, assign_speakers, decode_jobs, name_rows
    from vqaudio.tokens.files import read_tokens

    if stream:
        check_destination(out)
    elif str(out) == STDOUT:
        raise ValueError("--out - is for --stream; without it give a folder")
    net = load(model, device, sampling.threads)
    voices, failures = assign_speakers(net, tokens, speaker)
    paths = {} if stream else name_rows(voices, out, overwrite=overwrite)
    code = report_failures(failures)
    rows = (row for row in read_tokens(tokens) if row.id in voices)
    if stream and voices:
        samples, started_at = 0, time.perf_counter()
        with open_writer(out, net.sample_rate, overwrite=overwrite) as write:
            for row in rows:
                for wav in net.decode_stream(row.tokens, voices[row.id], sampling):
                    write(wav)
                    samples += len(wav)
        spoken = "1 utterance" if len(voices) == 1 else f"{len(voices)} utterances"
        print_synthesis(spoken, samples, started_at, net, sampling, file=sys.stderr)
    elif voices:
        lines = (DecodeJob(paths[row.id], row.tokens, voices[row.id]) for row in rows)
        write_utterances(decode_jobs(net, lines, sampling, batch=batch), len(voices), net, sampling, overwrite)
    return code
