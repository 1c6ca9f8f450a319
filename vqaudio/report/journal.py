"""The results of an evaluation in progress, so that an interrupted one can continue: one line per task and set."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vqaudio.atomic import atomic_file
from vqaudio.json_text import DAMAGED, JSONError, parse_json

JOURNAL = "report.resume.jsonl"


class Journal:
    """The file `path`; None keeps nothing.

    Raises FileExistsError for a file of another `identity`, and ValueError for a damaged one.
    """

    def __init__(self, path: Path | None, identity: str):
        self.path = path
        self.done: dict[tuple[str, str], dict[str, Any]] = {}
        if path is None:
            return
        first, *lines = _complete_lines(path) or [{"identity": identity}]
        if first != {"identity": identity}:
            raise FileExistsError(
                f"{path} has results of an evaluation of another model, other data or other options; delete it, or "
                "give another --out"
            )
        try:
            self.done = {(r["task"], r["set"]): {"results": r["results"], "reason": r["reason"]} for r in lines}
        except DAMAGED as error:
            raise ValueError(f"{path} is damaged ({error!r}); delete it") from error
        with atomic_file(path, overwrite=True) as new:
            new.write_text("".join(json.dumps(line) + "\n" for line in (first, *lines)), encoding="utf-8")

    def append(self, task: str, set: str, found: dict[str, Any]) -> None:
        """Keeps what was found for a task on a set."""
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"task": task, "set": set, **found}) + "\n")

    def remove(self) -> None:
        """At the end, when the report is written."""
        if self.path is not None:
            self.path.unlink()


def hash_of_files(paths: Iterable[Path]) -> list[str]:
    """The SHA-256 of each file, and of all files in each folder, by content and name within the folder."""
    hashes = []
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                with file.open("rb") as content:
                    digest = hashlib.file_digest(content, "sha256").hexdigest()
                hashes.append(digest if file == path else f"{file.relative_to(path)} {digest}")
    return hashes


def _complete_lines(path: Path) -> list[dict[str, Any]]:
    """All lines but an incomplete last one, which a killed process left."""
    if not path.exists():
        return []
    content = path.read_bytes()
    try:
        return [parse_json(line) for line in content[: content.rfind(b"\n") + 1].splitlines()]
    except JSONError as error:
        raise ValueError(f"{path} is damaged ({error}); delete it") from error
