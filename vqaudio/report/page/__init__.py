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
    """A report with the entries of report.json and of `assets.page_assets` -> folder/index.html.

    Missing entries leave their section of the page empty. Audio and pictures are paths relative to `folder`,
    "audio/x.wav", and snippets have a range of seconds: "audio/x.wav#t=1.20,1.45". The same report gives the same
    bytes. Raises OSError where the page cannot be written.
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
    page = re.sub(
        r"\{\{(\w+)\}\}", lambda found: parts[found[1]], source("page.html")
    )  # in one pass: inserted text is not searched again
    with atomic_file(folder / INDEX, overwrite=overwrite) as temporary:
        temporary.write_text(page, encoding="utf-8")


def embedded(report: dict[str, Any]) -> str:
    """JSON that is safe inside <script>: without "<", in ASCII, with null for NaN and infinity."""
    text = json.dumps(_finite(report), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
