"""The 41 phone classes, and the table that maps labels to them.

The paper scores 41 classes (arXiv 1711.00937, section 4.2) and does not list them. Here they are the 39 English phones
of the CMU dictionary, silence (SIL), and one class for all other sounds (SPN), as in forced alignments with that
dictionary, such as Kaldi's of LibriSpeech. The classes of the paper were probably the same.

The table folds the 61 labels of TIMIT into them:

    39 labels             the phone of the same name: aa AA, ae AE, ... zh ZH
    variants, reduced     their full phone, as Lee and Hon (1989) fold them: ax, ax-h AH; ix IH; ux UW; axr ER; el L;
                          em M; en, nx N; eng NG; hv HH. Unlike there, ao is not merged with aa, nor zh with sh
    closures              the following stop (bcl B), or the affricate (tcl before ch). Lee and Hon map them to silence,
                          which would increase silence from 14 % to 22 % of the frames of TIMIT
    dx, the flap          T
    h#, pau, epi          SIL
    q, the glottal stop   SPN: the dictionary has no phone for it

Labels of the dictionary (AH0, AH0_B) lose their stress and position; sil and sp of aligners are SIL; spn, nsn and
+NOISE+ SPN. Case is ignored.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from vqaudio.data.alignments import ROUNDING, Alignment, Segment

PHONES = (
    *("AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW"),
    *("B", "CH", "D", "DH", "F", "G", "HH", "JH", "K", "L", "M", "N", "NG", "P", "R", "S", "SH", "T", "TH", "V", "W"),
    *("Y", "Z", "ZH"),
)
CLASSES = (*PHONES, "SIL", "SPN")
Classes = Literal["paper", "labels"]

_FOLDED = {
    "AH": "ax ax-h",
    "ER": "axr",
    "HH": "hv",
    "IH": "ix",
    "L": "el",
    "M": "em",
    "N": "en nx",
    "NG": "eng",
    "UW": "ux",
    **{stop.upper(): f"{stop}cl" for stop in "bdgkp"},
    "T": "tcl dx",
    "SIL": "h# #h pau epi sp <sil> <s> </s>",
    "SPN": "q nsn +spn+ +nsn+ +noise+ +breath+ +cough+ +smack+ +um+ +uh+ [noise] [speech] <unk>",
}
TABLE: Mapping[str, str] = {
    **{name.lower(): name for name in CLASSES},
    **{label: name for name, labels in _FOLDED.items() for label in labels.split()},
}
AFFRICATES = {("tcl", "CH"): "CH", ("dcl", "JH"): "JH"}  # (closure, class of the next segment) -> class


class Folded(NamedTuple):
    alignments: list[Alignment]  # labelled with classes; adjacent segments of one class are merged
    classes: tuple[str, ...]


def fold(alignments: Sequence[Alignment], classes: Classes = "paper", table: Mapping[str, str] | None = None) -> Folded:
    """Alignments with the labels of an aligner -> alignments with phone classes.

    `table`: label -> class, instead of the one above, for other languages or other classes; labels are looked up in it
    unchanged. classes="labels": every label is its own class. Raises ValueError with the labels that have no
    class.
    """
    if classes not in ("paper", "labels"):
        raise ValueError(f"classes must be 'paper' or 'labels', got {classes!r}")
    if table is not None and classes == "labels":
        raise ValueError("a table of classes contradicts classes='labels'; give only one of them")
    labels = Counter(segment.label for alignment in alignments for segment in alignment)
    if classes == "labels":
        class_of = {label: label for label in labels}
    elif table is not None:
        class_of = {label: table[label] for label in labels if label in table}
    else:
        class_of = {label: TABLE[plain] for label in labels if (plain := _plain(label)) in TABLE}
    if unknown := [f"{label!r} ({count} times)" for label, count in labels.most_common() if label not in class_of]:
        raise ValueError(
            f"{len(unknown)} labels have no phone class: {', '.join(unknown[:8])}; keep all labels with "
            "classes='labels' (--phone-classes labels), or give your own table={label: class, ...}"
        )
    affricates = AFFRICATES if table is None and classes == "paper" else {}
    names = CLASSES if affricates else tuple(sorted(set((table or class_of).values())))
    return Folded([_folded(alignment, class_of, affricates) for alignment in alignments], names)


def _plain(label: str) -> str:
    """The spelling of the table: AH0_B -> ah."""
    return re.sub(r"^([A-Za-z]+)[012]?(_[BIES])?$", r"\1", label).lower()


def _folded(alignment: Alignment, class_of: Mapping[str, str], affricates: Mapping[tuple[str, str], str]) -> Alignment:
    folded = Alignment()
    for i, segment in enumerate(alignment):
        name, after = class_of[segment.label], alignment[i + 1 : i + 2]
        if after and _touch(segment, after[0]):
            name = affricates.get((segment.label.lower(), class_of[after[0].label]), name)
        if folded and folded[-1].label == name and _touch(folded[-1], segment):
            folded[-1] = folded[-1]._replace(end=segment.end)
        else:
            folded.append(segment._replace(label=name))
    return folded


def _touch(first: Segment, second: Segment) -> bool:
    return second.start - first.end < ROUNDING
