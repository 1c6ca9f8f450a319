"""Token archives: the codes of a corpus, losslessly, in as few bits as a prior says that they are worth.

Rows are held in memory all together, and so are an archive's bytes.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from vqaudio.atomic import check_writable
from vqaudio.kernels.library import Kernels, kernels, load, runnable, why_missing
from vqaudio.speech.prior import CodePrior
from vqaudio.speech.tokens import Tokens
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
from vqaudio.tokens.archive_format import SUFFIX, Archive, ArchiveHeader, PriorCoding, write_archive
from vqaudio.tokens.rows import TokenRow

STREAMS = 64  # rows that take turns: the more, the faster, and the more memory


class ArchiveFacts(NamedTuple):
    """What an archive holds, and what that costs."""

    num_rows: int
    num_codes: int
    seconds: float  # of the audio
    header_bytes: int  # of the file, all that is not payload
    payload_bytes: int
    ideal_bits: int  # what the codes cost under the prior, rounded; without one as many as the payload holds
    fixed_bits: int  # what they cost with ceil(log2 K) bits each
    prior: str | None  # fingerprint

    @property
    def payload_rate(self) -> float:
        """Bits per second of audio, of the codes alone."""
        return 8 * self.payload_bytes / self.seconds

    @property
    def total_rate(self) -> float:
        """Bits per second of audio, of the whole file."""
        return 8 * (self.header_bytes + self.payload_bytes) / self.seconds


def pack(
    rows: Iterable[TokenRow],
    path: str | Path,
    prior: CodePrior | None = None,
    *,
    threads: int | None = None,
    overwrite: bool = False,
    advance: Advance | None = None,
) -> ArchiveFacts:
    """Write the rows to `path`.vqa, whole or not at all; `unpack` gives them back, with the same prior.

    Without a prior: ceil(log2 K) bits per code, where K - 1 is the highest code. A speaker whom the prior does not
    know is nobody. `threads`: of the compiled kernels, at most (None: as many as PyTorch has); the bytes are the same.
    `advance` is told how many codes were done.

    Raises ValueError for no rows, repeated ids, rows of several models, sample rates or hops, a prior over another
    model's codes or one that is not a float32 prior on the CPU, and where the compiled kernels are missing;
    ModuleNotFoundError without constriction; OSError where it cannot write.
    """
    path = Path(path)
    if path.suffix != SUFFIX:
        raise ValueError(f"cannot write {path}: archives are written as NAME{SUFFIX}")
    check_writable(path, overwrite=overwrite)
    rows = list(rows)
    first = _checked(rows)
    codes, speakers = [row.tokens.codes.numpy() for row in rows], [row.speaker for row in rows]
    order = _order([len(own) for own in codes], [row.id for row in rows])
    advance = advance or (lambda count: None)
    if prior is None:
        coding, codebook_size = None, max(int(own.max()) for own in codes) + 1
        payload = encode_fixed(codes, codebook_size)
        ideal = float(fixed_bits(codebook_size) * sum(map(len, codes)))
    else:
        codebook_size = prior.cfg.net.num_classes
        _check_prior(prior, first.tokens.model)
        for row, own in zip(rows, codes, strict=True):
            if own.max() >= codebook_size:
                raise ValueError(f"{row.id!r} has code {own.max()}, the prior knows codes 0..{codebook_size - 1}")
        coder = Coder(prior, _kernels_here(), STREAMS, _threads(threads))
        coding = _coding(coder)
        payload, ideal = encode(coder, [codes[u] for u in order], [speakers[u] for u in order], advance)
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
    )
    return archive_facts(write_archive(path, header, payload, overwrite=overwrite))


def unpack(
    archive: Archive, prior: CodePrior | None = None, *, threads: int | None = None, advance: Advance | None = None
) -> Iterator[TokenRow]:
    """The rows of an archive, in the order in which they were packed; all are decoded and checked before the first.

    Raises ValueError for another prior than the one that it was packed with, a machine without the compiled kernels
    that it was packed with, and where other codes than those that were packed come out; ModuleNotFoundError without
    constriction. `read_archive` has refused whatever is damaged.
    """
    header, advance = archive.header, advance or (lambda count: None)
    lengths, order = header.lengths, _order(header.lengths, header.ids)
    try:
        if header.coding is None:
            if prior is not None:
                raise ValueError("it was packed without a prior; leave the prior out")
            codes = decode_fixed(archive.payload, lengths, header.codebook_size)
        else:
            coder = _coder_of(header.coding, prior, header.model, threads)
            speakers = [header.speakers[u] for u in order]
            found = decode(coder, archive.payload, [lengths[u] for u in order], speakers, advance)
            codes = [own for _, own in sorted(zip(order, found, strict=True), key=lambda pair: pair[0])]
        if _digest(codes) != header.codes_sha256:
            raise ValueError(f"other codes come out of it than were packed{_advice(header.coding)}")
    except ValueError as error:
        raise ValueError(f"cannot unpack {archive.path}: {error}") from error
    return (_row(header, u, own) for u, own in enumerate(codes))


def archive_facts(archive: Archive) -> ArchiveFacts:
    """What an archive holds; its prior is not needed."""
    header, num_codes = archive.header, sum(archive.header.lengths)
    return ArchiveFacts(
        num_rows=len(header.ids),
        num_codes=num_codes,
        seconds=header.seconds,
        header_bytes=archive.header_bytes,
        payload_bytes=len(archive.payload),
        ideal_bits=header.ideal_bits,
        fixed_bits=fixed_bits(header.codebook_size) * num_codes,
        prior=None if header.coding is None else header.coding.prior,
    )


def _checked(rows: Sequence[TokenRow]) -> TokenRow:
    """The first of rows that can go into one archive."""
    if not rows:
        raise ValueError("there are no utterances to pack")
    ids: set[str] = set()
    first = rows[0]
    for row in rows:
        if row.id in ids:
            raise ValueError(f"id {row.id!r} occurs twice; the ids in an archive must be unique")
        ids.add(row.id)
        for name in ("model", "sample_rate", "hop"):
            if (own := getattr(row.tokens, name)) != (other := getattr(first.tokens, name)):
                raise ValueError(
                    f"{row.id!r} has {name} {own}, {first.id!r} has {other}; pack what differs into several archives"
                )
    return first


def _check_prior(prior: CodePrior, model: str) -> None:
    weight = prior.net.out.weight
    if prior.cfg.model != model:
        raise ValueError(f"the prior is over codes of model {prior.cfg.model}, these are codes of model {model}")
    if weight.device.type != "cpu" or weight.dtype != torch.float32:
        raise ValueError(f"archives need the prior in float32 on the CPU, it is in {weight.dtype} on {weight.device}")


def _kernels_here() -> Kernels:
    found = kernels()
    if found is None:
        raise ValueError(
            f"archives with a prior need its probabilities to the last bit, and {why_missing()}; "
            "or pack without a prior"
        )
    return found


def _coding(coder: Coder) -> PriorCoding:
    return PriorCoding(
        prior=coder.prior.fingerprint,
        machine=platform.machine(),
        kernels=coder.kernels.variant,
        constriction=_constriction_version(),
        streams=coder.streams,
    )


def _coder_of(coding: PriorCoding, prior: CodePrior | None, model: str, threads: int | None) -> Coder:
    """The coder that an archive asks for. Raises ValueError where this is not the prior or not the machine."""
    if prior is None:
        raise ValueError(f"it was packed with the prior {coding.prior}, and none is given; pass --prior")
    _check_prior(prior, model)
    if (own := prior.fingerprint) != coding.prior:
        raise ValueError(
            f"it was packed with the prior {coding.prior}, this is {own}; pass the one that packed it (vqaudio info P "
            "tells a prior's fingerprint)"
        )
    best = _kernels_here()
    if coding.machine != platform.machine() or coding.kernels not in {best.variant, *runnable()}:
        raise ValueError(
            f"it was packed with the compiled kernels {coding.kernels} for {coding.machine}; this machine runs "
            f"{', '.join(runnable())} for {platform.machine()}, which round otherwise; unpack it on the other machine"
        )
    return Coder(prior, load(coding.kernels), coding.streams, _threads(threads))


def _constriction_version() -> str:
    from importlib.metadata import version

    constriction()  # it says what to install
    return version("constriction")


def _advice(coding: PriorCoding | None) -> str:
    if coding is None:
        return ""
    return (
        f": the compiled kernels {coding.kernels} or constriction (then {coding.constriction}, now "
        f"{_constriction_version()}) compute otherwise here; unpack it with the installation that packed it"
    )


def _threads(threads: int | None) -> int:
    return torch.get_num_threads() if threads is None else threads


def _order(lengths: Sequence[int], ids: Sequence[str]) -> list[int]:
    """Rows in the order in which they are coded: the longest first, whatever order they were given in."""
    return sorted(range(len(lengths)), key=lambda u: (-lengths[u], ids[u]))


def _digest(codes: Sequence[Codes]) -> str:
    digest = hashlib.sha256()
    for own in codes:
        digest.update(own.astype("<i4").tobytes())
    return digest.hexdigest()


def _row(header: ArchiveHeader, u: int, codes: Codes) -> TokenRow:
    own = torch.from_numpy(np.ascontiguousarray(codes))
    tokens = Tokens(own, header.num_samples[u], header.sample_rate, header.hop, header.model)
    return TokenRow(header.ids[u], header.speakers[u], tokens)
