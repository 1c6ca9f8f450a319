import importlib
import importlib.util
import json
import re
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

from vqaudio.config import ConfigError, fill_in, from_dict, load_yaml, parse, save_yaml, to_dict

REPOSITORY = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class InnerConfig:
    rate: float = 1e-3
    """a number"""
    layers: tuple[int, ...] = (1, 2)
    """whole numbers"""
    kind: Literal["plain", "fancy"] = "plain"
    """one of two"""

    def __post_init__(self) -> None:
        if self.rate <= 0:
            raise ValueError(f"rate must be above 0, got {self.rate}")


@dataclass(frozen=True)
class OuterConfig:
    steps: int = 10
    """a whole number"""
    name: str = "run"
    """text"""
    fast: bool = False
    """yes or no"""
    out: Path = Path("exp")
    """a folder"""
    limit: int | None = None
    """a whole number, or nothing"""
    parts: tuple[Path, ...] = ()
    """folders"""
    inner: InnerConfig = field(default_factory=InnerConfig)


OTHER = OuterConfig(7, "a: b", True, Path("x/y"), 3, (Path("p"), Path("q")), InnerConfig(4e-4, (), "fancy"))


# --- every configuration there is ---


def _config_classes() -> list[Any]:
    """All dataclasses named ...Config, of the package and of the recipes."""
    found = []
    for path in sorted([*(REPOSITORY / "vqaudio").rglob("*.py"), *(REPOSITORY / "recipes").glob("*.py")]):
        names = re.findall(r"^@dataclass.*\nclass (\w+Config)\b", path.read_text(encoding="utf-8"), re.MULTILINE)
        if names:
            spec = importlib.util.spec_from_file_location(f"recipe_{path.stem}", path)
            if path.parent.name == "recipes" and spec and spec.loader:
                module = importlib.util.module_from_spec(spec)
                sys_modules = importlib.import_module("sys").modules
                sys_modules[spec.name] = module  # where dataclasses look for the module's names
                spec.loader.exec_module(module)
            else:
                module = importlib.import_module(".".join(path.relative_to(REPOSITORY).with_suffix("").parts))
            found += [getattr(module, name) for name in names]
    return found


CLASSES = _config_classes()


def _variants(config: Any) -> list[Any]:
    """The configuration with one value changed, for every value that can be."""
    found = []
    for each in fields(config):
        value = getattr(config, each.name)
        others = {bool: lambda v: not v, int: lambda v: v + 1, float: lambda v: v * 0.5, Path: lambda v: v / "other"}
        if type(value) in others or isinstance(value, Path):
            other = others.get(type(value), others[Path])(value)
        elif isinstance(value, tuple) and value:
            other = value[::-1]
        else:
            continue
        try:
            found.append(replace(config, **{each.name: other}))
        except ValueError:
            continue  # it refuses this one
    return found


def test_the_known_configurations_are_found() -> None:
    names = {each.__name__ for each in CLASSES}
    assert {"EncoderConfig", "VectorQuantizerConfig", "WaveNetConfig", "SpeechVQVAEConfig", "CropConfig"} <= names
    assert {"FitConfig", "TrainConfig"} <= names
    assert all(is_dataclass(each) for each in CLASSES)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_configuration_survives_yaml_and_json(cls: Any, tmp_path: Path) -> None:
    variants = [cls(), *_variants(cls())]
    assert len(variants) > 1
    for i, config in enumerate(variants):
        path = tmp_path / f"{i}.yaml"
        save_yaml(config, path)
        assert load_yaml(cls, path) == config
        assert from_dict(cls, json.loads(json.dumps(to_dict(config)))) == config


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_configuration_is_frozen_and_lists_its_keys(cls: Any) -> None:
    with pytest.raises(AttributeError):
        setattr(cls(), fields(cls)[0].name, None)
    with pytest.raises(ConfigError) as caught:
        from_dict(cls, {"nonsense": 1})
    assert "unknown key 'nonsense'" in str(caught.value)
    assert all(each.name in str(caught.value) for each in fields(cls))


# --- dictionaries and YAML ---


def test_nothing_is_lost_between_object_and_dictionary() -> None:
    for config in (OuterConfig(), OTHER):
        assert from_dict(OuterConfig, to_dict(config)) == config
        assert from_dict(OuterConfig, yaml.safe_load(yaml.safe_dump(to_dict(config)))) == config
    assert to_dict(OTHER) == {
        "steps": 7,
        "name": "a: b",
        "fast": True,
        "out": "x/y",
        "limit": 3,
        "parts": ["p", "q"],
        "inner": {"rate": 4e-4, "layers": [], "kind": "fancy"},
    }


def test_missing_keys_keep_their_defaults() -> None:
    assert from_dict(OuterConfig, {}) == OuterConfig()
    assert from_dict(OuterConfig, {"inner": {"rate": 2}}) == OuterConfig(inner=InnerConfig(rate=2.0))
    assert isinstance(from_dict(OuterConfig, {"inner": {"rate": 2}}).inner.rate, float)


