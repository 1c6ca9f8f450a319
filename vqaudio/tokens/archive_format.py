"""File format of token archives: a preamble, a header, the compressed codes and a checksum.

    preamble  MAGIC, version (2 bytes), length of the header (4), length of the payload (8); little-endian
    header    `ArchiveHeader` as JSON, compressed by zlib
    payload   the compressed codes of all rows, then their pitch tokens, if they have any
    checksum  SHA-256 of all preceding bytes

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
from vqaudio.json_text import parse_json
from vqaudio.pipes import is_stream, spooled

MAGIC = b"\x89VQA\r\n\x1a\n"  # as in PNG: not text, and changed by any transfer that converts line ends
VERSION, VERSION_WITH_PITCH = 1, 2
SUFFIX = ".vqa"
_SIZES = struct.Struct("<HIQ")  # version, bytes of the header, bytes of the payload
_PREAMBLE = len(MAGIC) + _SIZES.size
_CHECKSUM = hashlib.sha256().digest_size


@dataclass(frozen=True)
class PriorCoding:
    """Everything that must be equal at packing and unpacking for the codes to be recovered."""

    prior: str
    """fingerprint of the prior, over its configuration and weights"""
    machine: str
    """processor architecture, as platform.machine() names it"""
    kernels: str
    """variant of the compiled kernels"""
    constriction: str
    """version of constriction, the range coder"""
    streams: int
    """number of rows whose codes are interleaved"""

    def __post_init__(self) -> None:
        if type(self.streams) is not int or self.streams < 1:
            raise ValueError(f"streams must be an integer of at least 1, got {self.streams!r}")


@dataclass(frozen=True)
class PitchCoding:
    """The pitch tokens of all rows, packed with a fixed number of bits each."""

    hop: int
    """samples per pitch token"""
    model: str
    """fingerprint of the pitch quantizer"""
    codebook_size: int
    """K; all pitch tokens lie in 0..K-1"""
    sha256: str
    """SHA-256 of all pitch tokens, as of the codes"""

    def __post_init__(self) -> None:
        if any(type(size) is not int or size < 1 for size in (self.hop, self.codebook_size)):
            raise ValueError("hop and codebook_size of the pitch must be integers of at least 1")
        if not isinstance(self.model, str) or not isinstance(self.sha256, str):
            raise ValueError("model and sha256 of the pitch must be strings")


@dataclass(frozen=True)
class ArchiveHeader:
    """The content of an archive except the codes."""

    ids: list[str]
    """ids of the U rows, in their original order"""
    speakers: list[str | None]
    """speaker of each row; None if unknown"""
    num_samples: list[int]
    """length of each row's audio in samples; a row has ceil(num_samples / hop) codes"""
    sample_rate: int
    """sample rate of the audio, in Hz"""
    hop: int
    """samples per code"""
    model: str
    """fingerprint of the tokenizer"""
    codebook_size: int
    """K; all codes lie in 0..K-1"""
    codes_sha256: str
    """SHA-256 of all codes as 32-bit little-endian integers, in the order of the rows"""
    ideal_bits: int
    """negative log2-likelihood of the codes under the prior, rounded; without a prior, the fixed-length size"""
    coding: PriorCoding | None
    """settings of the entropy coder; None if packed with a fixed number of bits per code"""
    pitch: PitchCoding | None = None
    """None if the rows have no pitch tokens; such archives are of version 1, without this key"""

    def __post_init__(self) -> None:
        sizes = (*self.num_samples, self.sample_rate, self.hop, self.codebook_size)
        if any(type(size) is not int or size < 1 for size in sizes):
            raise ValueError("num_samples, sample_rate, hop and codebook_size must be integers of at least 1")
        if type(self.ideal_bits) is not int:
            raise ValueError(f"ideal_bits must be an integer, got {self.ideal_bits!r}")
        names = (*self.ids, *(name for name in self.speakers if name is not None), self.model, self.codes_sha256)
        if not all(isinstance(name, str) for name in names):
            raise ValueError("ids, speakers (unless null), model and codes_sha256 must be strings")
        if not len(self.ids) == len(self.speakers) == len(self.num_samples):
            raise ValueError(
                "ids, speakers and num_samples must have equal lengths, "
                f"got {len(self.ids)}, {len(self.speakers)} and {len(self.num_samples)}"
            )

    @property
    def lengths(self) -> list[int]:
        """Number of codes of each row."""
        return [-(-samples // self.hop) for samples in self.num_samples]

    @property
    def pitch_lengths(self) -> list[int]:
        """Number of pitch tokens of each row."""
        return [0 if self.pitch is None else -(-samples // self.pitch.hop) for samples in self.num_samples]

    @property
    def seconds(self) -> float:
        """Total duration of the audio, in seconds."""
        return sum(self.num_samples) / self.sample_rate


class Archive(NamedTuple):
    """The content of an archive file, with its checksum verified."""

    header: ArchiveHeader
    payload: bytes
    header_bytes: int  # size of everything in the file except the payload
    path: Path


def write_archive(path: Path, header: ArchiveHeader, payload: bytes, *, overwrite: bool) -> Archive:
    """Writes the file atomically. Raises OSError if writing fails, or if the file exists and `overwrite` is not set."""
    facts, version = asdict(header), VERSION_WITH_PITCH
    if header.pitch is None:
        del facts["pitch"]
        version = VERSION
    packed = zlib.compress(json.dumps(facts, ensure_ascii=False, separators=(",", ":")).encode(), level=9)
    content = MAGIC + _SIZES.pack(version, len(packed), len(payload)) + packed + payload
    with atomic_file(path, overwrite=overwrite) as temporary:
        temporary.write_bytes(content + hashlib.sha256(content).digest())
    return Archive(header, payload, len(content) + _CHECKSUM - len(payload), path)


def is_archive(path: Path) -> bool:
    """Whether a path is a file that begins as an archive does."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def read_archive(path: str | Path) -> Archive:
    """Reads an archive, a file or a stream (-: standard input), and verifies its checksum.

    Raises ValueError for another kind of file, another format version and a file that is truncated, extended or changed
    in any bit, and OSError if the file cannot be read.
    """
    path = Path(path)
    if not is_stream(path) and not path.exists():
        raise FileNotFoundError(f"archive {path} does not exist; vqaudio pack creates archives")
    with spooled(path) as file:
        content = file.read_bytes()
    if content[: len(MAGIC)] != MAGIC:
        raise ValueError(f"{path} is not a token archive (its first bytes differ); vqaudio pack creates archives")
    if len(content) < _PREAMBLE:
        raise ValueError(f"{path} is truncated: it ends after {len(content)} bytes; copy it again")
    version, header_size, payload_size = _SIZES.unpack_from(content, len(MAGIC))
    if version not in (VERSION, VERSION_WITH_PITCH):
        raise ValueError(
            f"{path} has version {version} of the archive format, but this vqaudio reads versions {VERSION} and "
            f"{VERSION_WITH_PITCH}; "
            "unpack it with the version of vqaudio that packed it"
        )
    expected = _PREAMBLE + header_size + payload_size + _CHECKSUM
    if len(content) != expected:
        raise ValueError(
            f"{path} is truncated or damaged: it has {len(content):,} bytes, expected {expected:,}; copy it again"
        )
    if hashlib.sha256(content[:-_CHECKSUM]).digest() != content[-_CHECKSUM:]:
        raise ValueError(f"{path} is damaged: its checksum does not match its content; copy it again")
    try:
        header = _header(content[_PREAMBLE : _PREAMBLE + header_size])
    except (ValueError, TypeError, KeyError, zlib.error) as error:
        raise ValueError(f"{path} was not written by vqaudio: its header cannot be read ({error})") from error
    return Archive(header, content[_PREAMBLE + header_size : -_CHECKSUM], expected - payload_size, path)


def _header(packed: bytes) -> ArchiveHeader:
    facts = parse_json(zlib.decompress(packed))
    coding, pitch = facts["coding"], facts.get("pitch")
    parts = {
        "coding": None if coding is None else PriorCoding(**coding),
        "pitch": None if pitch is None else PitchCoding(**pitch),
    }
    return ArchiveHeader(**{**facts, **parts})
