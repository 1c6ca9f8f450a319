"""Tokenizes on a Ray cluster: the same rows in the same order as one process, as a folder of Parquet shards.

Actors tokenize blocks of utterances. Ray Data writes each finished block as a Parquet file into a working folder on
shared storage, and with it a checkpoint of the utterances in it (two-phase commit), so that the same command continues
after any interruption. When every utterance is there, the shards are written in the order of the inputs.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import socket
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from uuid import uuid4

import numpy as np
import torch
from filelock import FileLock, Timeout

from vqaudio.atomic import atomic_file, atomic_folder, save_json
from vqaudio.checkpoint import load_model, shipped_models
from vqaudio.data.audio import AudioError, Failures
from vqaudio.data.audio_folders import Source
from vqaudio.json_text import parse_json
from vqaudio.pipes import is_stream
from vqaudio.speech.model import SpeechVQVAE
from vqaudio.speech.tokenizer import check_pitch_quantizer
from vqaudio.speech.tokens import PitchTokens, Tokens
from vqaudio.tokens.bulk import Result, tokenize_each, usable
from vqaudio.tokens.parquet import FAILURES, SUFFIX, write_parquet
from vqaudio.tokens.rows import TokenRow

if TYPE_CHECKING:
    import pyarrow as pa
    from ray.data import Datasource

SHARD_ROWS = 4096  # utterances in a shard
BLOCK_ROWS = 256  # largest number of utterances that an actor tokenizes before they are written
BLOCKS_PER_ACTOR = 8  # at least, so that none waits long for another's last block
PORT = 6379  # of a cluster, by default
PATIENCE = 10.0  # seconds in which a cluster has to answer
DIGEST = 12  # hex digits of a shard's content in its name
PENDING = ".pending"  # in the name of a checkpoint that Ray Data has not finished
ROWS, IDS, PATHS, RUN, LOCK = "rows", "ids", "paths.arrow", "run.json", "lock"  # in the working folder


@dataclass(frozen=True)
class Cluster:
    """Where Ray runs, and how widely."""

    address: str | None = None
    """of a running cluster (auto: the one that this machine belongs to); None starts Ray on this machine alone"""
    num_actors: int | None = None
    """largest number of processes that tokenize; None: one for each GPU, or without GPUs for each CPU"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """of the actors; auto: a GPU each if the cluster has any"""
    threads: int = 1
    """CPU threads of an actor"""

    def __post_init__(self) -> None:
        for name in ("num_actors", "threads"):
            count = getattr(self, name)
            if count is not None and count < 1:
                raise ValueError(f"{name} must be at least 1, got {count}")


def check_ray() -> None:
    """Raises ModuleNotFoundError, with the package to install, if Ray Data is missing or too old."""
    try:
        from ray.data.checkpoint import CheckpointConfig  # noqa: F401
    except ImportError as error:
        raise ModuleNotFoundError("--engine ray needs Ray Data 2.55 or newer: pip install 'vqaudio[bulk]'") from error


def checkpoint_of(out: Path) -> Path:
    """NAME.checkpoint beside `out`: the working folder."""
    return out.with_name(f"{out.name}.checkpoint")


def may_be_finished(out: Path, checkpoint: Path | None) -> bool:
    """Whether a run may have been killed between writing `out` and deleting its working folder."""
    return out.is_dir() and any(out.iterdir()) and ((checkpoint or checkpoint_of(out)) / RUN).exists()


def tokenize_on_ray(
    model: SpeechVQVAE,
    name: str,
    sources: Sequence[Source],
    out: Path,
    checkpoint: Path,
    failures: Failures,
    cluster: Cluster = Cluster(),
    watch: Callable[[Iterable[TokenRow]], Iterable[TokenRow]] = iter,
    *,
    keep: bool = False,
    pitch: bool = False,
) -> None:
    """Tokenizes the sources into the folder `out`: shards NNNNN-DIGEST.parquet, and failures.jsonl if any failed.

    The actors load `name`, which `model` is. `checkpoint`, the working folder, is continued if it exists, and deleted
    at the end. It, the audio and a model's folder have the same paths on all machines. Sources that cannot be used are
    appended to `failures`. `watch` gets every row as it is written. The caller checks whether `out` may be replaced;
    with `keep` it may not, and only a run that was killed after it had written `out` is brought to its end.

    Raises ValueError for a stream, for a GPU that the cluster does not have and for a working folder of other inputs or
    another model, AudioError if no source can be used, ConnectionError if there is no cluster at the address,
    ChildProcessError if Ray gives up, FileExistsError if `keep` forbids to write, and ModuleNotFoundError without Ray.
    """
    check_ray()
    if streams := [source.id for source in sources if is_stream(source.path)]:
        raise ValueError(f"{streams[0]} is a stream, which other processes cannot read; use --engine local")
    pitch_model = check_pitch_quantizer(model.pitch_quantizer).fingerprint if pitch else None
    with _claimed(checkpoint, model, sources, pitch_model):
        if (numbers := _unfinished(checkpoint / IDS, len(sources))).size:
            if keep:
                raise _exists(out)
            try:
                with _connected(cluster.address):
                    _tokenize(model, name, sources, numbers, checkpoint, cluster, pitch=pitch)
            except ConnectionError:
                if not (checkpoint / IDS).exists():  # nothing was begun
                    shutil.rmtree(checkpoint)
                raise
        failed: list[str] = []
        try:
            with atomic_folder(out) as folder:
                results = _noted(_results(checkpoint / ROWS, model, sources), sources, failed)
                _write_shards(folder, watch(usable(results, len(sources), failures)))
                if failed:
                    (folder / FAILURES).write_text("".join(failed), encoding="utf-8")
                if keep and _contents(folder) != _contents(out):
                    raise _exists(out)
        except AudioError:  # none can be used
            _discard(checkpoint)
            raise
        _discard(checkpoint)


def _exists(out: Path) -> FileExistsError:
    return FileExistsError(f"{out} exists already; pass --overwrite to replace it")


def _contents(folder: Path) -> dict[str, bytes]:
    """Names of the files of an output folder, which identify the content of shards, and the failures."""
    return {path.name: path.read_bytes() if path.name == FAILURES else b"" for path in folder.iterdir()}


def _discard(checkpoint: Path) -> None:
    """Deletes the working folder: it is either whole or, under a hidden name, gone, whenever the process is killed."""
    checkpoint = checkpoint.resolve()
    shutil.rmtree(hidden := _discarded(checkpoint), ignore_errors=True)
    with suppress(OSError):  # such as where a file system is mounted
        checkpoint = checkpoint.rename(hidden)
    shutil.rmtree(checkpoint)


def _discarded(checkpoint: Path) -> Path:
    return checkpoint.with_name(f".{checkpoint.name}.old")


@contextmanager
def _claimed(
    checkpoint: Path, model: SpeechVQVAE, sources: Sequence[Source], pitch_model: str | None = None
) -> Iterator[None]:
    """Makes or continues the working folder. Raises ValueError if it is of another run, or in use."""
    digest = hashlib.sha256()
    for source in sources:
        digest.update(repr((source.id, os.fsencode(source.path.absolute()), source.speaker)).encode())
    run = {"model": model.fingerprint, "utterances": len(sources), "inputs": digest.hexdigest()}
    run |= {} if pitch_model is None else {"pitch_model": pitch_model}
    checkpoint.mkdir(parents=True, exist_ok=True)
    file = checkpoint / RUN
    if not file.exists() and any(path.name != LOCK and path.name[0] != "." for path in checkpoint.iterdir()):
        raise ValueError(f"{checkpoint} exists and is no checkpoint; give another --checkpoint")
    try:
        with FileLock(checkpoint / LOCK, timeout=0):
            shutil.rmtree(_discarded(checkpoint.resolve()), ignore_errors=True)  # of a run killed at its end
            found = parse_json(file.read_bytes()) if file.exists() else None
            if found is None:
                save_json(file, run)
            elif found != run:
                same = (found.get("model"), found.get("pitch_model")) == (model.fingerprint, pitch_model)
                what = "other inputs" if same else "another model or another choice of --pitch"
                raise ValueError(f"{checkpoint} is the checkpoint of {what}; delete it, or give another --checkpoint")
            yield
    except Timeout:
        raise ValueError(f"another process uses {checkpoint}; wait for it, or give another --checkpoint") from None


@contextmanager
def _connected(address: str | None) -> Iterator[None]:
    """A connection to a cluster, or a Ray of this machine alone, until the block ends; an existing one is used."""
    import ray

    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its warnings are about Ray Data's own actors
    dashboard = None if address else False  # a running cluster has made that choice
    if address not in (None, "auto", "local") and ":" not in address:
        address = f"{address}:{PORT}"
    try:
        _check_port(address or "")
        ray.init(address or "local", log_to_driver=False, logging_level=logging.ERROR, include_dashboard=dashboard)
    except OSError as error:
        raise ConnectionError(
            f"there is no Ray cluster at {address} that lets this process in; is `ray start --head` running there, and "
            "if the cluster has a token, is RAY_AUTH_MODE=token set here, with the token in ~/.ray/auth_token?"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _check_port(address: str) -> None:
    """Raises OSError if nothing answers at HOST:PORT, where Ray itself would try for ten minutes."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal() and "/" not in host:
        socket.create_connection((host, int(port)), timeout=PATIENCE).close()


