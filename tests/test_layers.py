"""A module imports only from layers below its own; files stay small and are named by meaning."""

import ast
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = REPOSITORY / "vqaudio"

LAYERS = [  # bottom to top
    ["pipes"],
    ["config", "atomic", "fingerprint", "json_text", "program", "torch_defaults", "torchaudio_functional"],
    ["upgrade"],
    ["kernels"],
    ["nn", "checkpoint"],
    ["sampling", "data", "training"],  # data and training are independent of models
    ["speech"],
    ["tokens", "images"],  # speech never imports images, and nothing but recipes and the command line does
    ["metrics"],
    ["report", "benchmark", "hub", "video"],  # video builds on images
    ["verify", "demo"],
    ["cli", "recipes"],
    ["__main__"],
]
RANK = {unit: rank for rank, units in enumerate(LAYERS) for unit in units}
TYPES_ALONE = {("checkpoint", "speech")}  # what `load_model` returns, for type checkers; nothing is imported

MODULES = sorted(PACKAGE.rglob("*.py"))
RECIPES = sorted((REPOSITORY / "recipes").glob("*.py"))
NO_NAMES = {"util", "utils", "helper", "helpers", "common", "misc", "manager", "managers"}


def _unit(path: Path) -> str:
    """The layer's member to which a file belongs: its folder in the package, or its own name at the top of it."""
    if PACKAGE not in path.parents:
        return "recipes"
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _imports(source: str) -> set[str]:
    """Modules of the package and of recipes/ that a source imports, at its top or inside functions."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: write imports in full, so that this test can follow them"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.partition(".")[0] in ("vqaudio", "recipes")}


FORBIDDEN = {  # though below
    ("training", "nn"),
    ("metrics", "images"),
    ("report", "images"),
    ("benchmark", "images"),
}
ALLOWED = {("training", "nn.distributed")}  # though forbidden


def _unit_of(name: str) -> str:
    first, _, rest = name.partition(".")
    unit = first if first == "recipes" else rest.partition(".")[0]
    return unit if unit in RANK else "speech"  # the public names of the package are those of speech


def _listed(unit: str, name: str, pairs: set[tuple[str, str]]) -> bool:
    """Whether a pair names this unit, and this module or a package that contains it."""
    return any(unit == who and (name + ".").startswith(what + ".") for who, what in pairs)


def _wrong_imports(unit: str, source: str) -> set[str]:
    wrong = set()
    for name in _imports(source):
        other = _unit_of(name)
        if other == unit or (unit, other) in TYPES_ALONE:
            continue
        below = name.removeprefix("vqaudio.")
        forbidden = _listed(unit, below, FORBIDDEN) and not _listed(unit, below, ALLOWED)
        if RANK[other] >= RANK[unit] or forbidden or other == "recipes":
            wrong.add(other)
    return wrong


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
        ("nn", "def f():\n    from vqaudio.speech.model import SpeechVQVAE", {"speech"}),
        ("nn", "import vqaudio.sampling.ring as ring", {"sampling"}),
        ("data", "from vqaudio import load_model", {"speech"}),
        ("data", "from vqaudio import config", set()),
        ("checkpoint", "from vqaudio.images.vqvae import ImageVQVAE", {"images"}),
        ("training", "from vqaudio.speech.model import SpeechVQVAE", {"speech"}),
        ("training", "from vqaudio.nn.quantizer import VectorQuantizer", {"nn"}),
        ("training", "from vqaudio.nn import quantizer", {"nn"}),
        ("training", "from vqaudio.nn.fsq import FSQ", {"nn"}),
        ("training", "from vqaudio.nn import encoder", {"nn"}),
        ("training", "from vqaudio.nn.wavenet import WaveNet", {"nn"}),
        ("training", "import vqaudio.nn", {"nn"}),
        ("training", "from vqaudio.nn.distributed import global_size", set()),
        ("training", "from vqaudio.nn import distributed", set()),
        ("speech", "from vqaudio.images.prior import ImagePrior", {"images"}),
        ("report", "from vqaudio.images.pictures import save_png", {"images"}),
        ("metrics", "import vqaudio\nfrom vqaudio.report.run import write", {"report"}),
        ("cli", "from recipes.train import TrainConfig\nfrom vqaudio.report import run", {"recipes"}),
        ("recipes", "from vqaudio.training import fit\nfrom vqaudio.cli import main", {"cli"}),
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
    assert lines <= 500, f"{path.name} has {lines} lines; about 500 is the limit: split it by meaning"
