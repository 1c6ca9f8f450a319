"""Token archives: lossless compression of the codes of a corpus, close to their likelihood under a prior.

All rows and the bytes of the archive are held in memory.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vqaudio.atomic import check_writable
from vqaudio.kernels.library import Kernels, kernels, load, runnable, why_missing
from vqaudio.pipes import DASH
from vqaudio.speech.prior import CodePrior
from vqaudio.speech.tokens import PitchTokens, Tokens
from vqaudio.tokens.archive_coding import (
    Advance,
    Coder,
    Codes,
    constriction,
    decode,
    decode_fixed,
    encode,
    encode_fixed,
    fixed_bits,
)
from vqaudio.tokens.archive_format import SUFFIX, Archive, ArchiveHeader, PitchCoding, PriorCoding, write_archive
from vqaudio.tokens.rows import TokenRow, other_facts
from vqaudio.torch_defaults import with_own_defaults

STREAMS = 64  # rows whose codes are interleaved: more are faster, but need more memory


class ArchiveFacts(NamedTuple):
    """The content of an archive and its size."""

    num_rows: int
    num_codes: int
    seconds: float  # duration of the audio
    header_bytes: int  # size of everything in the file except the payload
    payload_bytes: int
    ideal_bits: int  # negative log2-likelihood of the codes, rounded; without a prior equal to fixed_bits
    fixed_bits: int  # size of the codes with ceil(log2 K) bits each
    prior: str | None  # fingerprint of the prior; None if packed without one
    num_pitch_tokens: int
    pitch_bytes: int  # of the pitch tokens; not part of payload_bytes

    @property
    def payload_rate(self) -> float:
        """Bitrate of the codes alone, in bits per second of audio."""
        return 8 * self.payload_bytes / self.seconds

    @property
    def pitch_rate(self) -> float:
        """Bitrate of the pitch tokens alone, in bits per second of audio."""
        return 8 * self.pitch_bytes / self.seconds

    @property
    def total_bytes(self) -> int:
        """Size of the file."""
        return self.header_bytes + self.payload_bytes + self.pitch_bytes

    @property
    def total_rate(self) -> float:
        """Bitrate of the whole file, in bits per second of audio."""
        return 8 * self.total_bytes / self.seconds


@with_own_defaults
def pack(
    rows: Iterable[TokenRow],
    path: str | Path,
    prior: CodePrior | None = None,
    *,
    threads: int | None = None,
    overwrite: bool = False,
    advance: Advance | None = None,
) -> ArchiveFacts:
    """Writes the rows to the archive `path` (NAME.vqa), atomically; `unpack` restores them, given the same prior.

    Without a prior, each code takes ceil(log2 K) bits, where K - 1 is the highest code that occurs; so do pitch tokens,
    with a prior too. A speaker that is not in the prior is replaced by the null speaker in the prior, but kept in the
    row. `threads` is the largest number of threads of the compiled kernels (None: as many as PyTorch uses); it does not
    change the bytes. `advance` is called with the number of codes that have been coded since its last call.

    Raises ValueError for no rows, repeated ids, rows of several models, sample rates or hops, also of the pitch, for a
    prior over the codes of another model or one that is not float32 on the CPU, and if the compiled kernels are not
    available; ModuleNotFoundError without constriction; OSError if writing fails.
    """
    path = Path(path)
    if path.suffix != SUFFIX and str(path) != DASH:
        raise ValueError(f"cannot write {path}: an archive must be named NAME{SUFFIX}")
    check_writable(path, overwrite=overwrite)
    rows = list(rows)
    first = _check_rows(rows)
    codes, speakers = [row.tokens.codes.numpy() for row in rows], [row.speaker for row in rows]
    order = _order([len(sequence) for sequence in codes], [row.id for row in rows])
    advance = advance or (lambda count: None)
    if prior is None:
        coding, codebook_size = None, max(int(sequence.max()) for sequence in codes) + 1
        payload = encode_fixed(codes, codebook_size)
        ideal = float(fixed_bits(codebook_size) * sum(map(len, codes)))
    else:
        codebook_size = prior.cfg.net.num_classes
        _check_prior(prior, first.tokens.model)
        _check_codes(rows, codebook_size)
        coder = Coder(prior, _available_kernels(), STREAMS, _threads(threads))
        coding = _coding(coder)
        payload, ideal = encode(coder, [codes[u] for u in order], [speakers[u] for u in order], advance)
    pitch, pitch_payload = _packed_pitch(rows)
    header = ArchiveHeader(
        ids=[row.id for row in rows],
        speakers=speakers,
        num_samples=[row.tokens.num_samples for row in rows],
        sample_rate=first.tokens.sample_rate,
        hop=first.tokens.hop,
        model=first.tokens.model,
        codebook_size=codebook_size,
        codes_sha256=_digest(codes),
        ideal_bits=round(ideal),
        coding=coding,
        pitch=pitch,
    )
    return archive_facts(write_archive(path, header, payload + pitch_payload, overwrite=overwrite))


@with_own_defaults
def unpack(
    archive: Archive, prior: CodePrior | None = None, *, threads: int | None = None, advance: Advance | None = None
) -> Iterator[TokenRow]:
    """The rows of an archive, in their original order; all are decoded and verified before the first is returned.

    Raises ValueError if the archive was packed with another prior or with compiled kernels that this machine does not
    have, and if the decoded codes differ from the packed ones; ModuleNotFoundError without constriction. Damaged files
    have already been rejected by `read_archive`.
    """
    header, payload, advance = archive.header, _code_payload(archive), advance or (lambda count: None)
    lengths, order = header.lengths, _order(header.lengths, header.ids)
    try:
        if header.coding is None:
            if prior is not None:
                raise ValueError("it was packed without a prior; omit --prior")
            codes = decode_fixed(payload, lengths, header.codebook_size)
        else:
            coder = _coder_of(header.coding, prior, header.model, threads)
            speakers = [header.speakers[u] for u in order]
            decoded = decode(coder, payload, [lengths[u] for u in order], speakers, advance)
            codes = [sequence for _, sequence in sorted(zip(order, decoded, strict=True), key=lambda pair: pair[0])]
        if _digest(codes) != header.codes_sha256:
            raise ValueError(f"the decoded codes differ from the packed ones{_advice(header.coding)}")
        pitch = _unpacked_pitch(header, archive.payload[len(payload) :])
    except ValueError as error:
        raise ValueError(f"cannot unpack {archive.path}: {error}") from error
    return (_row(header, u, sequence, pitch[u]) for u, sequence in enumerate(codes))


def archive_facts(archive: Archive) -> ArchiveFacts:
    """Content and size of an archive; the prior is not needed."""
    header, num_codes, payload_bytes = archive.header, sum(archive.header.lengths), len(_code_payload(archive))
    return ArchiveFacts(
        num_rows=len(header.ids),
        num_codes=num_codes,
        seconds=header.seconds,
        header_bytes=archive.header_bytes,
        payload_bytes=payload_bytes,
        ideal_bits=header.ideal_bits,
        fixed_bits=fixed_bits(header.codebook_size) * num_codes,
        prior=None if header.coding is None else header.coding.prior,
        num_pitch_tokens=sum(header.pitch_lengths),
        pitch_bytes=len(archive.payload) - payload_bytes,
    )


def _packed_pitch(rows: Sequence[TokenRow]) -> tuple[PitchCoding | None, bytes]:
    """The pitch tokens of the rows, which all have them or none: how they are packed, and the bytes."""
    tokens = [row.tokens.pitch for row in rows if row.tokens.pitch is not None]
    if not tokens:
        return None, b""
    codes = [one.codes.numpy() for one in tokens]
    codebook_size = max(int(sequence.max()) for sequence in codes) + 1
    coding = PitchCoding(tokens[0].hop, tokens[0].model, codebook_size, _digest(codes))
    return coding, encode_fixed(codes, codebook_size)


def _code_payload(archive: Archive) -> bytes:
    """The payload without the pitch tokens."""
    header = archive.header
    bits = 0 if header.pitch is None else fixed_bits(header.pitch.codebook_size) * sum(header.pitch_lengths)
    return archive.payload[: len(archive.payload) - -(-bits // 8)]


def _unpacked_pitch(header: ArchiveHeader, payload: bytes) -> list[PitchTokens | None]:
    """The pitch tokens of each row. Raises ValueError if they differ from the packed ones."""
    coding = header.pitch
    if coding is None:
        return [None] * len(header.ids)
    codes = decode_fixed(payload, header.pitch_lengths, coding.codebook_size)
    if _digest(codes) != coding.sha256:
        raise ValueError("the decoded pitch tokens differ from the packed ones")
    return [PitchTokens(_tensor(sequence), coding.hop, coding.model) for sequence in codes]


def _check_rows(rows: Sequence[TokenRow]) -> TokenRow:
    """The first row. Raises ValueError if the rows cannot be packed into one archive."""
    if not rows:
        raise ValueError("there are no utterances to pack; give at least one token row")
    ids: set[str] = set()
    first = rows[0]
    for row in rows:
        if row.id in ids:
            raise ValueError(f"id {row.id!r} occurs twice; the ids in an archive must be unique")
        ids.add(row.id)
        facts, of_first = other_facts(row), other_facts(first)
        for name in ("model", "sample_rate", "hop", "pitch_model", "pitch_hop"):
            if (value := facts.get(name)) != (expected := of_first.get(name)):
                raise ValueError(
                    f"{row.id!r} has {name} {value}, but {first.id!r} has {expected}; pack them into separate archives"
                )
    return first


def _check_codes(rows: Sequence[TokenRow], codebook_size: int) -> None:
    for row in rows:
        if (highest := int(row.tokens.codes.max())) >= codebook_size:
            raise ValueError(f"{row.id!r} has code {highest}, but the prior's codes are 0..{codebook_size - 1}")


def _check_prior(prior: CodePrior, model: str) -> None:
    weight = prior.net.out.weight
    if prior.cfg.model != model:
        raise ValueError(
            f"the prior was trained on codes of model {prior.cfg.model}, but these are codes of model {model}; "
            "give a prior over these codes, or none"
        )
    if weight.device.type != "cpu" or weight.dtype != torch.float32:
        raise ValueError(f"archives need a float32 prior on the CPU, but it is {weight.dtype} on {weight.device}")


def _available_kernels() -> Kernels:
    available = kernels()
    if available is None:
        raise ValueError(
            f"archives with a prior need bit-exact probabilities from the compiled kernels, and {why_missing()}; "
            "or pack without a prior"
        )
    return available


def _coding(coder: Coder) -> PriorCoding:
    return PriorCoding(
        prior=coder.prior.fingerprint,
        machine=platform.machine(),
        kernels=coder.kernels.variant,
        constriction=_constriction_version(),
        streams=coder.streams,
    )


def _coder_of(coding: PriorCoding, prior: CodePrior | None, model: str, threads: int | None) -> Coder:
    """The coder with the settings of an archive. Raises ValueError for another prior or an unsuitable machine."""
    if prior is None:
        raise ValueError(f"it was packed with the prior {coding.prior}, and none is given; pass --prior")
    _check_prior(prior, model)
    if (given := prior.fingerprint) != coding.prior:
        raise ValueError(
            f"it was packed with the prior {coding.prior}, but {given} is given; pass the prior that packed it "
            "(vqaudio info PRIOR prints a prior's fingerprint)"
        )
    best = _available_kernels()
    if coding.machine != platform.machine() or coding.kernels not in {best.variant, *runnable()}:
        raise ValueError(
            f"it was packed with the compiled kernels {coding.kernels} for {coding.machine}, but this machine runs "
            f"{', '.join(runnable())} for {platform.machine()}, which round differently; unpack it on a machine of the "
            "kind that packed it"
        )
    return Coder(prior, load(coding.kernels), coding.streams, _threads(threads))


def _constriction_version() -> str:
    from importlib.metadata import version

    constriction()  # its error names the package to install
    return version("constriction")


def _advice(coding: PriorCoding | None) -> str:
    if coding is None:
        return ""
    return (
        f": the compiled kernels {coding.kernels} or constriction (packed with {coding.constriction}, installed is "
        f"{_constriction_version()}) give other results here; unpack it with the installation that packed it"
    )


def _threads(threads: int | None) -> int:
    return torch.get_num_threads() if threads is None else threads


def _order(lengths: Sequence[int], ids: Sequence[str]) -> list[int]:
    """Indices of the rows in the order of coding: longest first, then by id, independent of the given order."""
    return sorted(range(len(lengths)), key=lambda u: (-lengths[u], ids[u]))


def _digest(codes: Sequence[Codes]) -> str:
    digest = hashlib.sha256()
    for sequence in codes:
        digest.update(sequence.astype("<i4").tobytes())
    return digest.hexdigest()


def _tensor(codes: Codes) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(codes))


def _row(header: ArchiveHeader, u: int, codes: Codes, pitch: PitchTokens | None) -> TokenRow:
    tokens = Tokens(_tensor(codes), header.num_samples[u], header.sample_rate, header.hop, header.model, pitch)
    return TokenRow(header.ids[u], header.speakers[u], tokens)
