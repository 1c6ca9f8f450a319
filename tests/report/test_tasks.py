"""The registry of report tasks, and all that is made from it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from vqaudio.cli.main import main
from vqaudio.report.config import ReportConfig
from vqaudio.report.markdown import END, updated
from vqaudio.report.published import PUBLISHED
from vqaudio.report.systems import (
    CONVERSION,
    INVERTED,
    MODEL,
    ORIGINAL,
    RECONSTRUCTION,
    TITLES,
    conversion,
    reconstruction,
)
from vqaudio.report.tasks import TASKS, Task

DOCS = Path(__file__).parents[2] / "docs/evaluation.md"


def test_keys_are_unique_and_name_functions() -> None:
    assert len({task.key for task in TASKS}) == len(TASKS)
    for task in TASKS:
        assert len({metric.key for metric in task.metrics}) == len(task.metrics)
        assert callable(task.function)


def test_a_metric_without_a_row_is_refused() -> None:
    task = TASKS[0]
    assert task.metric(task.metrics[-1].key) is task.metrics[-1]
    with pytest.raises(KeyError, match="computes 'nonsense', which has no row"):
        task.metric("nonsense")


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.key)
def test_each_meaning_is_one_sentence(task: Task) -> None:
    for metric in task.metrics:
        assert re.fullmatch(r"[A-Z0-9][^\n]*[^.]\.", metric.meaning), metric.key


def test_summaries_and_published_results_refer_to_registered_metrics() -> None:
    tasks = {task.key: task for task in TASKS}
    of_vocoders = {kind(vocoder) for kind in (reconstruction, conversion) for vocoder in TITLES}
    systems = {MODEL, ORIGINAL, INVERTED, RECONSTRUCTION, CONVERSION, *of_vocoders}
    for task in TASKS:
        fields = [field for template in task.summary for field in re.findall(r"\{([^:{}]+):(\w+)\}", template)]
        assert {system for system, _ in fields} <= systems
        for key in [*(key for _, key in fields), *([task.compared] if task.compared else [])]:
            task.metric(key)
    for own in PUBLISHED:
        tasks[own.task].metric(own.metric)


def test_the_tasks_are_the_choices_of_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--help"]) == 0
    text = re.sub(r"[\s│]+", "", capsys.readouterr().out)
    assert ",".join(task.key for task in TASKS) in text
    with pytest.raises(ValueError, match="there is no task 'nonsense'; the tasks are conditioning_gap, phones"):
        ReportConfig(only=("nonsense",))


def test_the_registry_is_read_without_torch() -> None:
    program = "import sys, vqaudio.report.config, vqaudio.report.markdown; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=120).returncode == 0


def test_the_documentation_holds_the_registry() -> None:
    text = DOCS.read_text(encoding="utf-8")
    assert text == updated(text), "run python -m vqaudio.report.markdown docs/evaluation.md"
    with pytest.raises(ValueError, match="must contain the markers"):
        updated(text.replace(END, ""))
