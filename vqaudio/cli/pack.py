"""vqaudio pack and unpack: tokens to compressed archives and back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

from tqdm import tqdm
from tyro.conf import Positional, arg

from vqaudio.cli.console import Overwrite, Threads, facts_file, load_kind, print_facts
from vqaudio.sampling.config import check_threads

if TYPE_CHECKING:
    from vqaudio.speech.prior import CodePrior
    from vqaudio.tokens.archive import ArchiveFacts
    from vqaudio.tokens.archive_coding import Advance

Prior = Annotated[
    str | None,
    arg(metavar="P", help="folder of a prior over these codes; without it, all codes take the same number of bits"),
]


def pack(
    tokens: Positional[Path],
    out: Path,
    prior: Prior = None,
    threads: Threads = None,
    overwrite: Overwrite = False,
) -> int:
    """Compress tokens losslessly into an archive, by range coding under a prior.

    To unpack the archive, the same prior and the same kind of processor are required.

    Args:
        tokens: output of vqaudio tokenize: a token file or folder
        out: archive to write, NAME.vqa
    """
    from vqaudio.tokens import archive
    from vqaudio.tokens.files import read_tokens, token_file

    code_prior = _load(prior, threads)
    with token_file(tokens) as file, _progress(None) as advance:
        started_at = time.perf_counter()
        facts = archive.pack(read_tokens(file), out, code_prior, threads=threads, overwrite=overwrite, advance=advance)
        elapsed = time.perf_counter() - started_at
    _print_summary(facts, elapsed, out, facts_file(out))
    return 0


def unpack(
    archive: Positional[Path],
    out: Path,
    prior: Annotated[str | None, arg(metavar="P", help="folder of the prior that the archive was packed with")] = None,
    threads: Threads = None,
    overwrite: Overwrite = False,
) -> int:
    """Restore the tokens from an archive.

    Args:
        archive: output of vqaudio pack, NAME.vqa, or - for standard input
        out: token file, such as NAME.jsonl or NAME.parquet, or a name without a suffix for a folder of .npy files
            with an index.jsonl
    """
    from vqaudio.tokens.archive import archive_facts
    from vqaudio.tokens.archive import unpack as unpack_rows
    from vqaudio.tokens.archive_format import read_archive
    from vqaudio.tokens.files import check_target, write_tokens

    check_target(out, overwrite=overwrite)
    packed = read_archive(archive)
    facts, code_prior = archive_facts(packed), _load(prior, threads)
    with _progress(facts.num_codes) as advance:
        started_at = time.perf_counter()
        write_tokens(out, unpack_rows(packed, code_prior, threads=threads, advance=advance), overwrite=overwrite)
        elapsed = time.perf_counter() - started_at
    _print_summary(facts, elapsed, out, facts_file(out))
    return 0


def _load(prior: str | None, threads: int | None) -> CodePrior | None:
    from vqaudio.speech.prior import CodePrior

    check_threads(threads)
    return None if prior is None else load_kind(prior, "cpu", CodePrior, threads)


@contextmanager
def _progress(total: int | None) -> Iterator[Advance]:
    with tqdm(total=total, unit="code", unit_scale=True, disable=None) as bar:  # None: only if stderr is a terminal
        yield bar.update


def size_facts(facts: ArchiveFacts) -> dict[str, str]:
    """Content and size of an archive, as text."""
    fraction = 8 * facts.payload_bytes / max(1, facts.fixed_bits)
    rate = f"{facts.payload_rate:.1f} bits per second, {fraction:.3f} of the fixed-length size"
    ideal = f"{facts.ideal_bits / facts.seconds:.1f} bits per second (negative log-likelihood, prior {facts.prior})"
    pitch = f"{facts.num_pitch_tokens} tokens, {facts.pitch_bytes} bytes, {facts.pitch_rate:.1f} bits per second"
    return {
        "utterances": f"{facts.num_rows}, {facts.seconds:.1f} s of audio",
        "codes": f"{facts.num_codes}, {facts.num_codes / facts.seconds:.4g} per second",
        "payload": f"{facts.payload_bytes} bytes, {rate}",
        **({"pitch": pitch} if facts.num_pitch_tokens else {}),
        "header": f"{facts.header_bytes} bytes",
        "archive": f"{facts.total_bytes} bytes, {facts.total_rate:.1f} bits per second",
        "ideal": ideal if facts.prior else "unknown: packed without a prior",
    }


def _print_summary(facts: ArchiveFacts, elapsed: float, out: Path, file: TextIO | None = None) -> None:
    speed = f"{facts.num_codes / elapsed:.3g} codes per second, RTF {facts.seconds / elapsed:.3g}"
    summary = {**size_facts(facts), "speed": f"{speed} (audio seconds per wall second)", "written": str(out)}
    print_facts(summary, file)
