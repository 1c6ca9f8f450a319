"""vqaudio tokenize: speech to tokens."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from vqaudio.cli.console import (
    Device,
    Inputs,
    Model,
    Overwrite,
    Resume,
    SpeakerLevel,
    Threads,
    TokenLayout,
    check_resume,
    facts_file,
    failures_named,
    import_torch,
    load,
    print_facts,
    progress,
    real_time_factor,
)
from vqaudio.tokens.layout import Layout

if TYPE_CHECKING:
    from vqaudio.data.audio import Failures
    from vqaudio.data.audio_folders import Source
    from vqaudio.speech.model import SpeechVQVAE
    from vqaudio.tokens.bulk import Engine
    from vqaudio.tokens.stats import TokenStats


def tokenize(
    inputs: Positional[Inputs],
    out: Path,
    model: Model = "mini",
    pitch: Annotated[bool, arg(help="pitch tokens beside the codes, for models that have them")] = False,
    workers: Annotated[
        int, arg(help="number of processes; each loads the model and computes on one thread (or --threads)")
    ] = 1,
    threads: Threads = None,
    device: Device = "auto",
    speaker_level: SpeakerLevel = 1,
    layout: TokenLayout = Layout(),
    overwrite: Overwrite = False,
    resume: Resume = False,
    engine: Annotated[
        Literal["local", "ray"],
        arg(help="local: this machine; ray: a Ray cluster, which writes --out as a folder of Parquet shards"),
    ] = "local",
    address: Annotated[
        str | None,
        arg(metavar="auto|HOST", help="with --engine ray, a running cluster; by default, Ray is started here"),
    ] = None,
    num_actors: Annotated[
        int | None,
        arg(metavar="N", help="with --engine ray, largest number of processes; by default one for each GPU or CPU"),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        arg(metavar="PATH", help="with --engine ray, folder for finished work, on shared storage (OUT.checkpoint)"),
    ] = None,
) -> int:
    """Convert speech to tokens.

    The id of a row is the name of its audio file; for files in subfolders of INPUT, the names of the subfolders come
    first. The speaker of a row is the name of the first subfolder (--speaker-level), and null if there is none. A
    manifest gives ids and speakers itself.

    With --resume, tokens that are there are kept if their audio file has the same length and was last modified, moved
    or replaced before they were written; others are computed again.

    Args:
        out: token file, such as NAME.jsonl, NAME.parquet or NAME.tar, a name without a suffix for a folder of .npy
            files with an index.jsonl, or - for JSON Lines on standard output
    """
    import_torch()
    from vqaudio.speech.tokenizer import check_pitch_quantizer
    from vqaudio.tokens.bulk import find_sources
    from vqaudio.tokens.files import check_ids, check_place_of_pitch, check_target
    from vqaudio.tokens.stats import TokenStats

    check_resume(resume, overwrite)
    keep = False
    if engine == "ray":
        from vqaudio.tokens.ray import may_be_finished

        _check_ray(out, layout, workers, resume)
        keep = not overwrite and may_be_finished(out, checkpoint)
    elif (address, num_actors, checkpoint) != (None, None, None):
        raise ValueError("--address, --num-actors and --checkpoint need --engine ray")
    if resume:
        _check_continued(out)
    check_target(out, overwrite=overwrite or keep or resume, layout=layout)
    net = load(model, "cpu" if engine == "ray" else device, threads)
    if pitch:
        check_place_of_pitch(out, layout)
        check_pitch_quantizer(net.pitch_quantizer)
    sources = find_sources(inputs, speaker_level)
    check_ids((source.id for source in sources), out, layout)
    stats, started_at = TokenStats(), time.perf_counter()
    with failures_named() as failures:
        if engine == "ray":
            from vqaudio.tokens.ray import Cluster, checkpoint_of, tokenize_on_ray

            cluster, work = Cluster(address, num_actors, device, threads or 1), checkpoint or checkpoint_of(out)
            watch = lambda rows: stats.watch(progress(rows, len(sources)))  # noqa: E731
            tokenize_on_ray(net, model, sources, out, work, failures, cluster, watch, keep=keep, pitch=pitch)
        else:
            options = {"overwrite": overwrite, "resume": resume, "pitch": pitch}
            with _engine(net, model, min(workers, len(sources)), threads, pitch) as tokenize_each:
                _write(net, sources, out, failures, tokenize_each, stats, layout, **options)
    summary = _summary(net, stats, len(sources), time.perf_counter() - started_at)
    print_facts({**summary, "written": str(out)}, facts_file(out))
    return 1 if failures else 0


def _write(
    net: SpeechVQVAE,
    sources: Sequence[Source],
    out: Path,
    failures: Failures,
    engine: Engine,
    stats: TokenStats,
    layout: Layout,
    *,
    overwrite: bool,
    resume: bool,
    pitch: bool,
) -> None:
    """Tokenizes on this machine and writes `out`."""
    from vqaudio.tokens.bulk import usable, with_storable_names
    from vqaudio.tokens.files import codes_file, write_tokens
    from vqaudio.tokens.resume import resumed

    storable = with_storable_names(sources, lambda id: codes_file(out, id, layout), failures)
    if resume:
        with resumed(net, storable, out, failures, engine, pitch=pitch) as rows:
            write_tokens(out, stats.watch(progress(rows, len(storable))), overwrite=True, layout=layout)
    else:
        rows = usable(engine(storable), len(storable), failures)
        write_tokens(out, stats.watch(progress(rows, len(storable))), overwrite=overwrite, layout=layout)


def _check_continued(out: Path) -> None:
    """Raises ValueError for an output that --resume cannot continue."""
    if str(out) == "-":
        raise ValueError("--resume continues a file or folder, and --out - is standard output; leave it out")
    if out.is_dir() and next(out.glob("*.parquet"), None):
        raise ValueError(f"{out} is a folder of Parquet shards, which a resumed run would replace; give another --out")


def _check_ray(out: Path, layout: Layout, workers: int, resume: bool) -> None:
    """Raises ValueError for options that --engine ray does not have, and ModuleNotFoundError without Ray."""
    from vqaudio.tokens.files import format_of
    from vqaudio.tokens.ray import check_ray

    if layout != Layout() or str(out) == "-" or format_of(out, layout) != "npy":
        raise ValueError(
            f"cannot write {out}: --engine ray writes a folder of Parquet shards; give a name without a suffix, and no "
            "--format, --dedup or --shard-... (vqaudio reformat converts the folder)"
        )
    if workers != 1:
        raise ValueError("--workers are processes of --engine local; use --num-actors with --engine ray")
    check_ray()
    if resume:
        raise ValueError("--engine ray continues an interrupted run without --resume; leave it out")


def _summary(net: SpeechVQVAE, stats: TokenStats, count: int, elapsed: float) -> dict[str, str]:
    """What became of `count` inputs in `elapsed` seconds."""
    from vqaudio.speech.describe import bits_per_second, pitch_facts

    used = len(stats.codes)
    return {
        "utterances": f"{stats.rows} of {count}, {stats.seconds:.1f} s of audio",
        "codes": f"{stats.num_tokens}, {net.frame_rate:g} per second",
        "bitrate": bits_per_second(net),
        **({"pitch": pitch_facts(net)} if stats.pitch_tokens else {}),
        "usage": f"{used} of {net.codebook_size} codes occur ({used / net.codebook_size:.1%})",
        "perplexity": f"{stats.perplexity:.1f}",
        "speed": real_time_factor(stats.seconds, elapsed, net),
    }


@contextmanager
def _engine(net: SpeechVQVAE, model: str, workers: int, threads: int | None, pitch: bool) -> Iterator[Engine]:
    """What tokenizes: this process, or several others."""
    from vqaudio.tokens.bulk import tokenize_each
    from vqaudio.tokens.workers import worker_processes

    if workers == 1:
        yield partial(tokenize_each, net, pitch=pitch)
    else:
        with worker_processes(net, model, workers, threads, pitch=pitch) as engine:
            yield engine
