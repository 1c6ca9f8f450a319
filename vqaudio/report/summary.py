"""The sentences at the top of a report: how intelligible decoded speech is, then those of the tasks in the registry.

A summary is a template: {system:metric} is replaced by the value with its interval, {set} by the name of the set, and a
part in [brackets] is omitted if one of its values was not measured. If another value is missing, there is no sentence.
The systems "reconstruction" and "conversion" stand for those of the model's default vocoder.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from vqaudio.metrics.confidence import Estimate
from vqaudio.report.systems import CONVERSION, KMEANS, MODEL, ORIGINAL, RECONSTRUCTION
from vqaudio.report.tasks import TASKS, Task

Lookup = Callable[[str, str, str], dict[str, Estimate]]  # keys of task, set and system -> metrics
Level = Literal["intelligible", "partly intelligible", "unintelligible", "not measured"]
INTELLIGIBLE, PARTLY = 0.1, 0.4  # largest increase of the WER over the original audio


class Intelligibility(NamedTuple):
    """Whether decoded speech can be understood, by the word error rate of the worst kind of audio and set."""

    level: Level
    sentence: str  # "" where it was not measured


NOT_MEASURED = Intelligibility("not measured", "")


def intelligibility(lookup: Lookup, sets: Sequence[str], how: str) -> Intelligibility:
    """From the word error rates of the default vocoder. how: names vocoder and recogniser, for the sentence."""
    parts, increases = [], []
    for name in sets:
        rates = {kind: own for kind in (ORIGINAL, RECONSTRUCTION, CONVERSION) if (own := _wer(lookup, name, kind))}
        decoded = [(kind, own) for kind, own in rates.items() if kind != ORIGINAL]
        if ORIGINAL not in rates or not decoded:
            continue
        increases.append(max(own.value for _, own in decoded) - rates[ORIGINAL].value)
        listed = " and ".join(f"{formatted(own, 'fraction')} for {kind}s" for kind, own in decoded)
        original = f"original audio {formatted(rates[ORIGINAL], 'fraction')}"
        parts.append(f"{_level(increases[-1])} on {name}, with a word error rate of {listed}, {original}")
    if not parts:
        return NOT_MEASURED
    return Intelligibility(_level(max(increases)), f"Decoded speech ({how}) is {'; '.join(parts)}.")


def _level(increase: float) -> Level:
    """increase: of the word error rate over that of the original audio."""
    if increase <= INTELLIGIBLE:
        return "intelligible"
    return "partly intelligible" if increase <= PARTLY else "unintelligible"


def _wer(lookup: Lookup, name: str, system: str) -> Estimate | None:
    return lookup("wer", name, system).get("wer")


def sentences(lookup: Lookup, sets: Sequence[str]) -> list[str]:
    """In the order of the registry, but those on decoded speech first."""
    tasks = sorted(TASKS, key=lambda task: not task.decodes)
    found = (_sentence(task, template, name, lookup) for task in tasks for name in sets for template in task.summary)
    return [sentence for sentence in found if sentence]


def _sentence(task: Task, summary: str, name: str, lookup: Lookup) -> str:
    def measured(system: str, key: str) -> Estimate | None:
        estimate = lookup(task.key, name, system).get(key)
        return None if estimate is None or math.isnan(estimate.value) else estimate

    def fill(template: str) -> str | None:
        """None where a value is missing."""
        values = {field: measured(*field) for field in re.findall(r"\{([^:{}]+):(\w+)\}", template)}
        if None in values.values():
            return None
        for (system, key), estimate in values.items():
            text = formatted(estimate, task.metric(key).unit) if estimate else ""
            template = template.replace(f"{{{system}:{key}}}", text)
        return template.replace("{set}", name)

    filled = fill(re.sub(r"\[([^]]*)\]", lambda part: fill(part[1]) or "", summary))
    if filled is None:
        return ""
    compared = task.compared if summary == task.summary[0] else ""
    ours = measured(MODEL, compared) if compared else None
    baselines = {system: own for system in KMEANS if compared and (own := measured(system, compared))}
    if ours is None or not baselines:
        return f"{filled}."
    metric = task.metric(compared)
    sign = -1 if metric.better == "lower" else 1
    system, best = max(baselines.items(), key=lambda item: sign * item[1].value)
    return f"{filled}; {system} with as many codes: {formatted(best, metric.unit)}, {_outcome(ours, best, sign)}."


def _outcome(ours: Estimate, best: Estimate, sign: int) -> str:
    disjoint = min(ours.count, best.count) > 1 and (ours.low > best.high or ours.high < best.low)
    if not disjoint:
        return "a difference within the confidence intervals"
    return "so the tokens are better" if sign * (ours.value - best.value) > 0 else "so the tokens are worse"


def formatted(estimate: Estimate, unit: str) -> str:
    """A value with its interval, if it has one; fractions in percent."""
    scale, digits = (100, 1) if unit == "fraction" else (1, 3)
    value, low, high = (f"{scale * number:.{digits}f}" for number in estimate[:3])
    name = " %" if unit == "fraction" else f" {unit}" if unit else ""
    return f"{value}{name}" if low == high else f"{value}{name} ({low} to {high})"
