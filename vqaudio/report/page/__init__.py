"""The report as one HTML file: it opens from the disk, without a server or a network."""

from __future__ import annotations

import html
import json
import math
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

from vqaudio.atomic import atomic_file

INDEX = "index.html"
SCRIPTS = ("dom.js", "tones.js", "table.js", "codes.js", "timeline.js", "page.js")  # in this order


def write_page(report: dict[str, Any], folder: Path, *, overwrite: bool = False) -> None:
    """A report, as figures.json holds it -> folder/index.html; what it lacks the page says in its place.

    Audio and pictures are named by their paths below `folder`, "audio/x.wav", and for a snippet with its seconds:
    "audio/x.wav#t=1.20,1.45". Values in the unit "share" are shown in percent. What is published as "accuracy, of
    somebody" is shown beside the figure accuracy. The same report gives the same bytes.
    Raises OSError where it cannot write.
    """
    templates = files("vqaudio.report.page")

    def source(name: str) -> str:
        return templates.joinpath(name).read_text(encoding="utf-8")

    parts = {
        "title": html.escape(str(report["title"])),
        "css": source("page.css"),
        "js": "\n".join(source(name) for name in SCRIPTS),
        "report": embedded(report),
    }
    page = re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], source("page.html"))  # once: parts stay as they are
    with atomic_file(folder / INDEX, overwrite=overwrite) as temporary:
        temporary.write_text(page, encoding="utf-8")


def embedded(report: dict[str, Any]) -> str:
    """As JSON that may stand in a <script>: no "<" that could end it, ASCII alone, null for what is no number."""
    text = json.dumps(_finite(report), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
