"""How much audio the header of a file promises, compared with what the file has.

libsndfile reads what is there and does not report the rest, except for FLAC. Covered: WAV (RIFF, RF64), AIFF, SVX,
AU, W64, CAF, NIST SPHERE, the last page of Ogg, and MP3 with a Xing header; not the formats that are rare for speech.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import BinaryIO, NamedTuple

UNKNOWN_SIZES = frozenset((0, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1))
"""what programs that write to a pipe (ffmpeg, sox, arecord) put in a header, because the size is not known yet"""
_STREAM_HEADER = 44  # bytes, which some of those programs subtract; some round down to whole frames besides
_NIST_HEADER = 1024  # bytes
_OGG_PAGE, _OGG_PAGE_HEADER = 65_307, 27  # bytes: of the largest page, and of its header before the list of segments
_OGG_TYPE, _OGG_LAST = 5, 4  # the byte of a page with its flags, and the flag of the last page of a stream
_MAX_CHUNKS = 10_000  # of a damaged file, whose sizes may be small numbers without meaning


class _Audio(NamedTuple):
    start: int  # of the audio, in bytes from the beginning of the file
    size: int  # bytes that the header promises
    frame: int = 1  # bytes of a sample of all channels, where the format is known


class _Chunks(NamedTuple):
    """How a format of chunks is laid out."""

    name: bytes  # of the chunk with the audio
    first: int  # position of the first chunk
    header: str  # of a chunk, name and size, for `struct`
    own: int = 0  # bytes of its header that are part of the size of a chunk
    alignment: int = 2


def missing_bytes(path: Path) -> int:
    """Bytes of audio that the header of a file promises and the file lacks; 0 if the header does not state it."""
    with path.open("rb") as file:
        try:
            audio = _promised(file)
        except struct.error:  # the header itself is cut off: libsndfile refuses the file
            return 0
        if audio is None or _is_unknown(audio):
            return 0
        return max(0, audio.start + audio.size - os.fstat(file.fileno()).st_size)


def _is_unknown(audio: _Audio) -> bool:
    """Whether the size is one of UNKNOWN_SIZES, or what a program made of it that subtracts its header and rounds."""
    most = audio.frame + _STREAM_HEADER
    return audio.size in UNKNOWN_SIZES or any(0 < unknown - audio.size <= most for unknown in UNKNOWN_SIZES - {0})


def _promised(file: BinaryIO) -> _Audio | None:
    magic = file.read(16)
    if magic[:4] in (b"RF64", b"BW64"):
        audio = _find(file, _Chunks(b"data", 12, "<4sI"))
        return audio and audio._replace(size=_ds64_size(file) if audio.size == 0xFFFFFFFF else audio.size)
    if magic[:4] in (b"RIFF", b"RIFX"):
        order = "<" if magic[:4] == b"RIFF" else ">"
        audio = _find(file, _Chunks(b"data", 12, f"{order}4sI"))
        return audio and audio._replace(frame=_frame_of_wav(file, order))
    if magic[:4] == b"FORM":
        return _find(file, _Chunks(b"SSND" if magic[8:11] == b"AIF" else b"BODY", 12, ">4sI"))
    if magic[:4] in (b".snd", b"dns."):
        return _Audio(*struct.unpack(">II" if magic[:4] == b".snd" else "<II", magic[4:12]))
    if magic[:4] == b"caff":
        return _find(file, _Chunks(b"data", 8, ">4sQ", alignment=1))
    if magic[:4] == b"riff":
        return _find(file, _Chunks(b"data", 40, "<4s12xQ", own=24, alignment=8))
    if magic[:7] == b"NIST_1A":
        return _of_nist(magic + file.read(_NIST_HEADER - len(magic)))
    if magic[:4] == b"OggS":
        return _last_page_of_ogg(file)
    return _of_mp3(magic + file.read(4096))


def _find(file: BinaryIO, chunks: _Chunks) -> _Audio | None:
    """The chunk with the audio; None if there is none."""
    position = chunks.first
    for _ in range(_MAX_CHUNKS):
        file.seek(position)
        header = file.read(struct.calcsize(chunks.header))
        if len(header) < struct.calcsize(chunks.header):
            break
        name, size = struct.unpack(chunks.header, header)
        if name == chunks.name:
            return _Audio(position + len(header), size - chunks.own)
        whole = size - chunks.own + len(header)
        position += max(whole + -whole % chunks.alignment, len(header))
    return None


def _frame_of_wav(file: BinaryIO, order: str) -> int:
    """Bytes of a sample of all channels; 1 if the file does not state it."""
    format = _find(file, _Chunks(b"fmt ", 12, f"{order}4sI"))
    if format is None:
        return 1
    file.seek(format.start)
    return max(1, struct.unpack(f"{order}12xH", file.read(14))[0])


def _ds64_size(file: BinaryIO) -> int:
    """Size of the audio in an RF64 file, whose own field has only 32 bits."""
    sizes = _find(file, _Chunks(b"ds64", 12, "<4sI"))
    if sizes is None:
        return 0
    file.seek(sizes.start)
    return struct.unpack("<QQ", file.read(16))[1]


def _of_nist(header: bytes) -> _Audio | None:
    fields = {parts[0]: parts[2] for line in header.splitlines() if len(parts := line.split(maxsplit=2)) == 3}
    if not fields.get(b"sample_coding", b"pcm").startswith((b"pcm", b"ulaw", b"alaw", b"mu-law")):
        return None
    if b"," in fields.get(b"sample_coding", b""):  # compressed, such as pcm,embedded-shorten-v2.00
        return None
    try:
        size = int(fields[b"sample_count"]) * int(fields.get(b"channel_count", b"1")) * int(fields[b"sample_n_bytes"])
        return _Audio(int(header.split()[1]), size)
    except (KeyError, ValueError, IndexError):
        return None


def _last_page_of_ogg(file: BinaryIO) -> _Audio | None:
    end = file.seek(0, os.SEEK_END)
    beginning = file.seek(max(0, end - _OGG_PAGE))
    pages = file.read()
    start = pages.rfind(b"OggS")
    page = pages[start:]
    if start < 0 or len(page) < _OGG_PAGE_HEADER:
        return None
    num_segments = page[_OGG_PAGE_HEADER - 1]
    segments = page[_OGG_PAGE_HEADER : _OGG_PAGE_HEADER + num_segments]
    size = _OGG_PAGE_HEADER + num_segments + sum(segments)
    if not page[_OGG_TYPE] & _OGG_LAST:  # at least the header of another page is missing
        size = max(size, len(page)) + _OGG_PAGE_HEADER
    return _Audio(beginning + start, size)


def _of_mp3(beginning: bytes) -> _Audio | None:
    """The size in a Xing or Info header, which is that of the file from the frame with this header on."""
    start = 0
    if beginning[:3] == b"ID3" and len(beginning) >= 10:
        start = 10 + sum(byte << shift for byte, shift in zip(beginning[6:10], (21, 14, 7, 0), strict=True))
    frame = beginning[start : start + 200]
    if len(frame) < 200 or frame[0] != 0xFF or frame[1] & 0xE0 != 0xE0:
        return None
    position = max(frame.find(b"Xing"), frame.find(b"Info"))
    if position < 0:
        return None
    flags = int.from_bytes(frame[position + 4 : position + 8])
    if not flags & 2:  # no number of bytes
        return None
    field = position + 8 + (4 if flags & 1 else 0)
    return _Audio(start, int.from_bytes(frame[field : field + 4]))
