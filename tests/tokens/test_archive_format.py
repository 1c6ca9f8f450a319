"""The archive format: what was written is read, and any other file is refused with an explanation."""

from __future__ import annotations

import hashlib
import json
import zlib
from dataclasses import replace
from pathlib import Path

import pytest

from vqaudio.tokens.archive_format import MAGIC, ArchiveHeader, PriorCoding, read_archive, write_archive

CODING = PriorCoding(prior="0123456789ab", machine="x86_64", kernels="avx2", constriction="0.5.0", streams=64)
HEADER = ArchiveHeader(
    ids=["a", "b ü", "c"],
    speakers=["anna", None, "anna"],
    num_samples=[80, 1, 17],
    sample_rate=16000,
    hop=8,
    model="ba9876543210",
    codebook_size=24,
    codes_sha256="0" * 64,
    ideal_bits=70,
    coding=CODING,
)
PAYLOAD = bytes(range(250, 256)) * 2
PREAMBLE, CHECKSUM = len(MAGIC) + 14, 32


@pytest.fixture
def written(tmp_path: Path) -> Path:
    write_archive(tmp_path / "t.vqa", HEADER, PAYLOAD, overwrite=False)
    return tmp_path / "t.vqa"


@pytest.mark.parametrize("coding", [CODING, None])
def test_what_was_written_is_read(tmp_path, coding) -> None:
    header = replace(HEADER, coding=coding)
    archive = write_archive(tmp_path / "t.vqa", header, PAYLOAD, overwrite=False)
    assert read_archive(tmp_path / "t.vqa") == archive
    assert archive[:2] == (header, PAYLOAD)
    assert archive.header_bytes + len(PAYLOAD) == (tmp_path / "t.vqa").stat().st_size
    assert header.lengths == [10, 1, 3]
    assert header.seconds == pytest.approx(98 / 16000)


def test_its_parts_have_the_documented_offsets(written) -> None:
    content = written.read_bytes()
    assert content[:8] == b"\x89VQA\r\n\x1a\n"
    assert content[8:10] == (1).to_bytes(2, "little")
    size = int.from_bytes(content[10:14], "little")
    assert int.from_bytes(content[14:22], "little") == len(PAYLOAD)
    facts = json.loads(zlib.decompress(content[22 : 22 + size]))
    assert facts["num_samples"] == [80, 1, 17] and facts["coding"]["kernels"] == "avx2"
    assert content[22 + size : -32] == PAYLOAD
    assert content[-32:] == hashlib.sha256(content[:-32]).digest()


def test_every_truncation_and_extension_is_detected(written) -> None:
    content = written.read_bytes()
    for size in range(len(content)):
        written.write_bytes(content[:size])
        expected = "is not a token archive" if size < len(MAGIC) else "is truncated"
        with pytest.raises(ValueError, match=rf"t\.vqa {expected}"):
            read_archive(written)
    written.write_bytes(content + b"\0")
    with pytest.raises(ValueError, match=r"t\.vqa is truncated or damaged: .* copy it again"):
        read_archive(written)


def test_a_flipped_bit_is_detected_anywhere(written) -> None:
    content = bytearray(written.read_bytes())
    for bit in range(0, 8 * len(content), 5):  # at least one bit of every byte, all eight positions in turn
        byte = bit // 8
        content[byte] ^= 1 << bit % 8
        written.write_bytes(content)
        content[byte] ^= 1 << bit % 8
        expected = "is damaged: its checksum does not match its content; copy it again"
        if byte < PREAMBLE:
            expected = (
                "is not a token archive" if byte < 8 else "has version" if byte < 10 else "is truncated or damaged"
            )
        with pytest.raises(ValueError, match=expected):
            read_archive(written)
    written.write_bytes(content)
    assert read_archive(written).header == HEADER


def test_a_foreign_file_is_refused(tmp_path) -> None:
    (tmp_path / "t.vqa").write_bytes(b"RIFF" + bytes(100))
    with pytest.raises(ValueError, match=r"t\.vqa is not a token archive"):
        read_archive(tmp_path / "t.vqa")
    with pytest.raises(FileNotFoundError, match="vqaudio pack creates archives"):
        read_archive(tmp_path / "missing.vqa")
    with pytest.raises(IsADirectoryError):
        read_archive(tmp_path)


def test_another_version_is_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("vqaudio.tokens.archive_format.VERSION", 7)
    write_archive(tmp_path / "t.vqa", HEADER, PAYLOAD, overwrite=False)
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"has version 7 .*, but this vqaudio reads versions 1 and 2"):
        read_archive(tmp_path / "t.vqa")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda facts: facts.pop("coding"), "coding"),
        (lambda facts: facts.pop("hop"), "hop"),
        (lambda facts: facts.update(hop=0), "must be integers of at least 1"),
        (lambda facts: facts.update(num_samples=[80, 1, 1.5]), "must be integers of at least 1"),
        (lambda facts: facts["coding"].update(streams=0), "streams must be"),
        (lambda facts: facts["ids"].pop(), "equal lengths, got 2, 3 and 3"),
        (lambda facts: facts.update(ids=["a", 5, "c"]), "must be strings"),
        (lambda facts: facts.update(speakers=["anna", None, 5]), "must be strings"),
        (lambda facts: facts.update(model=None), "must be strings"),
        (lambda facts: facts.update(ideal_bits="70"), "ideal_bits must be an integer"),
        (lambda facts: facts.update(more=1), "more"),
    ],
)
def test_a_header_that_vqaudio_did_not_write_is_refused(written, change, message) -> None:
    content = written.read_bytes()
    facts = json.loads(zlib.decompress(content[PREAMBLE : -len(PAYLOAD) - CHECKSUM]))
    change(facts)
    header = zlib.compress(json.dumps(facts).encode())
    made = content[:10] + len(header).to_bytes(4, "little") + content[14:PREAMBLE] + header + PAYLOAD
    written.write_bytes(made + hashlib.sha256(made).digest())
    with pytest.raises(ValueError, match=f"was not written by vqaudio: its header cannot be read .*{message}"):
        read_archive(written)
