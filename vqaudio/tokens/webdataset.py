"""Token rows as WebDataset shards: tar files with ID.codes.npy, (N,) int32, and ID.json, the row without its codes.

Deduplicated, ID.units.npy and ID.duration.npy take the place of ID.codes.npy; pitch tokens are in ID.pitch.npy. The
bytes depend on the rows alone: times and owners are fixed. WebDataset takes what follows the first dot of a name for
its suffix, so a dot in an id is written as %2E, and % as %25; the id in ID.json is the original one.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from vqaudio.json_text import JSONError, parse_json
from vqaudio.tokens.layout import Layout
from vqaudio.tokens.rows import RUN_LENGTHS, TokenRow, code_arrays, other_facts

SUFFIX = ".tar"
END_BYTES = 2 * tarfile.BLOCKSIZE  # zeros that mark the end of an archive
ARRAYS = ("codes", *RUN_LENGTHS, "pitch")
MEMBERS = ("json", *(f"{key}.npy" for key in ARRAYS))  # suffixes that are read


def write_tar(path: Path, rows: Iterable[TokenRow], layout: Layout) -> None:
    """Writes all rows to one shard."""
    with path.open("wb") as file:
        for row in rows:
            file.write(_sample(row, layout.dedup))
        _end(file)


def write_shards(folder: Path, rows: Iterable[TokenRow], layout: Layout) -> None:
    """Writes the rows to shards 000000.tar, 000001.tar, ... in a folder, in their order.

    A shard has at most `shard_rows` rows, and at most `shard_bytes` bytes unless it has one row only.
    """
    file: BinaryIO | None = None
    shards = count = 0
    try:
        for row in rows:
            sample = _sample(row, layout.dedup)
            if file is not None and (count == layout.shard_rows or _too_long(file.tell() + len(sample), layout)):
                _end(file)
                file.close()
                file = None
            if file is None:
                file = (folder / f"{shards:06d}{SUFFIX}").open("wb")
                shards, count = shards + 1, 0
            file.write(sample)
            count += 1
        if file is not None:
            _end(file)
    finally:
        if file is not None:
            file.close()


def shards_of(path: Path) -> list[Path]:
    """The shards of a folder in their order, or the file itself."""
    return sorted(path.glob(f"*{SUFFIX}")) if path.is_dir() else [path]


class Sample(NamedTuple):
    """The members of one row."""

    key: str
    members: dict[str, bytes]  # suffix, one of MEMBERS -> content


def read_samples(path: Path) -> Iterator[Sample]:
    """The samples of a shard, or of all shards of a folder, one by one: consecutive members with one key each.

    Members of other names are left out. Raises ValueError for a damaged or truncated shard.
    """
    for shard in shards_of(path):
        try:
            yield from _samples(shard)
        except tarfile.TarError as error:
            raise ValueError(
                f"{shard} is damaged, truncated or not a tar file ({error}); copy or compute the tokens again"
            ) from error


def sample_facts(sample: Sample) -> dict[str, Any]:
    """A sample -> the row as a dictionary for `make_row`. Raises ValueError without ID.json and for damaged members."""
    key, members = sample
    if "json" not in members:
        raise ValueError(f"{key}.json is missing, or does not lie beside the other members of {key}")
    try:
        facts = parse_json(members["json"])
    except JSONError as error:
        raise ValueError(f"{key}.json is not JSON ({error})") from error
    if not isinstance(facts, dict) or _key(str(facts.get("id"))) != key:
        raise ValueError(f"{key}.json must be an object with the id of the sample")
    arrays = {name: members[f"{name}.npy"] for name in ARRAYS if f"{name}.npy" in members}
    return {**facts, **{name: _array(f"{key}.{name}.npy", content) for name, content in arrays.items()}}


def _too_long(num_bytes: int, layout: Layout) -> bool:
    whole = -(-(num_bytes + END_BYTES) // tarfile.RECORDSIZE) * tarfile.RECORDSIZE
    return layout.shard_bytes is not None and whole > layout.shard_bytes


def _sample(row: TokenRow, dedup: bool) -> bytes:
    """The members of a row, as they are in the archive."""
    facts = {"id": row.id, "speaker": row.speaker, **other_facts(row)}
    members = {"json": (json.dumps(facts, ensure_ascii=False) + "\n").encode()}
    for key, values in code_arrays(row, dedup).items():
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, values.astype(np.int32), allow_pickle=False)
        members[f"{key}.npy"] = buffer.getvalue()
    return b"".join(_member(f"{_key(row.id)}.{suffix}", content) for suffix, content in sorted(members.items()))


def _member(name: str, content: bytes) -> bytes:
    info = tarfile.TarInfo(name)  # mode 0644, time 0, owner 0 without a name
    info.size = len(content)
    header = info.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")
    return header + content + bytes(-len(content) % tarfile.BLOCKSIZE)


def _end(file: BinaryIO) -> None:
    file.write(bytes(END_BYTES))
    file.write(bytes(-file.tell() % tarfile.RECORDSIZE))


def _key(id: str) -> str:
    return id.replace("%", "%25").replace(".", "%2E")


def _samples(shard: Path) -> Iterator[Sample]:
    with shard.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
        sample = Sample("", {})
        while (info := archive.next()) is not None:
            archive.members = []  # type: ignore[attr-defined]  # which would grow with the shard
            key, _, suffix = info.name.rpartition("/")[2].partition(".")
            if key != sample.key:
                if sample.members:
                    yield sample
                sample = Sample(key, {})
            if info.issym() or info.islnk():
                raise ValueError(
                    f"{shard}: {info.name} is a link, and members must be files; pack the files themselves (tar -h "
                    "--hard-dereference)"
                )
            content = archive.extractfile(info)
            if content is not None and suffix in MEMBERS:
                sample.members[suffix] = content.read()
        if sample.members:
            yield sample
        file.seek(archive.offset)  # tarfile takes a damaged header for the end
        end = file.read(END_BYTES)
        if len(end) < END_BYTES or any(end) or any(map(any, iter(partial(file.read, tarfile.RECORDSIZE), b""))):
            raise tarfile.ReadError("after the last member that can be read")


def _array(name: str, content: bytes) -> np.ndarray:
    try:
        return np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{name} is not a readable .npy file ({error}); copy or compute the tokens again") from error
