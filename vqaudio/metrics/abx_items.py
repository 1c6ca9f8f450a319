"""ABX items: phone tokens with speaker and context, and the features of their utterances.

Files are those of the ZeroSpeech challenges and of fastabx: .item files, and a folder with one feature file per
utterance.

Letters: N frames, D width.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from vqaudio.atomic import atomic_file, atomic_folder
from vqaudio.data.alignments import ROUNDING, Segment

Features = npt.NDArray[Any]  # (N, D) floats, or (N,) integers that are codes
Context = Literal["triphone", "any"]
COLUMNS = ("#file", "onset", "offset", "#phone", "prev-phone", "next-phone", "speaker")
SILENCE = "SIL"  # also the context at the ends of an utterance and beside unlabelled time
SILENCES = ("sil", "spn", "sp", "h#", "pau", "epi")
MIN_CELLS = 1000  # within speakers, for triphones: LibriSpeech dev-clean has 118,000 of them, 80 sentences of TIMIT 20
MAX_MISSING = 2  # frames by which features of a system without padding may be too short
_NOTHING = Segment(0.0, 0.0, SILENCE)


class Item(NamedTuple):
    """A phone token."""

    utterance: str
    start: float  # seconds: of the phone, or of the phone and its two neighbours
    end: float
    phone: str  # its class
    previous: str
    next: str
    speaker: str


def items_of(
    alignments: Mapping[str, Sequence[Segment]],
    speakers: Mapping[str, str],
    *,
    span: Literal["phone", "triphone"] = "phone",
    silences: Collection[str] = SILENCES,
) -> list[Item]:
    """Alignments of utterances, whose labels are classes (`phone_classes.fold`), and their speakers -> their phones.

    Labels in `silences`, in lower or upper case, are used as context but not as items. `span`: the interval of an item;
    "triphone" includes both neighbours, as in the ZeroSpeech challenges, and omits phones next to silence, unlabelled
    time or to the start or end of the utterance. Raises ValueError for an utterance without a speaker and where there
    are no items.
    """
    items = []
    for utterance, alignment in alignments.items():
        if utterance not in speakers:
            raise ValueError(f"utterance {utterance} has no speaker; give a speaker for every aligned utterance")
        for n, own in enumerate(alignment):
            if own.label.lower() in silences:
                continue
            before = alignment[n - 1] if n and own.start - alignment[n - 1].end < ROUNDING else _NOTHING
            after = alignment[n + 1] if n + 1 < len(alignment) else _NOTHING
            after = after if after.start - own.end < ROUNDING else _NOTHING
            start, end = own.start, own.end
            if span == "triphone":
                if {before.label.lower(), after.label.lower()} & {*silences, SILENCE.lower()}:
                    continue
                start, end = before.start, after.end
            items.append(Item(utterance, start, end, own.label, before.label, after.label, speakers[utterance]))
    if not items:
        raise ValueError(f"there are no {span}s in {len(alignments)} alignments; ABX needs some")
    return items


def choose_context(items: Iterable[Item], least: int = MIN_CELLS) -> Context:
    """ "triphone" if there are enough cells within speakers, otherwise "any".

    Enough means at least `least` cells (speaker, both neighbours, pair of phones) with two tokens of the first phone
    and one of the other. Comparing phones in any context requires fewer sentences, but sentences that all speakers read
    make comparisons across speakers easier, because X and A may come from the same word. In TIMIT these are two of ten
    sentences; without them the error increases by 0.002 to 0.005.
    """
    tokens: defaultdict[tuple[str, str, str], Counter[str]] = defaultdict(Counter)
    for item in items:
        tokens[item.speaker, item.previous, item.next][item.phone] += 1
    cells = sum((len(phones) - 1) * sum(count > 1 for count in phones.values()) for phones in tokens.values())
    return "triphone" if cells >= least else "any"


def frames_of(item: Item, frame_rate: float, length: int) -> slice:
    """The frames, of `length` in the utterance, whose centres lie in the item, or else the frame at its centre.

    Raises ValueError where the utterance ends more than MAX_MISSING frames before the item does.
    """
    first, stop = _middles(item, frame_rate)
    if stop <= first:
        first = math.floor((item.start + item.end) / 2 * frame_rate)
        stop = first + 1
    if stop > length + MAX_MISSING:
        raise ValueError(
            f"{item.utterance} has {length} frames; at {frame_rate:g} a second its item that ends at {item.end:.3f} s "
            f"needs {stop}: are the frame rate and the features those of this utterance?"
        )
    return slice(min(first, length - 1), min(stop, length))


def check_features(utterance: str, features: Features | None) -> None:
    """Raises ValueError for features other than (N, D) finite floats or (N,) integers, and for no frames."""
    if features is None:
        raise ValueError(f"{utterance} has items and no features; give the features of every utterance with items")
    kinds = {1: np.integer, 2: np.floating}
    if features.ndim not in kinds or not np.issubdtype(features.dtype, kinds[features.ndim]):
        raise ValueError(
            f"features are (N, D) floats or (N,) integers, got {features.shape} {features.dtype} for {utterance}"
        )
    if not features.size:
        raise ValueError(f"there are no frames in the features of {utterance}, got {features.shape}")
    if features.ndim == 2 and not np.isfinite(features).all():
        raise ValueError(f"the features of {utterance} have values that are not finite; they cannot be compared")


def load_features(folder: str | Path, ids: Iterable[str]) -> dict[str, Features]:
    """FOLDER/ID.npy for each utterance: (N, D) floats, or (N,) integers that are codes.

    Raises FileNotFoundError if files are missing, ValueError for a file with other content.
    """
    folder, names = Path(folder), list(ids)
    missing = [name for name in names if not (folder / f"{name}.npy").is_file()]
    if missing:
        raise FileNotFoundError(
            f"{folder} lacks the features of {len(missing)} of {len(names)} utterances, such as {missing[0]}.npy"
        )
    features = {}
    for name in names:
        path = folder / f"{name}.npy"
        try:
            features[name] = np.load(path, allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise ValueError(f"{path} is not an array of numbers as numpy.save writes it: {error}") from error
        check_features(str(path), features[name])
    return features


def write_items(path: str | Path, items: Iterable[Item], *, overwrite: bool = False) -> None:
    """Writes an .item file, atomically. Raises ValueError for names with spaces, which separate columns."""
    lines = [" ".join(COLUMNS)]
    for item in items:
        names = (item.utterance, item.phone, item.previous, item.next, item.speaker)
        if any(name.split() != [name] for name in names):
            raise ValueError(f"names in an .item file must be non-empty and without spaces, got {item}")
        utterance, *labels = names
        lines.append(" ".join([utterance, f"{item.start:.7f}", f"{item.end:.7f}", *labels]))  # 16 kHz samples exactly
    with atomic_file(path, overwrite=overwrite) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def save_for_fastabx(
    folder: str | Path,
    features: Mapping[str, Features],
    items: Iterable[Item],
    frame_rate: float,
    *,
    overwrite: bool = False,
) -> int:
    """Writes FOLDER/items.item and FOLDER/features/ID.pt for `fastabx`, atomically -> the number of items.

    Features are tensors (N, D); codes are (N, 1), for its distance "identical". fastabx fails on items that contain the
    centre of no frame or end after the features; these are left out.
    """
    folder, items, kept = Path(folder), list(items), []
    if folder.exists() and not overwrite:
        raise FileExistsError(f"{folder} exists already; pass --overwrite to replace it")
    for utterance in dict.fromkeys(item.utterance for item in items):
        check_features(utterance, features.get(utterance))
    for item in items:
        first, stop = _middles(item, frame_rate)
        if first < stop <= len(features[item.utterance]):
            kept.append(item)
    with atomic_folder(folder) as temporary:
        write_items(temporary / "items.item", kept)
        (temporary / "features").mkdir()
        for utterance in dict.fromkeys(item.utterance for item in kept):
            own = features[utterance]
            columns = own[:, None].astype(np.int64) if own.ndim == 1 else own.astype(np.float32)
            path = temporary / "features" / f"{utterance}.pt"
            path.parent.mkdir(parents=True, exist_ok=True)  # an id may name folders
            torch.save(torch.from_numpy(columns), path)
    return len(kept)


def _middles(item: Item, frame_rate: float) -> tuple[int, int]:
    """First and one past the last of the frames with start <= (n + 1/2) / frame_rate <= end, robust to rounding."""
    first, last = (round(seconds * frame_rate - 0.5, 6) for seconds in (item.start, item.end))
    return max(0, math.ceil(first)), math.floor(last) + 1
