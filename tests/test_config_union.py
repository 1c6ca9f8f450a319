"""Configurations of which one of several kinds is chosen, by their field `kind`."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import pytest

from vqaudio.config import ConfigError, from_dict, load_yaml, parse, save_yaml, to_dict


@dataclass(frozen=True)
class RoundConfig:
    kind: Literal["round"] = "round"
    """the first kind"""
    dim: int = 3
    """a number of both kinds"""
    radius: float = 1.0
    """a number of this kind"""


@dataclass(frozen=True)
class SquareConfig:
    kind: Literal["square"] = "square"
    """the second kind"""
    dim: int = 4
    """a number of both kinds"""
    sides: tuple[int, ...] = (1, 2)
    """numbers of this kind"""


@dataclass(frozen=True)
class PartConfig:
    shape: RoundConfig | SquareConfig = field(default_factory=RoundConfig)
    """one of two kinds"""
    width: int = 3
    """must be the shape's"""

    def __post_init__(self) -> None:
        if self.shape.dim != self.width:
            raise ValueError(f"shape.dim ({self.shape.dim}) must be width ({self.width})")


@dataclass(frozen=True)
class WholeConfig:
    part: PartConfig = field(default_factory=PartConfig)
    steps: int = 1
    """a number"""


@pytest.fixture
def default_yaml(tmp_path: Path) -> Path:
    path = tmp_path / "default.yaml"
    path.write_text("part: {width: 5, shape: {dim: 5, radius: 2}}\n")
    return path


def _square(dim: int, sides: tuple[int, ...]) -> WholeConfig:
    return WholeConfig(PartConfig(SquareConfig(dim=dim, sides=sides), dim))


def test_a_kind_chooses_and_without_one_it_is_the_first(tmp_path: Path) -> None:
    assert from_dict(PartConfig, {"shape": {"radius": 2}}) == PartConfig(RoundConfig(radius=2.0))
    assert from_dict(PartConfig, {"shape": {"kind": "round"}}) == PartConfig()
    values = {"part": {"width": 4, "shape": {"kind": "square", "sides": [7]}}}
    assert from_dict(WholeConfig, values) == _square(4, (7,))
    save_yaml(_square(4, (7,)), tmp_path / "run.yaml")
    assert load_yaml(WholeConfig, tmp_path / "run.yaml") == _square(4, (7,))
    assert to_dict(PartConfig())["shape"]["kind"] == "round"


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"kind": "flat"}, "part.shape.kind must be one of 'round', 'square', got 'flat'"),
        ({"kind": ["square"]}, r"part.shape.kind must be one of 'round', 'square', got \['square'\]"),
        ({"kind": "square", "radius": 1}, "unknown key 'part.shape.radius'; part.shape has: kind, dim, sides"),
        ({"sides": [1]}, "unknown key 'part.shape.sides'; part.shape has: kind, dim, radius"),
        ([1], r"part.shape must be a mapping of keys to values, got \[1\]"),
        (None, "part.shape must be a mapping of keys to values, got None"),
    ],
)
def test_what_is_wrong_is_named(shape: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        from_dict(WholeConfig, {"part": {"shape": shape}})


def test_flags_change_the_kind_that_the_file_has(default_yaml: Path) -> None:
    expected = WholeConfig(PartConfig(RoundConfig(dim=5, radius=0.5), 5), 3)
    assert parse(WholeConfig, default_yaml, ["--part.shape.radius", "0.5", "--steps", "3"]) == expected


@pytest.mark.parametrize("flag", [["--part.shape.kind", "square"], ["--part.shape.kind=square"]])
def test_a_flag_chooses_another_kind_and_keeps_common_keys(default_yaml: Path, flag: list[str]) -> None:
    assert parse(WholeConfig, default_yaml, flag) == _square(5, (1, 2))
    assert parse(WholeConfig, default_yaml, ["--part.shape.sides", "8", "9", *flag]) == _square(5, (8, 9))


def test_a_flag_that_names_the_same_kind_changes_nothing(default_yaml: Path) -> None:
    expected = WholeConfig(PartConfig(RoundConfig(dim=5, radius=2.0), 5))
    assert parse(WholeConfig, default_yaml, ["--part.shape.kind", "round"]) == expected
    assert replace(expected, steps=2) == parse(WholeConfig, default_yaml, ["--part.shape.kind", "round", "--steps=2"])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--part.shape.kind", "flat"], "must be one of 'round', 'square', got 'flat'"),
        (["--part.shape.kind", "square", "--part.shape.radius", "1"], "--part.shape.radius"),
        (["--part.shape.sides", "1"], "--part.shape.sides"),
        (["--part.shape.kind"], "--part.shape.kind"),
    ],
)
def test_wrong_flags_are_named(default_yaml: Path, flags: list[str], message: str, capsys) -> None:
    with pytest.raises(SystemExit) as exit_status:
        parse(WholeConfig, default_yaml, flags)
    assert exit_status.value.code == 2
    assert message in capsys.readouterr().err
