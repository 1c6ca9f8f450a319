"""The bytes of a token archive: a front, a header, the packed codes, a checksum.

    front     MAGIC, version (2 bytes), length of the header (4), length of the payload (8); little-endian
    header    JSON, compressed by zlib: `ArchiveHeader`
    payload   the packed codes of all rows
    checksum  SHA-256 of all bytes before it

Letters: U rows.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from vqaudio.atomic import atomic_file

MAGIC = b"\x89VQA\r\n\x1a\n"  # no text, and none that a transfer as text would leave alone
VERSION = 1
SUFFIX = ".vqa"
_SIZES = struct.Struct("<HIQ")  # version, bytes of the header, bytes of the payload
_FRONT = len(MAGIC) + _SIZES.size
_CHECKSUM = hashlib.sha256().digest_size


@dataclass(frozen=True)
class PriorCoding:
    """What must be the same again for the codes to come out."""

    prior: str
    """fingerprint of the prior: its configuration and its weights"""
    machine: str
    """kind of processor, as platform.machine() names it"""
    kernels: str
    """variant of the compiled kernels"""
    constriction: str
    """version of the range coder"""
    streams: int
    """rows that are coded in turns, a code of each"""

    def __post_init__(self) -> None:
        if type(self.streams) is not int or self.streams < 1:
            raise ValueError(f"streams must be a whole number of at least 1, got {self.streams!r}")


@dataclass(frozen=True)
class ArchiveHeader:
    """All of an archive but the codes."""

    ids: list[str]
    """U utterances, in the order in which they were given"""
    speakers: list[str | None]
    """of each, where that is known"""
    num_samples: list[int]
    """of each; it has ceil(num_samples / hop) codes"""
    sample_rate: int
    """of the audio, in Hz"""
    hop: int
    """samples per code"""
    model: str
    """fingerprint of the tokenizer"""
    codebook_size: int
    """K; all codes lie below it"""
    codes_sha256: str
    """of all codes, as 32-bit little-endian numbers, in the order of the rows"""
    ideal_bits: int
    """what the codes cost under the prior, rounded; without one as many bits as the payload holds"""
    coding: PriorCoding | None
    """None: packed with a fixed number of bits per code"""

    def __post_init__(self) -> None:
        sizes = (*self.num_samples, self.sample_rate, self.hop, self.codebook_size)
        if any(type(size) is not int or size < 1 for size in sizes):
            raise ValueError("num_samples, sample_rate, hop and codebook_size must be whole numbers of at least 1")
        if type(self.ideal_bits) is not int:
            raise ValueError(f"ideal_bits must be a whole number, got {self.ideal_bits!r}")
        names = (*self.ids, *(name for name in self.speakers if name is not None), self.model, self.codes_sha256)
        if not all(isinstance(name, str) for name in names):
            raise ValueError("ids, speakers where they are known, model and codes_sha256 must be strings")
        if not len(self.ids) == len(self.speakers) == len(self.num_samples):
            raise ValueError(f"{len(self.ids)} rows, {len(self.speakers)} speakers, {len(self.num_samples)} lengths")

    @property
    def lengths(self) -> list[int]:
        """Codes of each row."""
        return [-(-samples // self.hop) for samples in self.num_samples]

    @property
    def seconds(self) -> float:
        """Duration of all audio."""
        return sum(self.num_samples) / self.sample_rate


class Archive(NamedTuple):
    """What is in the file, its checksum verified."""

    header: ArchiveHeader
    payload: bytes
    header_bytes: int  # of the file, all that is not payload
    path: Path


def write_archive(path: Path, header: ArchiveHeader, payload: bytes, *, overwrite: bool) -> Archive:
    """Write the file, whole or not at all. Raises OSError where it cannot."""
    facts = json.dumps(asdict(header), ensure_ascii=False, separators=(",", ":")).encode()
    packed = zlib.compress(facts, level=9)
    content = MAGIC + _SIZES.pack(VERSION, len(packed), len(payload)) + packed + payload
    with atomic_file(path, overwrite=overwrite) as temporary:
        temporary.write_bytes(content + hashlib.sha256(content).digest())
    return Archive(header, payload, len(content) + _CHECKSUM - len(payload), path)


def read_archive(path: str | Path) -> Archive:
    """The file, checked to the last bit.

    Raises ValueError for another kind of file, another version, a file that is cut off, has grown or has any bit
    changed; OSError where there is none.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no archive {path}; vqaudio pack makes them")
    content = path.read_bytes()
    if content[: len(MAGIC)] != MAGIC:
        raise ValueError(f"{path} is no token archive (it does not begin as one); vqaudio pack makes them")
    if len(content) < _FRONT:
        raise ValueError(f"{path} is cut off: it ends after {len(content)} bytes; copy it again")
    version, header_size, payload_size = _SIZES.unpack_from(content, len(MAGIC))
    if version != VERSION:
        raise ValueError(
            f"{path} has version {version} of the archive format, this vqaudio reads version {VERSION}; "
            "unpack it with the vqaudio that packed it"
        )
    expected = _FRONT + header_size + payload_size + _CHECKSUM
    if len(content) != expected:
        raise ValueError(f"{path} is cut off or damaged: {len(content):,} bytes, not {expected:,}; copy it again")
    if hashlib.sha256(content[:-_CHECKSUM]).digest() != content[-_CHECKSUM:]:
        raise ValueError(f"{path} is damaged: its checksum does not agree with what is in it; copy it again")
    try:
        header = _header(content[_FRONT : _FRONT + header_size])
    except (ValueError, TypeError, KeyError, zlib.error) as error:
        raise ValueError(f"{path} was not written by vqaudio: its header cannot be read ({error})") from error
    return Archive(header, content[_FRONT + header_size : -_CHECKSUM], expected - payload_size, path)


def _header(packed: bytes) -> ArchiveHeader:
    facts = json.loads(zlib.decompress(packed))
    coding = facts["coding"]
    return ArchiveHeader(**{**facts, "coding": None if coding is None else PriorCoding(**coding)})
