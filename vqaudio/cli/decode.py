"""vqaudio decode: tokens to audio files."""

from __future__ import annotations

import sys
import time
from itertools import chain
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from vqaudio.cli.console import (
    Batch,
    ChosenVocoder,
    Device,
    Model,
    Overwrite,
    Resume,
    Sampling,
    check_resume,
    decode_to_files,
    load,
    print_synthesis,
    report_failures,
)
from vqaudio.sampling.config import SamplingConfig


def decode(
    tokens: Positional[Path],
    out: Path,
    speaker: Annotated[str | None, arg(metavar="S", help="speaker of all rows; default: that of each row")] = None,
    stream: Annotated[bool, arg(help="write samples as soon as they are decoded, one row after another")] = False,
    model: Model = "mini",
    vocoder: ChosenVocoder = None,
    pitch: Annotated[
        Literal["tokens", "codes"] | None,
        arg(
            help="tokens: the pitch tokens of the rows, moved to median and range of a target speaker who is another; "
            "codes: as the codes predict it. Default: tokens, where rows have them, for vocoders conditioned on pitch"
        ),
    ] = None,
    sampling: Sampling = SamplingConfig(),
    batch_size: Batch = 16,
    device: Device = "auto",
    overwrite: Overwrite = False,
    resume: Resume = False,
) -> int:
    """Decode tokens to speech.

    Args:
        tokens: output of vqaudio tokenize with the same model: a token file or folder, or - for JSON Lines on standard
            input
        out: folder, in which each row becomes ID.wav; with --stream a file (.wav, .flac, or .pcm without a header), or
            - for headerless 16-bit little-endian samples on standard output, for example for a player
    """
    from vqaudio.data.audio_writer import STDOUT, check_destination, open_writer
    from vqaudio.speech.vocoders import check_streams
    from vqaudio.speech.vocoding import check_conditioned
    from vqaudio.tokens.decoding import DecodeJob, assign_speakers, name_rows, read_with_pitch
    from vqaudio.tokens.files import token_file

    check_resume(resume, overwrite)
    if stream and resume:
        raise ValueError("--resume applies to a folder of audio files, and --stream writes one file; leave it out")
    if stream:
        check_destination(out)
    elif str(out) == STDOUT:
        raise ValueError("--out - needs --stream; without it give a folder")
    net = load(model, device, sampling.threads)
    vocoder = net.check_vocoder(vocoder)
    if stream:
        check_streams(vocoder)
    if pitch == "tokens":
        check_conditioned(net, vocoder)
    with token_file(tokens) as file:
        speakers, failures = assign_speakers(net, read_with_pitch(file, pitch), speaker)
        paths = {} if stream else name_rows(speakers, out, failures, overwrite=overwrite or resume)
        code = report_failures(failures)
        if not stream:
            speakers = {id: name for id, name in speakers.items() if id in paths}
        rows = (row for row in read_with_pitch(file, pitch) if row.id in speakers)
        if stream and speakers:
            streams = (
                net.decode_stream(row.tokens, speakers[row.id], sampling, vocoder, source_speaker=row.speaker)
                for row in rows
            )
            written = "1 utterance" if len(speakers) == 1 else f"{len(speakers)} utterances"
            samples, started_at = 0, time.perf_counter()
            with open_writer(out, net.sample_rate, overwrite=overwrite) as write:
                for wav in chain.from_iterable(streams):
                    write(wav)
                    samples += len(wav)
            print_synthesis(written, samples, started_at, net, sampling, vocoder, file=sys.stderr)
        elif speakers:
            jobs = (DecodeJob(paths[row.id], row.tokens, speakers[row.id], source_speaker=row.speaker) for row in rows)
            decode_to_files(
                net, jobs, len(speakers), sampling, vocoder, batch_size=batch_size, overwrite=overwrite, resume=resume
            )
    return code
