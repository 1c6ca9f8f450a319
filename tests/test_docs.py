"""What the documentation names exists (links, presets, verbs, flags, make targets, extras), and the site builds."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from vqaudio.cli.main import VERBS
from vqaudio.config import flatten, to_dict

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "egs/*/README.md", "vqaudio/pretrained/*/MODEL_CARD.md")
    for path in ROOT.glob(pattern)
)
RECIPES = {
    "train": "TrainConfig",
    "train_image": "TrainImageConfig",
    "train_prior": "TrainPriorConfig",
    "train_video": "TrainVideoConfig",
    "pitch_tokens": "AddPitchTokensConfig",
    "average": "AverageConfig",
}
FENCE = re.compile(r"^```[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)
FLAG = re.compile(r"(?<![\w-])--([a-z][\w.-]*\w)")
OF_OTHERS = {"multi-gpu", "num-processes", "stage", "stop-stage", "conf"}  # of accelerate, and of egs/*/run.sh


def _id(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _anchors(path: Path) -> set[str]:
    """The headings of a page as GitHub and mkdocs link to them."""
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ +(.*?) *$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in titles}


def _broken_links(path: Path, text: str) -> list[str]:
    broken = []
    for target, anchor in re.findall(r"\]\((?!https?:|mailto:)([^)#\s]*)(#[^)\s]*)?\)", text):
        found = path.parent / target if target else path
        if not found.exists() or (anchor and anchor[1:] not in _anchors(found)):
            broken.append(target + anchor)
    return broken


def _commands(text: str) -> list[str]:
    """Lines of code blocks and pieces of inline code, each without its comment and what it is piped to."""
    lines = [line for block in FENCE.findall(text) for line in block.replace("\\\n", " ").splitlines()]
    spans = re.findall(r"`([^`]+)`", FENCE.sub("", text))
    return [re.split(r"\s[#|]", line.replace("\n", " "))[0] for line in [*lines, *spans]]


def _normal(flag: str) -> str:
    return flag.replace("_", "-")


def _flags_of_verb(verb: str) -> set[str]:
    """As its help lists them."""
    command = [sys.executable, "-m", "vqaudio", verb, "--help"]
    shown = subprocess.run(
        command, env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1"}, cwd=ROOT, capture_output=True, text=True
    )
    assert shown.returncode == 0, shown.stderr
    return {_normal(flag) for flag in FLAG.findall(shown.stdout)}


@pytest.fixture(scope="module")
def flags_of_verbs() -> dict[str, set[str]]:
    return {verb.__name__: _flags_of_verb(verb.__name__) for verb in VERBS}


@pytest.fixture(scope="module")
def flags_of_recipes() -> dict[str, set[str]]:
    flags = {}
    for name, config in RECIPES.items():
        spec = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / f"recipes/{name}.py")
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses look their module up
        spec.loader.exec_module(module)
        flags[name] = {_normal(key) for key in flatten(to_dict(getattr(module, config)()))} | {"help"}
    return flags


def _unknown_flags(text: str, verbs: dict[str, set[str]], recipes: dict[str, set[str]]) -> list[str]:
    """Flags that no verb or recipe has in the commands of a page, and verbs that do not exist."""
    unknown = []
    known_anywhere = set.union(OF_OTHERS, *verbs.values(), *recipes.values())
    for command in _commands(text):
        verb = re.search(r"(?:^|\s)vqaudio +([a-z]+)\b(.*)", command)
        recipe = re.search(r"recipes/(\w+)\.py\b(.*)", command)
        if verb:
            known = verbs.get(verb[1])
            if known is None:
                unknown.append(f"vqaudio {verb[1]}")
                continue
            rest = verb[2]
        elif recipe:
            known, rest = recipes[recipe[1]], recipe[2]
        else:
            known, rest = known_anywhere, command if command.startswith("--") else ""
        for flag in FLAG.findall(rest):
            groups = {key.rpartition(".")[0] for key in known}  # "--fit.health.*" in prose
            name = _normal(flag)
            if not {name, name.removeprefix("no-")} & known and not (f"{flag}.*" in rest and name in groups):
                unknown.append(f"--{flag} in `{command}`")
    return unknown


def test_the_pages_are_found() -> None:
    names = {_id(path) for path in PAGES}
    assert names >= {"README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/training.md", "docs/tutorials/train.md"}
    assert names >= {"egs/vctk/README.md", "vqaudio/pretrained/mini/MODEL_CARD.md"}


@pytest.mark.parametrize("path", PAGES, ids=_id)
def test_links_within_the_repository_resolve(path: Path) -> None:
    assert not _broken_links(path, FENCE.sub("", path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("path", PAGES, ids=_id)
def test_presets_recipes_targets_and_extras_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    named = set(re.findall(r"\b(?:egs/[\w/]+/conf/[\w/]+\.yaml|recipes/\w+\.py)", text))
    assert not {name for name in named if not (ROOT / name).exists()}
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {name for command in _commands(text) for name in re.findall(r"^make (\w+)$", command)} <= targets
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    wanted = {extra for names in re.findall(r"vqaudio\[([\w,]+)\]", text) for extra in names.split(",")}
    assert wanted <= set(extras)


CURRENT = [path for path in PAGES if path.name != "CHANGELOG.md"]  # which names what was there before, too


def _exists(name: str) -> bool:
    """A source file as pages name it: from the root or from the package, or by its last part alone."""
    where = ["", "vqaudio/"] if "/" in name else ["vqaudio/**/", "egs/**/", "tests/**/", "recipes/", ""]
    return any(any(ROOT.glob(folder + name)) for folder in where)


@pytest.mark.parametrize("path", CURRENT, ids=_id)
def test_source_files_exist(path: Path) -> None:
    named = re.findall(r"`([\w/*.-]+\.(?:py|cpp|sh))`", FENCE.sub("", path.read_text(encoding="utf-8")))
    assert not [name for name in named if not _exists(name)]


def test_the_layers_of_the_architecture_page_are_those_of_the_test() -> None:
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    rows = next(block for block in FENCE.findall(page) if "kernels/" in block).split("\n")
    drawn = {re.sub(r"(/|\.py)$", "", unit): -row for row, line in enumerate(rows) for unit in line.split()}
    tree = ast.parse((ROOT / "tests/test_layers.py").read_text(encoding="utf-8"))
    (layers,) = (
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "LAYERS"
    )
    rank = {unit: height for height, units in enumerate(layers) for unit in units}
    assert set(rank) <= set(drawn)
    inverted = [(low, high) for low in rank for high in rank if rank[low] < rank[high] and drawn[low] > drawn[high]]
    assert not inverted


@pytest.mark.parametrize("path", CURRENT, ids=_id)
def test_verbs_and_flags_exist(
    path: Path, flags_of_verbs: dict[str, set[str]], flags_of_recipes: dict[str, set[str]]
) -> None:
    assert not _unknown_flags(path.read_text(encoding="utf-8"), flags_of_verbs, flags_of_recipes)


def test_these_tests_see_what_is_wrong(
    flags_of_verbs: dict[str, set[str]], flags_of_recipes: dict[str, set[str]]
) -> None:
    page = ROOT / "README.md"
    assert _broken_links(page, "[a](docs/nothing.md) [b](docs/glossary.md#nothing) [c](docs/glossary.md#frame)") == [
        "docs/nothing.md",
        "docs/glossary.md#nothing",
    ]
    text = """```
vqaudio decode tokens.jsonl --speaker p225 \\
    --louder 3 --out x | aplay -f S16_LE --fast   # --comment
vqaudio sing --out x
accelerate launch --multi_gpu recipes/train.py CONFIG --fit.lr 3e-4 --fit.stepz 3
```
`--top-k`, `--fit.health.*`, `--fit.speed.*` and `--recogniser`."""
    assert _exists("nn/encoder.py") and _exists("kernels.cpp") and _exists("metrics/abx*.py")
    assert not _exists("nn/ears.py") and not _exists("ears.py")
    found = _unknown_flags(text, flags_of_verbs, flags_of_recipes)
    assert [flag.split(" in ")[0] for flag in found] == [
        "--louder",
        "vqaudio sing",
        "--fit.stepz",
        "--fit.speed",
        "--recogniser",
    ]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="pip install 'vqaudio[docs]'")
def test_the_site_builds_strictly(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    pages = {path.relative_to(tmp_path / "site").as_posix() for path in (tmp_path / "site").rglob("*.html")}
    assert pages >= {"index.html", "tutorials/train.html", "api.html", "egs/vctk/index.html", "CHANGELOG.html"}
    assert "load_model" in (tmp_path / "site/api.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_picture_of_the_readme_is_made_by_its_script(tmp_path: Path) -> None:
    from PIL import Image

    script, shipped = ROOT / "docs/images/draw_examples.py", ROOT / "docs/images/examples.png"
    subprocess.run([sys.executable, str(script), str(tmp_path / "out.png")], cwd=ROOT, check=True, capture_output=True)
    with Image.open(tmp_path / "out.png") as made, Image.open(shipped) as there:
        assert made.size == there.size
    assert shipped.stat().st_size < 200_000
