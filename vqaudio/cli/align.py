"""vqaudio align: forced phone alignment of transcribed speech."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from vqaudio.cli.console import Overwrite, failures_named, print_facts, progress

MADE_BY = "forced alignment by vqaudio align with pocketsphinx, from the texts of the manifest"
AGREES = "with the manual labels of TIMIT in 74 % of the time (41 classes); 75 % of boundaries within 20 ms"


def align(
    inputs: Positional[Annotated[tuple[Path, ...], arg(metavar="MANIFEST [MANIFEST ...]", help="with texts (.jsonl)")]],
    out: Path,
    threads: Annotated[int, arg(help="number of parallel processes")] = 1,
    overwrite: Overwrite = False,
) -> int:
    """Forced phone alignment of English speech with transcripts.

    The alignments are automatic, which limits the accuracy of the phone metrics of `vqaudio evaluate`. Utterances with
    words that are missing from the dictionary are reported and left out.

    Args:
        out: NAME.tsv, with utterance, start, end (in seconds) and label per line
    """
    from vqaudio.data.alignments import Alignment, check_table, write_alignments
    from vqaudio.data.forced_alignment import align_all
    from vqaudio.data.manifest import read_manifest

    if threads < 1:
        raise ValueError(f"--threads must be at least 1, got {threads}")
    check_table(out, overwrite=overwrite)
    utterances = [utterance for manifest in inputs for utterance in read_manifest(manifest)]
    if not utterances:
        raise ValueError("the manifests contain no utterances; give a manifest with utterances")
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