def test_numbers_as_people_write_them_in_yaml(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    for text, expected in (("4e-4", 4e-4), ("1E-3", 1e-3), ("0.5", 0.5), ("3", 3.0)):
        path.write_text(f"inner:\n  rate: {text}\n")
        assert load_yaml(OuterConfig, path).inner.rate == expected
    path.write_text("")
    assert load_yaml(OuterConfig, path) == OuterConfig()
    path.write_text("limit: null\n")
    assert load_yaml(OuterConfig, path).limit is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"stepz": 3}, r"unknown key 'stepz'; the configuration has: steps, name, fast, out, limit, parts, inner"),
        ({"inner": {"ratte": 3}}, r"unknown key 'inner.ratte'; inner has: rate, layers, kind"),
        ({3: 3}, "unknown key '3'"),
        ({"steps": "many"}, "steps must be a whole number, got 'many'"),
        ({"steps": 1.5}, "steps must be a whole number, got 1.5"),
        ({"steps": True}, "steps must be a whole number, got True"),
        ({"steps": None}, "steps must be a whole number, got None"),
        ({"name": 3}, "name must be text, got 3"),
        ({"fast": 1}, "fast must be true or false, got 1"),
        ({"out": 3}, "out must be a path, got 3"),
        ({"limit": "x"}, "limit must be a whole number, got 'x'"),
        ({"parts": "folder"}, "parts must be a list, got 'folder'"),
        ({"inner": {"rate": "fast"}}, "inner.rate must be a number, got 'fast'"),
        ({"inner": {"rate": True}}, "inner.rate must be a number, got True"),
        ({"inner": {"layers": [1, "two"]}}, r"inner.layers\[1\] must be a whole number, got 'two'"),
        ({"inner": {"kind": "odd"}}, "inner.kind must be one of 'plain', 'fancy', got 'odd'"),
        ({"inner": {"rate": -1.0}}, "inner: rate must be above 0, got -1.0"),
        ({"inner": [1]}, r"inner must be a mapping of keys to values, got \[1\]"),
        ([1], "the configuration must be a mapping"),
    ],
)
def test_what_is_wrong_is_named(values: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        from_dict(OuterConfig, values)
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(ConfigError, match=f"run.yaml: {message}"):
        load_yaml(OuterConfig, path)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no configuration .*missing\.yaml"):
        load_yaml(OuterConfig, tmp_path / "missing.yaml")
    with pytest.raises(ConfigError, match="cannot read"):
        load_yaml(OuterConfig, tmp_path)
    for content, message in ((b"a: [1", "is not YAML"), (b"\xff\xfe\x00", "cannot read|is not YAML")):
        (tmp_path / "bad.yaml").write_bytes(content)
        with pytest.raises(ConfigError, match=f"bad.yaml.*{message}|{message}.*bad.yaml"):
            load_yaml(OuterConfig, tmp_path / "bad.yaml")


# --- the command line ---


@pytest.fixture
def default_yaml(tmp_path: Path) -> Path:
    path = tmp_path / "default.yaml"
    path.write_text("steps: 20\nname: default\ninner: {rate: 0.5}\n")
    return path


def test_flags_beat_yaml_beats_defaults(default_yaml: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("steps: 30\ninner: {layers: [5, 6]}\n")
    assert parse(OuterConfig, default_yaml, []) == OuterConfig(20, "default", inner=InnerConfig(0.5))
    assert parse(OuterConfig, default_yaml, [str(mine)]) == OuterConfig(30, inner=InnerConfig(layers=(5, 6)))
    flags = ["--steps", "40", "--inner.rate", "4e-4", "--inner.kind", "fancy", "--limit", "5", "--fast"]
    flagged = OuterConfig(40, fast=True, limit=5, inner=InnerConfig(4e-4, (5, 6), "fancy"))
    assert parse(OuterConfig, default_yaml, [str(mine), *flags]) == flagged
    assert parse(OuterConfig, default_yaml, ["--steps", "40"]).name == "default"
    assert parse(OuterConfig, default_yaml, ["--parts", "a", "b"]).parts == (Path("a"), Path("b"))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--stepz", "3"], "steps"),
        (["--inner.ratte", "3"], "rate"),
        (["--steps", "many"], "many"),
        (["--inner.kind", "odd"], "plain"),
        (["--inner.rate", "-1"], "rate must be above 0, got -1"),
        (["no-such.yaml"], "there is no configuration no-such.yaml"),
    ],
)
def test_a_wrong_flag_is_explained_and_exits_with_2(default_yaml, capsys, args, message) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(OuterConfig, default_yaml, args)
    assert caught.value.code == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert not captured.out


def test_a_typo_in_a_yaml_file_exits_with_2(default_yaml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    default_yaml.write_text("inner: {ratte: 3}\n")
    with pytest.raises(SystemExit) as caught:
        parse(OuterConfig, default_yaml, [])
    assert caught.value.code == 2
    assert "default.yaml: unknown key 'inner.ratte'; inner has: rate, layers, kind" in capsys.readouterr().err


def test_help_describes_every_value(default_yaml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(OuterConfig, default_yaml, ["--help"], description="Trains a thing.")
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    for text in ("Trains a thing.", "--inner.rate", "a whole number, or nothing", "one of two"):
        assert text in shown


# --- fields that follow from something else ---


def test_fields_that_follow_are_filled_in() -> None:
    filled = fill_in(OuterConfig(name="own", inner=InnerConfig(rate=2.0)), {"steps": 3, "inner.layers": (5,)})
    assert filled == OuterConfig(3, "own", inner=InnerConfig(2.0, (5,)))
    assert fill_in(filled, {"steps": 3, "inner.layers": (5,)}) == filled  # stated, and right


@pytest.mark.parametrize(("name", "value"), [("steps", 3), ("inner.layers", (5,))])
def test_what_would_be_ignored_is_an_error(name: str, value: Any) -> None:
    wrong = OuterConfig(4, inner=InnerConfig(layers=(6,)))
    with pytest.raises(
        ConfigError, match=rf"run\.{name} follows from the data and the model, which give .* leave it out"
    ):
        fill_in(wrong, {name: value}, "run")
