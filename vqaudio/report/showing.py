"""What a report's page shows beside figures: codes, utterances over time, and audio to listen to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vqaudio.report.assets import clip, code_exhibits, timeline
from vqaudio.report.context import EvaluationContext, NotApplicableError
from vqaudio.report.datasets import spread

TIMELINES, LISTENED, AUDIBLE = 6, 8, 40  # utterances of each set: over time, spoken again, heard as snippets of codes


def show(subjects: Sequence[EvaluationContext], folder: Path, *, spoken: bool) -> dict[str, Any]:
    """Exhibits of all sets together, audio and pictures in `folder`; what `write_page` has beside the figures.

    spoken: whether what the decoder says is among them.
    """
    model = subjects[0].model
    rows, audible, alignments = [], {}, {}
    for subject in subjects:
        own = subject.set
        rows += subject.rows
        alignments |= subject.alignments
        audible |= {u.id: own.wav(u) for u in spread(own.utterances, AUDIBLE, lambda u: u.speaker)}
    timelines = [one for subject in subjects for one in _timelines(subject, folder)]
    return {
        "codes": code_exhibits(rows, model.codebook_size, folder, wavs=audible, alignments=alignments),
        "timelines": sorted(timelines, key=lambda one: not one["segments"]),  # those with phones first
        "audio": [one for subject in subjects if spoken for one in _audio(subject, folder)],
        "pictures": [],
    }


def _timelines(subject: EvaluationContext, folder: Path) -> list[dict[str, Any]]:
    own = subject.set
    aligned = [u for u in own.utterances if u.id in subject.alignments] or own.utterances
    rows = {row.id: row for row in subject.rows}
    return [
        timeline(rows[u.id], folder, wav=own.wav(u), segments=subject.alignments.get(u.id, ()), text=u.text)
        for u in spread(aligned, TIMELINES, lambda u: u.speaker)
    ]


def _audio(subject: EvaluationContext, folder: Path) -> list[dict[str, Any]]:
    """Originals beside what the decoder made of them; of a set that it has no voices for, nothing."""
    try:
        spoken = subject.decoded
    except NotApplicableError:
        return []
    rate = subject.model.sample_rate
    chosen = spread(range(len(spoken.utterances)), LISTENED, lambda i: spoken.utterances[i].speaker)
    shown = []
    for i in chosen:
        u = spoken.utterances[i]
        conversions = {}
        if spoken.targets:
            target = spoken.targets[i]
            conversions[target] = clip(folder, f"{u.id}-{target}", spoken.conversions[i], rate)
        shown.append(
            {
                "id": u.id,
                "speaker": u.speaker,
                "text": u.text,
                "original": clip(folder, u.id, spoken.originals[i], rate),
                "reconstruction": clip(folder, f"{u.id}-reconstruction", spoken.reconstructions[i], rate),
                "conversions": conversions,
            }
        )
    return shown
