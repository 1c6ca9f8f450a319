"""Conversion between frozen dataclasses, YAML files and command lines; independent of any model.

Precedence, in increasing order: defaults of the dataclass, the YAML file, flags (`--fit.steps 100`).
"""

from __future__ import annotations

import dataclasses
import functools
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

T = TypeVar("T")


class ConfigError(ValueError):
    """An invalid configuration; the message names the key, the value and the allowed values."""


def from_dict(cls: type[T], values: Any, where: str = "") -> T:
    """A nested dictionary, as read from YAML or JSON -> an instance of the dataclass `cls`.

    Missing keys take their defaults. The members of a union of dataclasses are distinguished by their field
    `kind: Literal["name"]`; the first is the default. Raises ConfigError for unknown keys and kinds (the message lists
    the known ones), values of the wrong type, and values rejected by the dataclass.
    """
    place = where or "the configuration"
    if not isinstance(values, dict):
        raise ConfigError(f"{place} must be a mapping of keys to values, got {values!r}")
    hints = get_type_hints(cls)
    known = [f.name for f in dataclasses.fields(cls)]  # pyright: ignore[reportArgumentType]
    unknown = [key for key in values if key not in known]
    if unknown:
        raise ConfigError(f"unknown key {_join(where, unknown[0])!r}; {place} has: {', '.join(known)}")
    arguments = {key: _convert(hints[key], value, _join(where, key)) for key, value in values.items()}
    try:
        return cls(**arguments)
    except ConfigError:
        raise
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{place}: {error}") from error


def load_yaml(cls: type[T], path: str | Path, args: Sequence[str] = ()) -> T:
    """A YAML file -> an instance of `cls`. Raises ConfigError with the file name for a missing or invalid file.

    args: flags; where they name another kind for a union (`--model.quantizer.kind fsq`), the instance is of that kind.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"there is no configuration {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    try:
        values = yaml.safe_load(text)
    except RecursionError as error:
        raise ConfigError(f"{path} is nested too deeply for a configuration") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that does not exist, a number of 5000 digits
        raise ConfigError(f"{path} is not YAML: {error}") from error
    try:
        return from_dict(cls, _with_kinds_of_flags(cls, {} if values is None else values, args))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def fill_in(config: T, values: dict[str, Any], where: str = "") -> T:
    """`config` with fields, by dotted names, that follow from something else, such as from a trained model.

    Raises ConfigError where one has been set to another value, which would be ignored; defaults are replaced.
    """
    default = type(config)()
    for name, value in values.items():
        *parents, last = name.split(".")
        owner, usual = (functools.reduce(getattr, parents, each) for each in (config, default))
        given = getattr(owner, last)
        if given not in (value, getattr(usual, last), getattr(type(owner)(), last)):
            raise ConfigError(
                f"{_join(where, name)} follows from the data and the model, which give {value!r}, but it is set to "
                f"{given!r}; leave it out"
            )
        config = _replaced(config, [*parents, last], value)
    return config


def _replaced(config: T, path: Sequence[str], value: Any) -> T:
    """`config` with the field at the end of a path of names replaced."""
    head, *rest = path
    new = _replaced(getattr(config, head), rest, value) if rest else value
    return dataclasses.replace(config, **{head: new})  # pyright: ignore[reportArgumentType]


def to_dict(config: Any) -> dict[str, Any]:
    """A dataclass instance -> nested dictionaries and lists of YAML and JSON types."""
    return _plain(dataclasses.asdict(config))


def flatten(values: dict[str, Any], where: str = "") -> dict[str, Any]:
    """Nested dictionary -> flat dictionary with the names of flags: {"fit": {"lr": 1}} -> {"fit.lr": 1}."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, _join(where, key)) if isinstance(value, dict) else {_join(where, key): value}
    return flat


def save_yaml(config: Any, path: str | Path) -> None:
    """Write the complete configuration, including defaults."""
    Path(path).write_text(yaml.safe_dump(to_dict(config), sort_keys=False), encoding="utf-8")


