"""mkdocs hooks: pages that live beside what they describe (recipes, model card, change log) are part of the site.

Links are written for the repository, so that they work where the files are read there; here each one is pointed to the
page of the site, and a link to a file that has no page becomes its name.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
DOCS = "docs/"
OUTSIDE = ("CONTRIBUTING.md", "CHANGELOG.md", "vqaudio/pretrained/*/MODEL_CARD.md", "egs/*/README.md")
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#:]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The pages outside docs/, at their own paths, and the images that they show."""
    for path in sorted(path for pattern in OUTSIDE for path in ROOT.glob(pattern)):
        uri = path.relative_to(ROOT).as_posix()
        files.append(File.generated(config, uri, abs_src_path=str(path)))
        for image, _, target, _ in LINK.findall(path.read_text(encoding="utf-8")):
            found = posixpath.normpath(posixpath.join(posixpath.dirname(uri), target))
            if image and files.get_file_from_path(found) is None:
                files.append(File.generated(config, found, abs_src_path=str(ROOT / found)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links between files of the repository -> links between pages of the site."""
    uri = page.file.src_uri
    outside = page.file.generated_by is not None
    folder = posixpath.dirname(uri if outside else DOCS + uri)

    def point(link: re.Match[str]) -> str:
        image, text, target, anchor = link.groups()
        path = posixpath.normpath(posixpath.join(folder, target))
        if files.get_file_from_path(path.removeprefix(DOCS)) is not None:
            there = posixpath.relpath(path.removeprefix(DOCS), posixpath.dirname(uri) or ".")
            return f"{image}[{text}]({there}{anchor or ''})"
        if (ROOT / path).exists():
            return text if text.startswith("`") else f"{text} (`{path}`)"
        return link.group()  # a link to nothing: the strict build reports it

    return LINK.sub(point, markdown)
