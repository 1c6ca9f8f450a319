"""What the HTML page shows besides metrics: the codes, utterances over time, and audio to listen to.

Letters: N frames, T samples, K codes, M mel bands, F columns of a spectrogram, P points of an envelope.
"""

from __future__ import annotations

import re
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
from vqaudio.nn.quantizer_protocol import check_codes
from vqaudio.report.context import EvaluationContext
from vqaudio.report.datasets import spread
from vqaudio.report.systems import ORIGINAL, TITLES, NotApplicableError, conversion, reconstruction
from vqaudio.tokens.rows import TokenRow, file_name

Frames = npt.NDArray[np.float32]
AUDIO, PICTURES = "audio", "pictures"  # folders of a report
SNIPPET_CONTEXT = 0.2  # seconds before and after a code in its snippets: a code alone is too short to recognise
MAX_LABELS = 8  # phones and speakers listed for a code
POINTS = 1000  # of an envelope
TIMELINES, AUDIO_EXAMPLES, SNIPPET_UTTERANCES = 6, 8, 40  # utterances of each set
MAX_COLUMNS = 12_000  # of a picture: a minute; longer utterances have fewer per second
MELS, WINDOW, COLUMNS_PER_SECOND, DYNAMIC_RANGE = 80, 0.025, 200, 70.0  # bands, seconds, Hz, dB below the loudest


def page_assets(contexts: Sequence[EvaluationContext], folder: Path, *, decoded: bool) -> dict[str, Any]:
    """The entries of all sets for `write_page`; their audio and pictures are written to `folder`.

    decoded: whether there is decoded audio to listen to.
    """
    rows, wavs, alignments = [], {}, {}
    for context in contexts:
        dataset = context.dataset
        rows += context.rows
        alignments |= context.alignments
        chosen = spread(dataset.utterances, SNIPPET_UTTERANCES, lambda u: u.speaker)
        wavs |= {u.id: dataset.wav(u) for u in chosen}
    timelines = [one for context in contexts for one in _timelines(context, folder)]
    size = contexts[0].model.codebook_size
    return {
        "codes": code_entries(rows, size, folder, wavs=wavs, alignments=alignments),
        "timelines": sorted(timelines, key=lambda one: not one["segments"]),  # those with phones first
        "audio": [one for context in contexts if decoded for one in _audio_examples(context, folder)],
        "pictures": [own for context in contexts if decoded for own in _spectrograms(context, folder)],
    }


def _timelines(context: EvaluationContext, folder: Path) -> list[dict[str, Any]]:
    dataset = context.dataset
    aligned = [u for u in dataset.utterances if u.id in context.alignments] or dataset.utterances
    rows = {row.id: row for row in context.rows}
    return [
        timeline(rows[u.id], folder, wav=dataset.wav(u), segments=context.alignments.get(u.id, ()), text=u.text)
        for u in spread(aligned, TIMELINES, lambda u: u.speaker)
    ]


def _audio_examples(context: EvaluationContext, folder: Path) -> list[dict[str, Any]]:
    """Utterances as audio of all systems; none for a set that the model cannot decode."""
    try:
        decoded = context.decoded
    except (NotApplicableError, ValueError):  # the tasks have reported it
        return []
    rate = context.model.sample_rate
    chosen = spread(range(len(decoded.utterances)), AUDIO_EXAMPLES, lambda i: decoded.utterances[i].speaker)
    examples = []
    for i in chosen:
        u = decoded.utterances[i]
        clips = {
            system: clip(folder, u.id if system == ORIGINAL else f"{u.id}-{_hyphenated(system)}", wavs[i], rate)
            for system, wavs in decoded.audio.items()
        }
        target = decoded.targets[i] if decoded.targets else None
        examples.append({"id": u.id, "speaker": u.speaker, "text": u.text, "target": target, "clips": clips})
    return examples


def _hyphenated(system: str) -> str:
    """conversion (Griffin-Lim) -> conversion-griffin-lim."""
    return re.sub(r"[^a-z]+", "-", system.lower()).strip("-")


