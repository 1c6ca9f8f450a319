"""Phones for speech whose texts are known."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from vqaudio.cli.console import Overwrite, failures_named, print_facts, progress

MADE_BY = "machine-made by vqaudio align: pocketsphinx's forced alignment of the manifest's texts"
AGREES = "with hand labels of TIMIT in 74 % of the time (41 classes); 75 % of their boundaries within 20 ms"


def align(
    inputs: Positional[Annotated[tuple[Path, ...], arg(metavar="MANIFEST [MANIFEST ...]", help="with texts (.jsonl)")]],
    out: Path,
    threads: Annotated[int, arg(help="utterances at once, each in a process of its own")] = 1,
    overwrite: Overwrite = False,
) -> int:
    """When each phone is spoken, found by a machine where a corpus has texts of English but no phones.

    What `vqaudio evaluate` then says of phones, and so of the tokens, is no better than these are. An utterance with a
    word that the dictionary does not have is named and left out.

    Args:
        out: NAME.tsv, with utterance, start and end (seconds) and label in each line
    """
    from vqaudio.data.alignments import Alignment, check_table, write_alignments
    from vqaudio.data.forced_alignment import align_all
    from vqaudio.data.manifest import read_manifest

    if threads < 1:
        raise ValueError(f"--threads must be at least 1, got {threads}")
    check_table(out, overwrite=overwrite)
    utterances = [utterance for manifest in inputs for utterance in read_manifest(manifest)]
    if not utterances:
        raise ValueError("there are no utterances in what was named; name a manifest that has some")
    for id, count in Counter(utterance.id for utterance in utterances).most_common(1):
        if count > 1:
            raise ValueError(f"{count} utterances have the id {id!r}; align their manifests in separate runs")
    alignments: dict[str, Alignment] = {}
    with failures_named() as failures:
        alignments |= progress(align_all(utterances, failures, threads), len(utterances))
        write_alignments(out, alignments, notes=[MADE_BY, f"agrees {AGREES}"], overwrite=overwrite)
    phones = sum(map(len, alignments.values()))
    print_facts(
        {
            "utterances": f"{len(alignments)} of {len(utterances)}",
            "phones": f"{phones}, {MADE_BY}",
            "agreement": AGREES,
            "written": str(out),
        }
    )
    return 1 if failures else 0
