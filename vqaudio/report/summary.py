"""The sentences at the top of a report: one for each task with a `summary` in the registry, and each set.

A summary is a template: {system:metric} is replaced by the value with its interval, {set} by the name of the set, and a
part in [brackets] is omitted if one of its values was not measured. If another value is missing, there is no sentence.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

from vqaudio.metrics.confidence import Estimate
from vqaudio.report.systems import KMEANS, MODEL
from vqaudio.report.tasks import TASKS, Task

Lookup = Callable[[str, str, str], dict[str, Estimate]]  # keys of task, set and system -> metrics


def sentences(lookup: Lookup, sets: Sequence[str]) -> list[str]:
    """In the order of the registry."""
    found = (_sentence(task, name, lookup) for task in TASKS if task.summary for name in sets)
    return [sentence for sentence in found if sentence]


def _sentence(task: Task, name: str, lookup: Lookup) -> str:
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

    filled = fill(re.sub(r"\[([^]]*)\]", lambda part: fill(part[1]) or "", task.summary))
    if filled is None:
        return ""
    ours = measured(MODEL, task.compared) if task.compared else None
    baselines = {system: own for system in KMEANS if task.compared and (own := measured(system, task.compared))}
    if ours is None or not baselines:
        return f"{filled}."
    metric = task.metric(task.compared)
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
