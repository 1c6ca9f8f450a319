"""A module imports only from layers below its own; files stay small and are named by meaning."""

import ast
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = REPOSITORY / "vqaudio"

LAYERS = [  # bottom to top
    ["config"],
    ["native"],
    ["nn"],
    ["sampling"],
    ["data"],  # below models, which read audio files and decode mu-law; data itself knows no model
    ["models"],
    ["training", "tokens"],  # neither sees the other, and training sees no model's name
    ["evaluation"],
    ["adaptation"],  # trains a model that it knows, and says what that was worth
    ["console"],
    ["verbs"],
    ["cli", "recipes"],
    ["__main__"],
]
RANK = {unit: rank for rank, units in enumerate(LAYERS) for unit in units}
FORBIDDEN = {("training", "models")}  # though below: fit sees an nn.Module and a loader

MODULES = sorted(PACKAGE.rglob("*.py"))
RECIPES = sorted((REPOSITORY / "recipes").glob("*.py"))
NO_NAMES = {"util", "utils", "helper", "helpers", "common", "misc", "manager", "managers"}


def _unit(path: Path) -> str:
    """The layer's member to which a file belongs: its folder in the package, or its own name at the top of it."""
    if PACKAGE not in path.parents:
        return "recipes"
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _imported_units(source: str) -> set[str]:
    """Members of the layers that a source imports, at its top or inside functions."""
    units = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: write imports in full, so that this test can follow them"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            first, _, rest = name.partition(".")
            if first == "recipes":
                units.add("recipes")
            if first == "vqaudio":
                unit = rest.split(".")[0]
                units.add(unit if unit in RANK else "models")  # the public names of the package are models'
    return units


def _wrong_imports(unit: str, source: str) -> set[str]:
    return {
        other
        for other in _imported_units(source) - {unit}
        if RANK[other] >= RANK[unit] or (unit, other) in FORBIDDEN or other == "recipes"
    }


@pytest.mark.parametrize("path", [*MODULES, *RECIPES], ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_a_module_imports_only_from_layers_below(path: Path) -> None:
    if path == PACKAGE / "__init__.py":
        return  # the public names, from wherever they are
    unit = _unit(path)
    assert unit in RANK, f"{unit} has no layer; give it one above"
    wrong = _wrong_imports(unit, path.read_text(encoding="utf-8"))
    assert not wrong, f"{path.relative_to(REPOSITORY)} belongs to {unit} and must not import {', '.join(sorted(wrong))}"


@pytest.mark.parametrize(
    ("unit", "source", "wrong"),
    [
        ("nn", "from vqaudio.nn.conv import CausalConv1d\nimport vqaudio.config\nimport torch", set()),
        ("nn", "def f():\n    from vqaudio.speech.model import SpeechVQVAE", {"models"}),
        ("nn", "import vqaudio.sampling.ring as ring", {"sampling"}),
        ("data", "from vqaudio import load_model", {"models"}),
        ("data", "from vqaudio import config", set()),
        ("training", "from vqaudio.checkpoint import save_model", {"models"}),
        ("training", "from vqaudio.tokens import rows\nfrom vqaudio.data import crops", {"tokens"}),
        ("tokens", "import vqaudio\nfrom vqaudio.report.run import write", {"evaluation"}),
        ("cli", "from recipes.train import TrainConfig\nfrom vqaudio.evaluation import report", {"recipes"}),
        ("recipes", "from vqaudio.training import fit\nfrom vqaudio.cli.main import main", {"cli"}),
    ],
)
def test_this_test_sees_wrong_imports(unit: str, source: str, wrong: set[str]) -> None:
    assert _wrong_imports(unit, source) == wrong


def test_modules_are_named_by_meaning() -> None:
    named = {part for path in [*MODULES, *RECIPES] for part in path.relative_to(REPOSITORY).with_suffix("").parts}
    assert not named & NO_NAMES
    assert "quantizer" in named


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_a_file_holds_one_idea(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= 320, f"{path.name} has {lines} lines; about 300 is the limit: split it by meaning"