def _spectrograms(context: EvaluationContext, folder: Path) -> list[dict[str, str]]:
    """A picture of the first decoded utterance, by which one sees what codes and decoder lose."""
    try:
        decoded = context.decoded
    except (NotApplicableError, ValueError):  # the tasks have reported it
        return []
    kind = reconstruction if any(map(decoded.audio.get, map(reconstruction, TITLES))) else conversion
    shown = decoded.of([ORIGINAL, *map(kind, TITLES)])
    u, path = decoded.utterances[0], f"{PICTURES}/{file_name(context.dataset.name)}-decoded.png"
    (folder / PICTURES).mkdir(exist_ok=True)
    draw_spectrograms(folder / path, {name: wavs[0] for name, wavs in shown.items()}, context.model.sample_rate)
    return [{"title": f"{u.id}: log-mel spectrograms of the audio, {', '.join(shown)}", "path": path}]


class Run(NamedTuple):
    """Successive equal codes, from frame `start` until before frame `end`."""

    code: int
    start: int
    end: int


def clip(folder: Path, name: str, wav: npt.ArrayLike, sample_rate: int) -> str:
    """Writes audio (T,) as a 16-bit WAV file below `folder` -> its path relative to it.

    Not FLAC, though half as large: libsndfile writes no seek table, and without one Chromium fails to seek in short
    files.
    """
    path = f"{AUDIO}/{file_name(name)}.wav"
    (folder / AUDIO).mkdir(exist_ok=True)
    write_audio(folder / path, wav, sample_rate, overwrite=True)
    return path


def code_entries(
    rows: Sequence[TokenRow],
    codebook_size: int,
    folder: Path,
    *,
    wavs: Mapping[str, Frames] | None = None,
    alignments: Mapping[str, Sequence[Segment]] | None = None,
    snippets: int = 3,
) -> list[dict[str, Any]]:
    """Token rows -> for each of the K codes its frequency, phones, speakers and audio snippets.

    `wavs`: utterance id -> audio; without it an utterance is counted but gives no snippets. A code's snippets are its
    longest runs, each from another utterance, with 0.2 s on both sides, as ranges of seconds in one file per utterance.
    `alignments`: utterance id -> phones; the phone of a frame is the one at its middle. phones and speakers are the 8
    largest fractions of the frames where they are known. Raises ValueError for codes outside 0..K-1.
    """
    alignments = alignments or {}
    labels = sorted({segment.label for alignment in alignments.values() for segment in alignment})
    names = sorted({row.speaker for row in rows if row.speaker is not None})
    phones = np.zeros((codebook_size, len(labels) + 1), np.int64)  # frames of each code; the last column: unknown
    speakers = np.zeros((codebook_size, len(names) + 1), np.int64)
    milliseconds = np.zeros(codebook_size)
    found: list[list[tuple[TokenRow, Run]]] = [[] for _ in range(codebook_size)]
    for row in rows:
        codes, frame_rate = row.tokens.codes.numpy(), row.tokens.sample_rate / row.tokens.hop
        check_codes(codes, codebook_size, f"codes of {row.id!r}")
        counts = np.bincount(codes, minlength=codebook_size)
        milliseconds += 1000 * counts / frame_rate
        speakers[:, -1 if row.speaker is None else names.index(row.speaker)] += counts
        np.add.at(phones, (codes, frame_phones(list(alignments.get(row.id, ())), len(codes), frame_rate, labels)), 1)
        for run in runs(codes):
            found[run.code].append((row, run))
    total = max(int(phones.sum()), 1)
    written: dict[str, str] = {}  # utterance id -> path
    return [
        {
            "code": code,
            "fraction": round(int(phones[code].sum()) / total, 6),
            "count": int(phones[code].sum()),
            "phones": _fractions(phones[code], labels),
            "speakers": _fractions(speakers[code], names),
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
    """One utterance over time: its codes, phones, text, and audio (T,) with waveform and spectrogram."""
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
    """Codes (N,) -> runs of equal codes, in order."""
    if not len(codes):
        return []
    edges = [0, *(np.flatnonzero(np.diff(codes)) + 1).tolist(), len(codes)]
    return [Run(int(codes[start]), start, end) for start, end in pairwise(edges)]


def envelope(wav: Frames, points: int = POINTS) -> npt.NDArray[np.float32]:
    """(T,) -> (P, 2): minimum and maximum of each of P equal parts, P at most T."""
    starts = np.linspace(0, len(wav), min(points, len(wav)), endpoint=False).astype(np.int64)
    return np.stack([np.minimum.reduceat(wav, starts), np.maximum.reduceat(wav, starts)], axis=1)


def draw_spectrogram(path: Path, wav: Frames, sample_rate: int) -> None:
    """(T,) -> a PNG file of (M, F) pixels without axes: the log-mel spectrogram, low frequencies at the bottom."""
    check_drawing()
    from matplotlib import image

    decibels = _log_mel(wav, sample_rate)
    with atomic_file(path, overwrite=True) as temporary:
        image.imsave(temporary, decibels, vmin=-DYNAMIC_RANGE, vmax=0, cmap="magma", origin="lower", format="png")


def draw_spectrograms(path: Path, wavs: Mapping[str, Frames], sample_rate: int) -> None:
    """Waveforms (T,) by name -> a PNG file with their log-mel spectrograms one above the other, on one time axis."""
    check_drawing()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 1.9 * len(wavs)), dpi=110, layout="constrained")
    panels = figure.subplots(len(wavs), 1, sharex=True, squeeze=False)[:, 0]
    for panel, (name, wav) in zip(panels, wavs.items(), strict=True):
        extent = (0, len(wav) / sample_rate, 0, MELS)
        panel.imshow(
            _log_mel(wav, sample_rate),
            vmin=-DYNAMIC_RANGE,
            vmax=0,
            cmap="magma",
            origin="lower",
            aspect="auto",
            extent=extent,
        )
        panel.set_title(name, fontsize=9, loc="left")
        panel.set_ylabel("mel band", fontsize=8)
        panel.tick_params(labelsize=8)
    panels[-1].set_xlabel("seconds", fontsize=8)
    with atomic_file(path, overwrite=True) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})


