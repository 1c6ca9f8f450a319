"""metrics.jsonl: the log of a run, one JSON object per line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vqaudio.atomic import atomic_file
from vqaudio.json_text import parse_json
from vqaudio.upgrade import upgrade_metrics


class MetricsFile:
    """Appends rows {"kind": "train" or "valid", "step": int, METRIC: value, ...}; only if `writes` (main process)."""

    def __init__(self, path: Path, writes: bool):
        self.path, self.writes = path, writes

    def append(self, row: dict[str, Any]) -> None:
        if self.writes:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
            except OSError as error:
                raise OSError(f"cannot write {self.path}: {error.strerror}") from error

    def truncate(self, step: int) -> None:
        """Drop rows after `step`, which a resumed run writes again, and an incomplete last line; upgrade the others."""
        if self.writes and self.path.exists():
            rows = [upgrade_metrics(row) for row in read_metrics(self.path) if row["step"] <= step]
            with atomic_file(self.path, overwrite=True) as path:
                path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """All complete rows of a metrics.jsonl file."""
    text = Path(path).read_text(encoding="utf-8")
    complete = text[: text.rfind("\n") + 1]
    return [parse_json(line) for line in complete.splitlines()]


PROGRESS_NAMES = {
    "bits_per_sample": "bits",
    "bits_per_dim": "bits per dim",
    "bits_per_code": "bits per code",
    "cluster_bits": "bits per cluster",
    "perplexity": "perplexity",
    "usage": "usage",
    "conditioning_gap": "conditioning gap",
    "speaker_gap": "speaker gap",
    "rtf": "rtf",
}


def progress_metrics(row: Mapping[str, float | str], prefix: str) -> dict[str, str]:
    """Metrics shown in the progress bar, formatted: those in PROGRESS_NAMES, or all if the row has none of them."""
    numbers = {name: f"{value:.4g}" for name, value in row.items() if not isinstance(value, str)}
    chosen = {prefix + short: numbers[name] for name, short in PROGRESS_NAMES.items() if name in numbers}
    return chosen or {prefix + name: number for name, number in numbers.items()}
