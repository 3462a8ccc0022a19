"""Configurations from YAML files with bases and overrides, checked against a schema.

A config is one YAML file, optionally on top of another (``base: other.yaml``, beside it or
shipped), which may be on top of a further one, with overrides ``train.lr=0.01`` from the command
line on top of all. Mappings are merged, except data sources of different formats; lists and scalars
are replaced. Everything is checked against a schema, that of detectors (`detector.py`) unless
another is asked for; an error names file, line, key and, for an unknown key, the nearest one.

Relative paths. ``data.root``, the weights to start from and, without a ``data.root``, the paths of
the data sources are looked up in the folder of the file that states them, then in the working
folder; the first that exists is taken. With ``data.root`` the sources lie under it. Paths from an
override or a shipped config are looked up in the working folder only: the package contains no
data. A path that does not exist becomes the first one tried; `missing_paths` lists it.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
    path_exists,
    read_layers,
    shipped_configs,
    shown,
)
from .strict_yaml import KeyPath, to_yaml

__all__ = [
    "PRETRAINED",
    "START",
    "check_dict",
    "config_from_dict",
    "dump_config",
    "find_config",
    "load_config",
    "missing_paths",
    "opened_paths",
    "override",
    "read_config",
    "shipped_configs",
    "stated_task",
]

AnyConfig = TypeVar("AnyConfig", bound=Section)

#: {path that does not exist: all paths tried}: a config has one path per field.
_tried: dict[Path, tuple[Path, ...]] = {}

#: Keys of the weights that a new training starts from, and nothing else needs.
PRETRAINED = ("backbone.weights", "network.weights")
START = (*PRETRAINED, "train.start_from")
#: (section, key) of the settings that name one or several weights files.
_WEIGHTS = (
    ("backbone", "weights"),
    ("network", "weights"),
    ("train", "start_from"),
    ("proposals", "weights"),
    ("proposals", "file"),
    ("test", "classifiers"),
)


def load_config(name: str | Path, overrides: Sequence[str] = ()) -> DetectorConfig:
    """`read_config` for a detector."""
    return read_config(DetectorConfig, name, overrides)


def read_config(
    schema: type[AnyConfig], name: str | Path, overrides: Sequence[str] = ()
) -> AnyConfig:
    """Find, read, merge, check, and make paths absolute; raises ConfigError, one line per error."""
    layer = read_layers(find_config(name), overrides)
    _validate(layer, schema)
    return _validate(_with_absolute_paths(layer), schema)


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
    """``config`` with ``key=value`` overrides, checked as a whole; raises ConfigError.

    Its paths are absolute; a new ``data.root`` replaces the old one in the paths below it.
    """
    tree = config.model_dump(mode="json")
    root = tree["data"]["root"]
    if root is not None and any(text.startswith("data.root") for text in overrides):
        _make_relative(tree["data"], Path(root))
    layer = Layer(tree, {(): Origin(label, (Path(),))})
    return _validate(_with_absolute_paths(overridden(layer, overrides)), type(config))


def _make_relative(data: dict[str, Any], root: Path) -> None:
    for _, source in _sources(data):
        for key in _path_keys(source):
            if Path(source[key]).is_relative_to(root):
                source[key] = str(Path(source[key]).relative_to(root))


def dump_config(config: Section) -> str:
    """YAML with every field, which `load_config` reads back to an equal config."""
    return to_yaml(config.model_dump(mode="json"))


def missing_paths(
    config: Section, *, parts: Sequence[str] = ("train", "val"), unused: Sequence[str] = ()
) -> list[str]:
    """One message for each data source or weights file that does not exist, with the paths tried.

    The message of a data source recommends ``data.root``. Empty if nothing is missing. Only
    ``parts`` of the data are needed, and no weights with a key in ``unused``.
    """
    other = tuple(f"data.{part}" for part in ("train", "val", "test") if part not in parts)
    missing = []
    for key, path in _paths(config.model_dump(mode="json")):
        if key.startswith(other) or key in unused:
            continue
        if not path_exists(path):
            tried = ", ".join(str(place) for place in _tried.get(path, (path,)))
            advice = "; set data.root=DIR" * key.startswith("data.")
            advice += ", or data.val=[] for none" * key.startswith("data.val.")
            missing.append(f"{key}: not found, tried {tried}{advice}")
    return missing


def opened_paths(config: Section) -> dict[str, Path]:
    """Key and path of what evaluation, prediction and resuming open: data and other networks, not
    the weights that training started from."""
    paths = _paths(config.model_dump(mode="json"))
    return {key: path for key, path in paths if key not in START}


# -- validation --------------------------------------------------------------------------------


def _validate(layer: Layer, schema: type[AnyConfig]) -> AnyConfig:
    try:
        # Strict JSON mode takes a list for a tuple and a string for a Path, but never a string for
        # a number; strict Python mode would refuse the former too.
        return schema.model_validate_json(json.dumps(layer.tree))
    except ValidationError as error:
        lines = [_message(problem, layer, schema) for problem in error.errors()]
        raise ConfigError("\n".join(lines)) from error
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"{layer.origin(()).label}: not a config: {error}") from error


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
    names = sorted(_section(location[:-1], tree, schema).model_fields)
    close = difflib.get_close_matches(str(location[-1]), names, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known here: {', '.join(names)}"


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


# -- paths -------------------------------------------------------------------------------------


def _with_absolute_paths(layer: Layer) -> Layer:
    """Absolute data paths, in a copy of an already valid tree."""
    tree = json.loads(json.dumps(layer.tree))
    data = tree.get("data", {})
    roots: tuple[Path, ...] = ()
    if data.get("root") is not None:
        places = _places(data["root"], layer.origin(("data", "root")).folders)
        # A root that exists holds all data; if none does, each place is named as tried.
        roots = tuple(place for place in places if path_exists(place))[:1] or places
        data["root"] = str(roots[0])
    for where, source in _sources(data):
        for key in _path_keys(source):
            folders = roots or layer.origin(("data", *where, key)).folders
            source[key] = _first(_places(source[key], folders))
    for section, key, weights in _weights(tree):
        folders = layer.origin((section, key)).folders
        found = [_first(_places(one, folders)) if _is_path(one) else one for one in weights]
        tree[section][key] = found if isinstance(tree[section][key], list) else found[0]
    return Layer(tree, layer.origins)


def _weights(config: Mapping[str, Any]) -> Iterator[tuple[str, str, list[str]]]:
    """Section, key and values wherever weights are named."""
    for section, key in _WEIGHTS:
        value = config.get(section, {}).get(key)
        if value:
            yield section, key, value if isinstance(value, list) else [value]


def _sources(data: Mapping[str, Any]) -> Iterator[tuple[KeyPath, dict[str, Any]]]:
    """The sources of ``data``, by their keys in it: detectors have lists of them, classifiers have
    one source."""
    for split in ("train", "val", "test"):
        sources = enumerate(data.get(split) or ())  # of {fraction: …} the keys, which are no dicts
        yield from (((split, index), each) for index, each in sources if isinstance(each, dict))
    if data.get("source") is not None:
        yield ("source",), data["source"]


def _path_keys(source: Mapping[str, Any]) -> list[str]:
    fields = FORMATS[source["format"]].source.model_fields
    paths = [key for key, field in fields.items() if field.annotation in (Path, Path | None)]
    return [key for key in paths if source.get(key) is not None]


def _places(path: str, folders: Iterable[Path]) -> tuple[Path, ...]:
    """The candidates for a path in ``folders``, without repeats; an absolute path has one."""
    given = Path.home() / path[2:] if path.startswith("~/") else Path(path)
    return tuple(dict.fromkeys(folder / given for folder in folders))


def _first(places: tuple[Path, ...]) -> str:
    """The first place that exists; if none does, the first place, recorded in `_tried`."""
    found = next((place for place in places if path_exists(place)), None)
    if found is None:
        _tried[places[0]] = places
    return str(found or places[0])


def _paths(config: Mapping[str, Any]) -> Iterator[tuple[str, Path]]:
    """Key and path of all data and weights of a config as a dict."""
    for where, source in _sources(config["data"]):
        for key in _path_keys(source):
            yield ".".join(map(str, ("data", *where, key))), Path(source[key])
    for section, key, weights in _weights(config):
        places = [(f"{section}.{key}", Path(one)) for one in weights if _is_path(one)]
        for number, (name, path) in enumerate(places):
            yield name if len(places) == 1 else f"{name}.{number}", path


def _is_path(weights: str) -> bool:
    return not weights.startswith("torchvision:") and "://" not in weights
