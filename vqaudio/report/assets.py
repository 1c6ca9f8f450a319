"""What the page shows of tokens: where each code occurs and how it sounds, and utterances over time.

Letters: N frames, T samples, K codes, V speakers, M mel bands, F columns of a spectrogram, P points of an envelope.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from vqaudio.atomic import atomic_file
from vqaudio.data.alignments import Segment
from vqaudio.data.audio import write_audio
from vqaudio.metrics.phones import frame_phones
from vqaudio.tokens.rows import TokenRow, file_name

Frames = npt.NDArray[np.float32]
AUDIO, PICTURES = "audio", "pictures"  # folders of a report
CONTEXT = 0.2  # seconds that are heard around a code, which alone is too short for an ear
MOST_LABELS = 8  # phones and speakers that are listed of a code
POINTS = 1000  # of an envelope
MELS, WINDOW, COLUMNS_PER_SECOND, DYNAMIC_RANGE = 80, 0.025, 200, 70.0  # bands, seconds, Hz, dB below the loudest


class Run(NamedTuple):
    """A code that stays the same from frame `start` until before frame `end`."""

    code: int
    start: int
    end: int


def clip(folder: Path, name: str, wav: npt.ArrayLike, sample_rate: int) -> str:
    """Audio (T,) as a 16-bit WAV file of the report in `folder` -> its path there, for the page.

    Not FLAC, though half as large: without a table of places, which libsndfile does not write, Chromium fails to seek
    in short ones.
    """
    path = f"{AUDIO}/{file_name(name)}.wav"
    (folder / AUDIO).mkdir(exist_ok=True)
    write_audio(folder / path, wav, sample_rate, overwrite=True)
    return path


def code_exhibits(
    rows: Sequence[TokenRow],
    codebook_size: int,
    folder: Path,
    *,
    wavs: Mapping[str, Frames] | None = None,
    alignments: Mapping[str, Sequence[Segment]] | None = None,
    snippets: int = 3,
) -> list[dict[str, Any]]:
    """Tokens of utterances -> for each of the K codes, used or not, its use, phones, speakers, and how it sounds.

    `wavs`, by utterance: what may be listened to; whose audio is not there is counted, but not heard. A code's
    snippets are its longest runs, each from another utterance, with 0.2 s on both sides: ranges of seconds in one file
    for each utterance. `alignments`, by utterance: a frame's phone is the one at its middle. phones and speakers are
    shares of the frames where they are known, the 8 largest. Raises ValueError for codes that are not in 0..K-1.
    """
    alignments = alignments or {}
    labels = sorted({segment.label for alignment in alignments.values() for segment in alignment})
    names = sorted({row.speaker for row in rows if row.speaker is not None})
    phones = np.zeros((codebook_size, len(labels) + 1), np.int64)  # frames of each code; the last column: not known
    speakers = np.zeros((codebook_size, len(names) + 1), np.int64)
    milliseconds = np.zeros(codebook_size)
    found: list[list[tuple[TokenRow, Run]]] = [[] for _ in range(codebook_size)]
    for row in rows:
        codes, frame_rate = row.tokens.codes.numpy(), row.tokens.sample_rate / row.tokens.hop
        if len(codes) and not 0 <= codes.min() <= codes.max() < codebook_size:
            raise ValueError(f"codes of {row.id} must lie in 0..{codebook_size - 1}, got {codes.min()}..{codes.max()}")
        counts = np.bincount(codes, minlength=codebook_size)
        milliseconds += 1000 * counts / frame_rate
        speakers[:, -1 if row.speaker is None else names.index(row.speaker)] += counts
        np.add.at(phones, (codes, frame_phones(list(alignments.get(row.id, ())), len(codes), frame_rate, labels)), 1)
        for run in runs(codes):
            found[run.code].append((row, run))
    total = max(int(phones.sum()), 1)
    written: dict[str, str] = {}  # paths of utterances
    return [
        {
            "code": code,
            "share": round(int(phones[code].sum()) / total, 6),
            "count": int(phones[code].sum()),
            "phones": _shares(phones[code], labels),
            "speakers": _shares(speakers[code], names),
            "mean_run_ms": round(milliseconds[code] / len(found[code]), 1) if found[code] else None,
            "snippets": _snippets(found[code], wavs or {}, folder, snippets, written),
        }
        for code in range(codebook_size)
    ]


def timeline(
    row: TokenRow,
    folder: Path,
    *,
    wav: Frames | None = None,
    segments: Sequence[Segment] = (),
    text: str | None = None,
) -> dict[str, Any]:
    """One utterance for the page: its codes, and what is known of its phones, text and audio (T,)."""
    facts = {
        "id": row.id,
        "speaker": row.speaker,
        "text": text,
        "seconds": round(row.tokens.seconds, 4),
        "frame_rate": row.tokens.sample_rate / row.tokens.hop,
        "codes": row.tokens.codes.tolist(),
        "segments": [[round(s.start, 4), round(s.end, 4), s.label] for s in segments],
        "audio": None,
        "waveform": [],
        "picture": None,
    }
    if wav is None:
        return facts
    picture = f"{PICTURES}/{row.id}.png"
    (folder / PICTURES).mkdir(exist_ok=True)
    draw_spectrogram(folder / picture, wav, row.tokens.sample_rate)
    points = [[round(float(low), 3), round(float(high), 3)] for low, high in envelope(wav)]
    return facts | {"audio": clip(folder, row.id, wav, row.tokens.sample_rate), "waveform": points, "picture": picture}


def runs(codes: npt.NDArray[np.int64]) -> list[Run]:
    """(N,) -> its runs of equal codes, in order."""
    if not len(codes):
        return []
    edges = [0, *(np.flatnonzero(np.diff(codes)) + 1).tolist(), len(codes)]
    return [Run(int(codes[start]), start, end) for start, end in pairwise(edges)]


def envelope(wav: Frames, points: int = POINTS) -> npt.NDArray[np.float32]:
    """(T,) -> (P, 2): the lowest and the highest sample of each of P equal parts, P at most T."""
    starts = np.linspace(0, len(wav), min(points, len(wav)), endpoint=False).astype(np.int64)
    return np.stack([np.minimum.reduceat(wav, starts), np.maximum.reduceat(wav, starts)], axis=1)


def draw_spectrogram(path: Path, wav: Frames, sample_rate: int) -> None:
    """(T,) -> a PNG file without axes, (M, F) pixels: log-mel, low bands below, as wide as the utterance is long."""
    check_drawing()
    import librosa
    from matplotlib import image

    hop = max(1, sample_rate // COLUMNS_PER_SECOND)
    window = max(2, round(WINDOW * sample_rate))
    size = max(1024, 1 << (window - 1).bit_length())  # so long that each mel band holds a frequency
    padded = np.pad(wav, (0, max(0, size - len(wav))))
    power = librosa.feature.melspectrogram(
        y=padded, sr=sample_rate, n_fft=size, win_length=window, hop_length=hop, n_mels=MELS
    )[:, : 1 + len(wav) // hop]
    decibels = librosa.power_to_db(power, ref=float(power.max()) or 1.0, top_db=None)
    with atomic_file(path, overwrite=True) as temporary:
        image.imsave(temporary, decibels, vmin=-DYNAMIC_RANGE, vmax=0, cmap="magma", origin="lower", format="png")


def _shares(counts: npt.NDArray[np.int64], names: Sequence[str]) -> dict[str, float]:
    """Frames of each name and, at the end, of none -> shares of those with a name, the largest first."""
    known = counts[:-1].tolist()
    largest = sorted(zip(names, known, strict=True), key=lambda named: -named[1])[:MOST_LABELS]  # equal ones by name
    return {name: round(count / sum(known), 4) for name, count in largest if count}


def _snippets(
    found: Sequence[tuple[TokenRow, Run]],
    wavs: Mapping[str, Frames],
    folder: Path,
    most: int,
    written: dict[str, str],
) -> list[str]:
    """The longest runs, each from another utterance, as ranges of seconds in the utterances' files."""
    heard = [(row, run) for row, run in found if row.id in wavs]
    heard.sort(key=lambda at: (at[1].start - at[1].end, at[0].id, at[1].start))
    chosen: dict[str, tuple[TokenRow, Run]] = {}
    for row, run in heard:
        if len(chosen) < most:
            chosen.setdefault(row.id, (row, run))
    paths = []
    for row, run in chosen.values():
        if row.id not in written:
            written[row.id] = clip(folder, row.id, wavs[row.id], row.tokens.sample_rate)
        frame = row.tokens.hop / row.tokens.sample_rate
        start, end = max(0.0, run.start * frame - CONTEXT), min(row.tokens.seconds, run.end * frame + CONTEXT)
        paths.append(f"{written[row.id]}#t={start:.3f},{end:.3f}")
    return paths


def check_drawing() -> None:
    """Raises ModuleNotFoundError, with what to install, where pictures cannot be made."""
    try:
        import matplotlib  # noqa: F401
        import PIL  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "figures are drawn with matplotlib and Pillow: pip install 'vqaudio[images]' (or pass --no-html)"
        ) from error