def parse(cls: type[T], default_yaml: str | Path, args: Sequence[str] | None = None, description: str = "") -> T:
    """Command line `[FILE.yaml] [--flags]` -> an instance of `cls`; without a file, `default_yaml` is used.

    Prints an error and exits with status 2 for an invalid file or flag.
    """
    import tyro

    args = list(sys.argv[1:] if args is None else args)
    path = args.pop(0) if args and not args[0].startswith("-") else default_yaml
    try:
        default = load_yaml(cls, path, args)
        # a union is of the kind that the file or a flag names, and no subcommand
        config = (tyro.conf.AvoidSubcommands,)
        return tyro.cli(cls, default=default, args=args, description=description or None, config=config)
    except ValueError as error:  # a ConfigError, or a value of a flag that is rejected by a dataclass
        print(f"error: {error}", file=sys.stderr)
    raise SystemExit(2)


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else str(key)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _convert(kind: Any, value: Any, where: str) -> Any:
    """Convert one value to its annotated type, without lossy conversions."""
    origin, choices = get_origin(kind), get_args(kind)
    if dataclasses.is_dataclass(kind):
        return from_dict(kind, value, where)  # pyright: ignore[reportArgumentType]
    if origin in (Union, types.UnionType):
        if value is None and type(None) in choices:
            return None
        given = [choice for choice in choices if choice is not type(None)]
        return _convert(_chosen(given, value, where) if len(given) > 1 else given[0], value, where)
    if origin is Literal:
        if isinstance(value, bool) and str(value).lower() in choices:
            value = str(value).lower()  # the word true or false, of which YAML makes a truth value
        if value not in choices:
            raise ConfigError(f"{where} must be one of {', '.join(map(repr, choices))}, got {value!r}")
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{where} must be a list, got {value!r}")
        return tuple(_convert(choices[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    return _convert_scalar(kind, value, where)


def _chosen(choices: list[Any], value: Any, where: str) -> Any:
    """Of dataclasses distinguished by their field `kind`, the one that a mapping selects; the first by default."""
    kinds = {_kind(choice): choice for choice in choices}
    kind = value.get("kind", next(iter(kinds))) if isinstance(value, dict) else next(iter(kinds))
    if kind not in list(kinds):
        raise ConfigError(f"{_join(where, 'kind')} must be one of {', '.join(map(repr, kinds))}, got {kind!r}")
    return kinds[kind]


def _kind(choice: Any) -> str:
    """ "vq" of a dataclass with the field `kind: Literal["vq"]`."""
    (kind,) = get_args(get_type_hints(choice)["kind"])
    return kind


def _with_kinds_of_flags(cls: Any, values: Any, args: Sequence[str], where: str = "") -> Any:
    """`values` of a file, changed to the kinds that flags select for unions of dataclasses.

    Values of the previous kind are kept if the new kind has the same key. Raises ConfigError for an unknown kind.
    """
    values = dict(values) if isinstance(values, dict) else values
    for name, hint in get_type_hints(cls).items():
        choices = [choice for choice in get_args(hint) if dataclasses.is_dataclass(choice)]
        own = values.get(name, {}) if isinstance(values, dict) else None
        if not isinstance(own, dict):
            continue  # rejected later, with an explanation
        if dataclasses.is_dataclass(hint):
            nested = _with_kinds_of_flags(hint, own, args, _join(where, name))
        elif len(choices) > 1 and (kind := _flag(_join(_join(where, name), "kind"), args)) is not None:
            chosen = _chosen(choices, {"kind": kind}, _join(where, name))
            before = _chosen(choices, own, _join(where, name))
            known = {each.name for each in dataclasses.fields(chosen)}
            nested = own if chosen is before else {key: own[key] for key in own if key in known} | {"kind": kind}
        else:
            continue
        if nested:
            values[name] = nested
    return values


def _flag(name: str, args: Sequence[str]) -> str | None:
    """The value of the last flag --NAME VALUE or --NAME=VALUE, with - for _ as well."""
    found = None
    for i, arg in enumerate(args):
        flag, equals, value = arg.partition("=")
        if flag.startswith("--") and flag[2:].replace("-", "_") == name.replace("-", "_"):
            found = value if equals else args[i + 1] if i + 1 < len(args) else None
    return found


def _convert_scalar(kind: Any, value: Any, where: str) -> Any:
    if kind is float and isinstance(value, str):  # YAML parses 4e-4 as a string
        try:
            return float(value)
        except ValueError:
            pass
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise ConfigError(f"{where} must be a number below 1e308, got one of {len(str(value))} digits") from None
    if kind is Path and isinstance(value, str):
        return Path(value)
    if kind in (int, float, str, bool) and type(value) is kind:
        return value
    raise ConfigError(f"{where} must be {_NAMES.get(kind, kind)}, got {value!r}")


_NAMES = {int: "a whole number", float: "a number", str: "text", bool: "true or false", Path: "a path"}