def _unfinished(folder: Path, count: int) -> np.ndarray:
    """The numbers of the `count` sources that no finished checkpoint in `folder` names, ascending. (n,) int64."""
    import pyarrow.parquet as pq

    finished = np.zeros(count, bool)
    for file in folder.glob(f"*/*{SUFFIX}"):
        if not file.name.endswith(f"{PENDING}{SUFFIX}"):  # of a block that may not be written
            finished[pq.read_table(file)["id"].to_numpy()] = True
    return np.flatnonzero(~finished)


def _tokenize(
    model: SpeechVQVAE,
    name: str,
    sources: Sequence[Source],
    numbers: np.ndarray,
    checkpoint: Path,
    cluster: Cluster,
    *,
    pitch: bool,
) -> None:
    """Tokenizes the sources with these numbers; each block becomes a file in ROWS, and a checkpoint in IDS.

    Only the actors that tokenize take CPUs. Ray Data's filter of what is finished would keep one to itself and its
    reader of ranges need another, so that a continued run on two CPUs would wait for ever.

    Raises as `tokenize_on_ray` does.
    """
    import ray
    from ray.data import ActorPoolStrategy, DataContext
    from ray.data.checkpoint import CheckpointConfig
    from ray.exceptions import RayError

    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0)) if cluster.device != "cpu" else 0
    if cluster.device == "cuda" and not gpus:
        raise ValueError("the cluster has no GPU; use --device cpu")
    actors = cluster.num_actors or gpus or max(1, int(resources["CPU"]) // cluster.threads)
    block_rows = min(BLOCK_ROWS, max(1, len(numbers) // (BLOCKS_PER_ACTOR * actors)))
    blocks = -(-len(numbers) // block_rows)
    _write_paths(checkpoint / PATHS, sources)
    paths = str((checkpoint / PATHS).absolute())
    if name not in shipped_models() and Path(name).is_dir():
        name = str(Path(name).absolute())

    context = DataContext.get_current()
    before = context.checkpoint_config, context.enable_progress_bars
    context.checkpoint_config = CheckpointConfig(
        id_column="id",
        checkpoint_path=str((checkpoint / IDS / uuid4().hex).absolute()),  # new, so that Ray Data filters nothing
        delete_checkpoint_on_success=False,  # until the shards are written
    )
    context.enable_progress_bars = sys.stderr.isatty()
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        unfinished = ray.data.read_datasource(
            _number_blocks(numbers), override_num_blocks=blocks, num_cpus=0, concurrency=1
        )
        unfinished.map_batches(
            _Tokenizer,
            fn_constructor_args=(name, "cuda" if gpus else "cpu", cluster.threads, model.fingerprint, paths, pitch),
            batch_size=None,  # whole blocks
            batch_format="pyarrow",
            compute=ActorPoolStrategy(min_size=1, max_size=actors),
            num_cpus=None if gpus else cluster.threads,
            num_gpus=1 if gpus else None,
        ).write_parquet(str((checkpoint / ROWS).absolute()), ray_remote_args={"num_cpus": 0}, concurrency=actors)
    except RayError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ChildProcessError(f"Ray gave up: {reason}; the same command continues where it was") from error
    finally:
        context.checkpoint_config, context.enable_progress_bars = before


def _number_blocks(numbers: np.ndarray) -> Datasource:
    """Sources' numbers as Ray Data reads them: column id."""
    import pyarrow as pa
    from ray.data import Datasource, ReadTask
    from ray.data.block import BlockMetadata

    class Numbers(Datasource):
        def estimate_inmemory_data_size(self) -> int:
            return numbers.nbytes

        def get_read_tasks(self, parallelism: int, *_: object, **__: object) -> list[ReadTask]:
            tasks = []
            for part in np.array_split(numbers, parallelism):
                block = pa.table({"id": part})
                facts = BlockMetadata(num_rows=len(part), size_bytes=part.nbytes, exec_stats=None, input_files=None)
                tasks.append(ReadTask(lambda block=block: [block], facts))
            return tasks

    return Numbers()


def _write_paths(file: Path, sources: Sequence[Source]) -> None:
    """The paths of the sources, in their order, as an Arrow file that can be mapped into memory."""
    import pyarrow as pa

    table = pa.table({"path": pa.array([os.fsencode(source.path.absolute()) for source in sources], pa.large_binary())})
    with atomic_file(file, overwrite=True) as temporary, pa.ipc.new_file(str(temporary), table.schema) as writer:
        writer.write_table(table)


class _Tokenizer:
    """An actor: it holds the model, and tokenizes blocks of sources."""

    def __init__(self, name: str, device: str, threads: int, fingerprint: str, paths: str, pitch: bool):
        import pyarrow as pa

        torch.set_num_threads(threads)
        self.model, self.pitch = load_model(name, device), pitch
        self.paths = pa.ipc.open_file(pa.memory_map(paths)).read_all()["path"]  # memory that all actors share
        if self.model.fingerprint != fingerprint:
            raise ValueError(f"an actor loaded model {self.model.fingerprint} from {name}, not {fingerprint}")

    def __call__(self, block: pa.Table) -> pa.Table:
        """Column id (number of the source) -> id, codes, num_samples, for a file that cannot be used error, pitch."""
        import pyarrow as pa

        numbers = block["id"].to_pylist()
        codes, counts, errors, pitches = [], [], [], []
        paths = (Path(os.fsdecode(self.paths[number].as_py())) for number in numbers)
        for result in tokenize_each(self.model, (Source("_", path, None) for path in paths), self.pitch):
            failed = isinstance(result, AudioError)
            codes.append(None if failed else result.tokens.codes.numpy())
            counts.append(None if failed else result.tokens.num_samples)
            errors.append(str(result) if failed else None)
            pitches.append(None if failed or result.tokens.pitch is None else result.tokens.pitch.codes.numpy())
        columns = {
            "id": pa.array(numbers, pa.int64()),
            "codes": pa.array(codes, pa.list_(pa.int32())),
            "num_samples": pa.array(counts, pa.int64()),
            "error": pa.array(errors, pa.string()),
        }
        return pa.table({**columns, "pitch": pa.array(pitches, pa.list_(pa.int32()))} if self.pitch else columns)


def _results(folder: Path, model: SpeechVQVAE, sources: Sequence[Source]) -> Iterator[Result]:
    """The result of each source, in their order, from the files of all runs in `folder`.

    A process of an interrupted run may have left a file without an end, or rows that were computed again: they are
    skipped. Raises ValueError if the result of a source is missing.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    files: list[Path] = []
    file_of = np.full(len(sources), -1, np.int32)  # source -> number of the file with its result
    for file in sorted(folder.glob(f"*{SUFFIX}")):
        try:
            numbers = pq.read_table(file, columns=["id"])["id"].to_numpy()
        except pa.ArrowException:
            continue
        file_of[numbers] = len(files)
        files.append(file)
    if missing := int((file_of < 0).sum()):
        raise ValueError(
            f"{folder} lacks {missing} of {len(sources)} utterances, though Ray has finished; delete "
            f"{folder.parent} to begin again"
        )
    for start in range(0, len(sources), SHARD_ROWS):
        part = slice(start, start + SHARD_ROWS)
        found: dict[int, Result] = {}
        for file in np.unique(file_of[part]):
            table = pq.read_table(files[file])
            numbers = table["id"].to_numpy()
            for row in np.flatnonzero((file_of[numbers] == file) & (numbers >= part.start) & (numbers < part.stop)):
                found[int(numbers[row])] = _result(table, int(row), model, sources[numbers[row]])
        yield from (found[number] for number in sorted(found))


def _result(table: pa.Table, row: int, model: SpeechVQVAE, source: Source) -> Result:
    if (error := table["error"][row].as_py()) is not None:
        return AudioError(error)
    codes, pitch = _codes(table["codes"], row), None
    if "pitch" in table.column_names:
        quantizer = check_pitch_quantizer(model.pitch_quantizer)
        pitch = PitchTokens(_codes(table["pitch"], row), quantizer.hop, quantizer.fingerprint)
    tokens = Tokens(codes, table["num_samples"][row].as_py(), model.sample_rate, model.hop, model.fingerprint, pitch)
    return TokenRow(source.id, source.speaker, tokens)


def _codes(column: pa.ChunkedArray, row: int) -> torch.Tensor:
    return torch.from_numpy(column[row].values.to_numpy().astype(np.int64))


def _noted(results: Iterable[Result], sources: Iterable[Source], failed: list[str]) -> Iterator[Result]:
    """The results; a line of JSON for each source that cannot be used is appended to `failed`."""
    for source, result in zip(sources, results, strict=True):
        if isinstance(result, AudioError):
            facts = {"id": source.id, "path": str(source.path), "speaker": source.speaker, "error": str(result)}
            failed.append(json.dumps(facts) + "\n")
        yield result


def _write_shards(folder: Path, rows: Iterable[TokenRow]) -> None:
    rows, number = iter(rows), 0
    while shard := list(islice(rows, SHARD_ROWS)):
        file = folder / f"{number:05d}{SUFFIX}"
        write_parquet(file, shard)
        with file.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()[:DIGEST]
        file.rename(folder / f"{number:05d}-{digest}{SUFFIX}")
        number += 1
