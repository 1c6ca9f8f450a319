"""metrics.jsonl: one row of figures per line, in the run's folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vqaudio.data.atomic import atomic_file


class MetricsFile:
    """Appends rows {"kind": "train" or "valid", "step", figures}."""

    def __init__(self, path: Path, writes: bool):
        self.path, self.writes = path, writes

    def append(self, row: dict[str, Any]) -> None:
        if self.writes:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")

    def truncate(self, step: int) -> None:
        """Drops rows after `step`: a resumed run writes them again. A line cut off by a kill is dropped too."""
        if self.writes and self.path.exists():
            rows = [row for row in read_metrics(self.path) if row["step"] <= step]
            with atomic_file(self.path, overwrite=True) as path:
                path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """All whole rows of a metrics.jsonl."""
    text = Path(path).read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    return [json.loads(line) for line in whole.splitlines()]