def _log_mel(wav: Frames, sample_rate: int) -> Frames:
    """(T,) -> (M, F) decibels relative to the loudest."""
    import librosa

    hop = max(1, sample_rate // COLUMNS_PER_SECOND, len(wav) // MAX_COLUMNS)
    window = max(2, round(WINDOW * sample_rate))
    size = max(1024, 1 << (window - 1).bit_length())  # long enough that every mel band contains a frequency bin
    padded = np.pad(wav, (0, max(0, size - len(wav))))
    power = librosa.feature.melspectrogram(
        y=padded, sr=sample_rate, n_fft=size, win_length=window, hop_length=hop, n_mels=MELS
    )[:, : 1 + len(wav) // hop]
    return librosa.power_to_db(power, ref=float(power.max()) or 1.0, top_db=None)


def _fractions(counts: npt.NDArray[np.int64], names: Sequence[str]) -> dict[str, float]:
    """Frame counts by name, the last one without a name -> the largest fractions of those with one."""
    known = counts[:-1].tolist()
    largest = sorted(zip(names, known, strict=True), key=lambda named: -named[1])[:MAX_LABELS]  # ties by name
    return {name: round(count / sum(known), 4) for name, count in largest if count}


def _snippets(
    found: Sequence[tuple[TokenRow, Run]],
    wavs: Mapping[str, Frames],
    folder: Path,
    count: int,
    written: dict[str, str],
) -> list[str]:
    """The longest runs, each from another utterance, as paths with ranges of seconds."""
    audible = [(row, run) for row, run in found if row.id in wavs]
    audible.sort(key=lambda at: (at[1].start - at[1].end, at[0].id, at[1].start))
    chosen: dict[str, tuple[TokenRow, Run]] = {}
    for row, run in audible:
        if len(chosen) < count:
            chosen.setdefault(row.id, (row, run))
    paths = []
    for row, run in chosen.values():
        if row.id not in written:
            written[row.id] = clip(folder, row.id, wavs[row.id], row.tokens.sample_rate)
        frame = row.tokens.hop / row.tokens.sample_rate
        start = max(0.0, run.start * frame - SNIPPET_CONTEXT)
        end = min(row.tokens.seconds, run.end * frame + SNIPPET_CONTEXT)
        paths.append(f"{written[row.id]}#t={start:.3f},{end:.3f}")
    return paths


def check_drawing() -> None:
    """Raises ModuleNotFoundError, with what to install, where spectrograms cannot be drawn."""
    try:
        import matplotlib  # noqa: F401
        import PIL  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "spectrograms are drawn with matplotlib and Pillow: pip install 'vqaudio[images]' (or pass --no-html)"
        ) from error
