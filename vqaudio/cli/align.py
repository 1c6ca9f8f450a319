"""vqaudio align: forced phone alignment of transcribed speech."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from vqaudio.cli.console import Overwrite, facts_file, failures_named, print_facts, progress
from vqaudio.sampling.config import MAX_THREADS

if TYPE_CHECKING:
    from vqaudio.data.alignments import Alignment
    from vqaudio.data.manifest import Utterance

MADE_BY = "forced alignment by vqaudio align with pocketsphinx, from the texts of the manifest"
AGREEMENT = "on TIMIT, the same class as the manual labels in 74 % of the time (41 classes)"


def align(
    inputs: Positional[Annotated[tuple[Path, ...], arg(metavar="MANIFEST [MANIFEST ...]", help="with texts (.jsonl)")]],
    out: Path,
    reference: Annotated[
        tuple[Path, ...],
        arg(metavar="PATH [PATH ...]", help="other alignments of the same utterances: prints the agreement with them"),
    ] = (),
    threads: Annotated[int, arg(help="utterances aligned at the same time, each in its own process")] = 1,
    overwrite: Overwrite = False,
) -> int:
    """Phone alignments from English texts by forced alignment, for corpora without phone labels.

    Phone metrics of `vqaudio evaluate` are limited by the errors of these alignments. An utterance with a word that is
    not in the dictionary is listed and left out.

    Args:
        out: NAME.tsv, or - for standard output, with utterance, start, end (in seconds) and label in each line
    """
    from vqaudio.data.alignments import check_table, find_alignments, write_alignments
    from vqaudio.data.forced_alignment import align_all
    from vqaudio.data.manifest import read_manifest

    if not 1 <= threads <= MAX_THREADS:
        bound = "least 1" if threads < 1 else f"most {MAX_THREADS}"
        raise ValueError(f"--threads must be at {bound}, got {threads}")
    check_table(out, overwrite=overwrite)
    utterances = [utterance for manifest in inputs for utterance in read_manifest(manifest)]
    if not utterances:
        raise ValueError("there are no utterances in the manifests; give a manifest that has some")
    for id, count in Counter(utterance.id for utterance in utterances).most_common(1):
        if count > 1:
            raise ValueError(f"{count} utterances have the id {id!r}; align their manifests in separate runs")
    labels: dict[str, Alignment] = {}
    for place in reference:
        labels |= find_alignments(place, [utterance.id for utterance in utterances])
    alignments: dict[str, Alignment] = {}
    with failures_named() as failures:
        alignments |= progress(align_all(utterances, failures, threads), len(utterances))
        write_alignments(out, alignments, notes=[MADE_BY, AGREEMENT], overwrite=overwrite)
    phones = sum(map(len, alignments.values()))
    print_facts(
        {
            "utterances": f"{len(alignments)} of {len(utterances)}",
            "phones": f"{phones}, {MADE_BY}",
            "agreement": _agreement(utterances, alignments, labels) if reference else f"not measured; {AGREEMENT}",
            "written": str(out),
        },
        facts_file(out),
    )
    return 1 if failures else 0


def _agreement(
    utterances: Sequence[Utterance], alignments: Mapping[str, Alignment], labels: Mapping[str, Alignment]
) -> str:
    """The agreement as a sentence. Raises ValueError for labels without a phone class."""
    from vqaudio.metrics.alignment_agreement import agreement

    both = [u for u in utterances if u.id in alignments and u.id in labels]
    if not both:
        return "none of the aligned utterances is in the reference"
    found = agreement([alignments[u.id] for u in both], [labels[u.id] for u in both], [u.speaker for u in both])
    same, recall = (
        f"{100 * own.value:.1f} % ({100 * own.low:.1f} to {100 * own.high:.1f})"
        for own in (found["same_class"], found["boundary_recall"])
    )
    return (
        f"on {len(both)} utterances, same class as the reference in {same} of the time, {recall} of its boundaries "
        f"within 20 ms, median deviation {1000 * found['deviation'].value:.0f} ms"
    )
