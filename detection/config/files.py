"""Configurations from YAML files with bases and overrides, checked against a schema.

A config is one YAML file, optionally on top of another (``base: other.yaml``, beside it or
shipped), which may be on top of a further one, with overrides ``train.lr=0.01`` from the command
line on top of all. Mappings are merged, except data sources of different formats; lists and scalars
are replaced. Everything is checked against a schema, that of detectors (`detector.py`) unless
another is asked for; an error names file, line, key and, for an unknown key, the nearest one. Paths
are made absolute (`paths.py`).
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from ...datasets.formats import FORMATS
from ...datasets.formats.format import Source
from ..errors import ConfigError
from .base import KINDS, Section
from .detector import DetectorConfig
from .layers import (
    Layer,
    Origin,
    find_config,
    overridden,
    read_layers,
    shipped_configs,
    shown,
)
from .paths import make_relative, with_absolute_paths
from .strict_yaml import KeyPath, to_yaml
from .written import refusals

__all__ = [
    "check_dict",
    "config_from_dict",
    "dump_config",
    "find_config",
    "load_config",
    "override",
    "read_config",
    "read_stored",
    "shipped_configs",
    "stated_task",
]

AnyConfig = TypeVar("AnyConfig", bound=Section)
#: More keys than these are no suggestion.
_MOST_NEAR = 3


def load_config(name: str | Path, overrides: Sequence[str] = ()) -> DetectorConfig:
    """`read_config` for a detector."""
    return read_config(DetectorConfig, name, overrides)


def read_config(
    schema: type[AnyConfig], name: str | Path, overrides: Sequence[str] = ()
) -> AnyConfig:
    """Find, read, merge, check, and make paths absolute; raises ConfigError, one line per error."""
    layer = read_layers(find_config(name), overrides)
    config = _with_paths(layer, schema)
    _expect_rules_kept(config, layer)
    return config


def read_stored(schema: type[AnyConfig], path: Path) -> AnyConfig:
    """`read_config` of the ``config.yaml`` of a run, without the rules of `written.py`."""
    return _with_paths(read_layers(path), schema)


def stated_task(name: str | Path) -> str:
    """The ``task`` of a config, by default ``detection``; raises ConfigError."""
    return str(read_layers(find_config(name)).tree.get("task", "detection"))


def config_from_dict(values: object, label: str = "stored config") -> DetectorConfig:
    """`check_dict` for a detector."""
    return check_dict(DetectorConfig, values, label)


def check_dict(schema: type[AnyConfig], values: object, label: str) -> AnyConfig:
    """Check the dict that ``config.model_dump(mode="json")`` made, such as a checkpoint's.

    Paths stay as they are. ``label`` stands for the file in the messages of ConfigError.
    """
    return _validate(Layer(values, {(): Origin(label)}), schema)


def override(
    config: AnyConfig, overrides: Sequence[str], label: str = "stored config"
) -> AnyConfig:
    """``config`` with ``key=value`` overrides, checked as a whole; raises ConfigError. The rules of
    `written.py` are those of the overrides alone.

    Its paths are absolute; a new ``data.root`` replaces the old one in the paths below it.
    """
    tree = config.model_dump(mode="json")
    root = tree["data"]["root"]
    if root is not None and any(text.startswith("data.root") for text in overrides):
        make_relative(tree["data"], Path(root))
    layer = overridden(Layer(tree, {(): Origin(label, (Path(),))}), overrides)
    changed = _validate(with_absolute_paths(layer), type(config))
    _expect_rules_kept(changed, layer, stored=label)
    return changed


def dump_config(config: Section) -> str:
    """YAML with every field, which `load_config` reads back to an equal config. Of ``iterations``
    and ``epochs`` it has the one that is in use: iterations follow from epochs and the data."""
    tree = config.model_dump(mode="json")
    train = tree.get("train", {})
    train.pop("epochs" if train.get("epochs") is None else "iterations", None)
    return to_yaml(tree)


# -- validation --------------------------------------------------------------------------------


def _with_paths(layer: Layer, schema: type[AnyConfig]) -> AnyConfig:
    _validate(layer, schema)  # paths are looked for in a sound config
    return _validate(with_absolute_paths(layer), schema)


def _validate(layer: Layer, schema: type[AnyConfig]) -> AnyConfig:
    try:
        # Strict JSON mode takes a list for a tuple and a string for a Path, but never a string for
        # a number; strict Python mode would refuse the former too.
        return schema.model_validate_json(json.dumps(layer.tree))
    except ValidationError as error:
        lines = [_message(problem, layer, schema) for problem in _causes(error.errors())]
        raise ConfigError("\n".join(lines)) from error
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"{layer.origin(()).label}: not a config: {error}") from error


def _expect_rules_kept(config: Section, layer: Layer, stored: str | None = None) -> None:
    """Raise ConfigError for `refusals`, except of values that all have the origin ``stored``."""
    lines = []
    for keys, reason in refusals(config):
        labels = [layer.origin(key).label for key in keys]
        written = [label for label in labels if label != stored]
        if written:
            lines.append(f"{written[0]}: {'.'.join(map(str, keys[0]))}: {reason}")
    if lines:
        raise ConfigError("\n".join(lines))


def _causes(problems: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """All but those of lists that are too short because an item of theirs is wrong."""
    places = [problem["loc"] for problem in problems]
    return [
        problem
        for problem, place in zip(problems, places, strict=True)
        if problem["type"] != "too_short"
        or not any(other[: len(place)] == place != other for other in places)
    ]


def _message(problem: Mapping[str, Any], layer: Layer, schema: type[Section]) -> str:
    path: KeyPath = tuple(step for step in problem["loc"] if step not in KINDS)
    key = f"{'.'.join(map(str, path))}: " if path else ""
    return f"{layer.origin(path).label}: {key}{_reason(problem, path, layer.tree, schema)}"


def _reason(problem: Mapping[str, Any], location: KeyPath, tree: Any, schema: type[Section]) -> str:
    kind, text = problem["type"], str(problem["msg"]).replace("Input should be", "must be")
    if location == ("task",):
        return f"this config is for {shown(problem['input'])}; see resdet --help for its command"
    if kind == "extra_forbidden":
        return f"unknown key{_nearest(location, tree, schema)}"
    if kind == "missing":
        if location[-1] != "split":
            return "is required"
        kinds = get_args(_section(location[:-1], tree, schema).model_fields["split"].annotation)
        return "is required" + "; `split: null` takes all images" * (type(None) in kinds)
    if kind == "value_error":
        return text.removeprefix("Value error, ")
    return f"{text[:1].lower()}{text[1:]} (got {shown(problem['input'])})"


def _nearest(location: KeyPath, tree: Any, schema: type[Section]) -> str:
    """A key of the section that is written nearly so; else one of the same name in another section,
    or those below that have a word of it; else the keys of the section."""
    section, key = _section(location[:-1], tree, schema), str(location[-1])
    names = sorted(section.model_fields)
    near = difflib.get_close_matches(key, names, n=1)
    near = near or [name for name in _keys(schema) if name.rpartition(".")[2] == key]
    words = set(key.split("_"))
    near = near or [
        name
        for name in _keys(section, "".join(f"{step}." for step in location[:-1]))
        if words & set(name.rpartition(".")[2].split("_"))
    ]
    if near and len(near) <= _MOST_NEAR:
        return f"; did you mean {' or '.join(map(repr, near))}?"
    return f"; known here: {', '.join(names)}"


def _keys(schema: type[BaseModel], above: str = "") -> Iterator[str]:
    """The keys of a section and of those below it, with dots; the items of lists have none."""
    for name, field in schema.model_fields.items():
        yield above + name
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _keys(field.annotation, f"{above}{name}.")


def _section(location: KeyPath, tree: Any, schema: type[BaseModel]) -> type[BaseModel]:
    """The schema class at a location; for a data source, that of its format."""
    for step in location:
        tree = tree[step]
        if step in schema.model_fields:
            found = _models_in(schema.model_fields[str(step)].annotation)
            schema = min(found, key=lambda kind: issubclass(kind, Source) != isinstance(tree, list))
        if issubclass(schema, Source) and isinstance(tree, dict):
            schema = FORMATS[tree["format"]].source
    return schema


def _models_in(annotation: object) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]
