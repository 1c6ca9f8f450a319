"""Speech to tokens, tokens to speech, speech to other voices, and new voices."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from vqaudio.speech.enroll_config import AdaptConfig
from vqaudio.console import (
    Batch,
    Device,
    Inputs,
    Model,
    Overwrite,
    Precision,
    Seed,
    Temperature,
    Threads,
    TopK,
    failures_named,
    load,
    progress,
    report,
    tell,
    tell_speech,
    tell_voices,
    times_real_time,
    write_all,
)

if TYPE_CHECKING:
    from vqaudio.speech.synthesis import SpeakOptions


def tokenize(
    inputs: Positional[Inputs],
    out: Path,
    model: Model = "mini",
    threads: Threads = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
) -> int:
    """Speech to tokens.

    The id of a row is the name of its file, below a folder INPUT with the names of the subfolders before it; its
    speaker is the name of the subfolder that the file lies in (null where there is none), or what a manifest says.

    Args:
        out: NAME.jsonl or NAME.parquet, or a name without a suffix for a folder of .npy files with an index.jsonl
    """
    from vqaudio.tokens.bulk import find_sources, tokenize_all
    from vqaudio.tokens.stats import TokenStats, bits_per_second
    from vqaudio.tokens.files import check_target, write_tokens

    check_target(out, overwrite=overwrite)
    net = load(model, device, threads)
    sources = find_sources(inputs)
    stats, started_at = TokenStats(), time.perf_counter()
    with failures_named() as failures:
        rows = tokenize_all(net, sources, failures)
        write_tokens(out, stats.watch(progress(rows, len(sources))), overwrite=overwrite)
    elapsed = time.perf_counter() - started_at
    used = len(stats.codes)
    summary = {
        "utterances": f"{stats.rows} of {len(sources)}, {stats.seconds:.1f} s of audio",
        "tokens": f"{stats.num_tokens}, {net.frame_rate:g} per second",
        "bits": bits_per_second(net),
        "usage": f"{used} of {net.codebook_size} codes ({used / net.codebook_size:.0%})",
        "perplexity": f"{stats.perplexity:.1f}",
        "speed": times_real_time(stats.seconds, elapsed, net),
        "written": str(out),
    }
    tell(summary)
    return 1 if failures else 0


def decode(
    tokens: Positional[Path],
    out: Path,
    speaker: Annotated[str | None, arg(metavar="S", help="whose voice; without it each row's own speaker")] = None,
    stream: Annotated[bool, arg(help="write samples while they are made, all rows one after another")] = False,
    model: Model = "mini",
    temperature: Temperature = 1.0,
    top_k: TopK = None,
    seed: Seed = 0,
    precision: Precision = "float32",
    threads: Threads = None,
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
    from vqaudio.data.audio_writer import STDOUT, check_sink, open_sink
    from vqaudio.tokens.files import read_tokens
    from vqaudio.tokens.decoding import Line, cast_rows, name_rows, speak

    if stream:
        check_sink(out)
    elif str(out) == STDOUT:
        raise ValueError("--out - is for --stream; without it give a folder")
    net = load(model, device, threads)
    voices, failures = cast_rows(net, tokens, speaker)
    paths = {} if stream else name_rows(voices, out, overwrite=overwrite)
    code = report(failures)
    rows = (row for row in read_tokens(tokens) if row.id in voices)
    options: SpeakOptions = {"temperature": temperature, "top_k": top_k, "seed": seed, "precision": precision}
    if stream and voices:
        samples, started_at = 0, time.perf_counter()
        with open_sink(out, net.sample_rate, overwrite=overwrite) as write:
            for row in rows:
                for wav in net.decode_stream(row.tokens, voices[row.id], **options):
                    write(wav)
                    samples += len(wav)
        spoken = "1 utterance" if len(voices) == 1 else f"{len(voices)} utterances"
        tell_speech(spoken, samples, started_at, net, precision, file=sys.stderr)
    elif voices:
        lines = (Line(paths[row.id], row.tokens, voices[row.id]) for row in rows)
        write_all(speak(net, lines, batch=batch, **options), len(voices), net, precision, overwrite)
    return code


def convert(
    inputs: Positional[Inputs],
    out: Path,
    speaker: Annotated[
        tuple[str, ...], arg(metavar="S [S ...]", help="whose voices; all: every voice that the model knows")
    ],
    model: Model = "mini",
    temperature: Temperature = 1.0,
    top_k: TopK = None,
    seed: Seed = 0,
    precision: Precision = "float32",
    threads: Threads = None,
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
    from vqaudio.tokens.decoding import Line, name_outputs, speak

    net = load(model, device, threads)
    sources = find_sources(inputs)
    voices = net.speakers if speaker == ("all",) else tuple(dict.fromkeys(speaker))
    if not voices:
        raise ValueError("name at least one speaker (vqaudio info MODEL lists them)")
    for name in voices:
        net.speaker_id(name)
    outputs = name_outputs(sources, voices, out, overwrite=overwrite)
    with failures_named() as failures:
        rows = tokenize_all(net, sources, failures)
        lines = (Line(outputs[row.id, name], row.tokens, name) for row in rows for name in voices)
        options: SpeakOptions = {"temperature": temperature, "top_k": top_k, "seed": seed, "precision": precision}
        write_all(speak(net, lines, batch=batch, **options), len(outputs), net, precision, overwrite)
    return 1 if failures else 0


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
    from vqaudio.speech.enroll_run import adapt_to, check_target
    from vqaudio.speech.enroll_data import find_newcomers

    check_target(out, overwrite=overwrite)
    speech = find_newcomers(data, speaker)
    net = load(model, device, threads)
    adapted = adapt_to(out, net, speech, learning, overwrite=overwrite)
    tell({"tokens": f"unchanged, of model {adapted.model.fingerprint}", "written": str(out)})
    return max(tell_voices(adapted.voices), report(speech.failures))
