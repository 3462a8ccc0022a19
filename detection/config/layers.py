"""The merged content of a config file, its bases and the overrides, with the origin of each value.

Values are plain, unchecked YAML values. Each has an origin, so that an error names file and line
and a relative path is looked up beside its file.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from ... import configs
from ..errors import ConfigError
from .strict_yaml import KeyPath, parse_scalar, parse_yaml, read_yaml

#: Settings of ``train`` that say how long it is: a layer states one of them, in place of any below.
LENGTHS = ("iterations", "epochs")


@dataclass(frozen=True)
class Origin:
    """The source of a value, such as ``file.yaml:12``, and the folders for its relative paths."""

    label: str
    folders: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Layer:
    """Values and their origins by key path; a value without an origin has that of its parent."""

    tree: Any
    origins: Mapping[KeyPath, Origin]

    def origin(self, path: KeyPath) -> Origin:
        while path and path not in self.origins:
            path = path[:-1]
        return self.origins.get(path, Origin("config"))


@dataclass(frozen=True)
class _Item:
    """Replaces one item of a list; a plain list would replace the whole list."""

    index: int
    value: Any


def shipped_configs() -> list[str]:
    """File names of the configs in the package, sorted."""
    return sorted(path.name for path in _shipped_folder().glob("*.yaml"))


def find_config(name: str | Path, *, base_of: Path | None = None) -> Path:
    """A config by path, or by name (``voc_r101`` or ``voc_r101.yaml``) among the shipped ones.

    A relative path starts in the folder of the file ``base_of``, else in the working folder; a file
    with the name of its base is on top of the shipped one. Raises ConfigError with the paths tried
    and the nearest shipped names.
    """
    given = Path(name)
    tried = [base_of.parent / given if base_of else given]
    if given.name == str(given):
        tried.append(_shipped_folder() / (given.name if given.suffix else f"{given.name}.yaml"))
    itself = base_of.resolve() if base_of and len(tried) > 1 else None
    for path in tried:
        if path_exists(path) and not path.is_dir() and path.resolve() != itself:
            return path
    known = [Path(shipped).stem for shipped in shipped_configs()]
    close = difflib.get_close_matches(given.stem, known, n=3)
    near = f"; did you mean {' or '.join(close)}?" if close else ""
    if itself and path_exists(tried[0]):
        near = "; a file is not its own base"
    raise ConfigError(f"config {name!s} not found, tried {', '.join(map(str, tried))}{near}")


def read_layers(path: Path, overrides: Iterable[str] = ()) -> Layer:
    """A file on top of its base, which may have a base itself, and the overrides on top of all;
    later ones win.

    Raises ConfigError: unreadable file, bases in a circle, malformed override.
    """
    *upper, (_, layer) = _read_with_bases(path)
    for _, above in reversed(upper):
        layer = _merged(layer, above)
    return overridden(layer, overrides)


def config_chain(path: Path) -> list[Path]:
    """The file, its base, the base of that, and so on; raises ConfigError as `read_layers`."""
    return [file for file, _ in _read_with_bases(path)]


def overridden(layer: Layer, overrides: Iterable[str]) -> Layer:
    """``layer`` with ``key=value`` overrides; raises ConfigError for a malformed one, and for two
    that exclude each other."""
    stated: dict[str, str] = {}
    for text in overrides:
        upper = _override(layer.tree, text)
        stated |= _lengths(upper)
        _expect_one_length(stated)
        layer = _merged(layer, upper)
    return layer


def path_exists(path: Path) -> bool:
    """Like ``path.exists()``, but False for invalid paths and inaccessible folders."""
    try:
        return path.exists()
    except (OSError, ValueError):  # a name too long, a closed folder, a null byte
        return False


def shown(value: object, limit: int = 60) -> str:
    """A value for a message, on one line: text in quotes, anything else as JSON."""
    text = repr(value) if isinstance(value, str) else json.dumps(value, default=repr)
    return text if len(text) <= limit else f"{text[:limit]}..."


def _shipped_folder() -> Path:
    return Path(str(files(configs)))


def _read_with_bases(path: Path) -> list[tuple[Path, Layer]]:
    """The file and its bases with their content, each on top of the next."""
    layers = [(path, _read(path))]
    while "base" in layers[-1][1].tree:
        file, layer = layers[-1]
        where = layer.origin(("base",)).label
        name = layer.tree.pop("base")
        if not isinstance(name, str):
            raise ConfigError(f"{where}: base: must be the name of a config (got {shown(name)})")
        try:
            base = find_config(name, base_of=file)
            content = _read(base)
        except ConfigError as error:
            raise ConfigError(f"{where}: base: {error}") from error
        files = [each for each, _ in layers]
        if base.resolve() in [each.resolve() for each in files]:
            circle = " -> ".join(map(str, [*files, base]))
            raise ConfigError(f"{where}: base: the bases form a circle: {circle}")
        layers.append((base, content))
    return layers


def _read(path: Path) -> Layer:
    text = read_yaml(path)
    if not isinstance(text.value, dict):
        found = "is empty" if text.value is None else f"holds {shown(text.value)}"
        raise ConfigError(f"{path}: a config is a mapping of sections; this file {found}")
    shipped = path.parent.resolve() == _shipped_folder().resolve()
    folders = (Path.cwd(),) if shipped else (path.parent.absolute(), Path.cwd())
    origins = {key: Origin(f"{path}:{line}", folders) for key, line in text.lines.items()}
    layer = Layer(text.value, origins)
    _expect_one_length(_lengths(layer))
    return layer


def _lengths(layer: Layer) -> dict[str, str]:
    """Which of `LENGTHS` a layer states, and where."""
    train = layer.tree.get("train") if isinstance(layer.tree, dict) else None
    stated = [n for n in LENGTHS if isinstance(train, dict) and train.get(n) is not None]
    return {name: layer.origin(("train", name)).label for name in stated}


def _expect_one_length(stated: Mapping[str, str]) -> None:
    if len(stated) > 1:
        both = " and ".join(f"{stated[n]}: train.{n}" for n in LENGTHS)
        raise ConfigError(f"{both}: each says how long training is; give one of them")


def _override(tree: Any, text: str) -> Layer:
    """``a.b=value`` or ``a.0.b=value`` as a layer for the top of ``tree``."""
    label = f"override {text}"
    name, equals, value_text = (part.strip() for part in text.partition("="))
    steps = name.split(".")
    if not equals or not all(steps):
        raise ConfigError(f"{label}: expected key=value, such as train.lr=0.01")
    if not value_text:
        raise ConfigError(f"{label}: no value after '='; write null for none, '' for empty text")
    value = _override_value(value_text, label)
    path, known = _key_path(tree, steps, label)
    origin = Origin(label, (Path.cwd(),))
    origins = {path[:end]: origin for end in range(known + 1, len(path))}
    origins.update({(*path, *below): origin for below in _paths_in(value)})
    for step in reversed(path):
        value = _Item(step, value) if isinstance(step, int) else {step: value}
    return Layer(value, origins)


def _override_value(text: str, label: str) -> Any:
    """Flow collections and quoted text are YAML; all other text is taken literally."""
    return parse_yaml(text, label).value if text[0] in "[{\"'" else parse_scalar(text, label)


def _key_path(tree: Any, steps: Sequence[str], label: str) -> tuple[KeyPath, int]:
    """The path with integers for list items, and the number of its steps that exist in ``tree``."""
    path: KeyPath = ()
    known = 0
    for step in steps:
        key = _index(tree, step, label) if isinstance(tree, list) else step
        inside = isinstance(tree, list) or (isinstance(tree, dict) and key in tree)
        tree = tree[key] if inside else None
        path = (*path, key)
        known = len(path) if isinstance(tree, dict | list) else known
    return path, known


def _index(items: Sequence[Any], step: str, label: str) -> int:
    names = [str(index) for index in range(len(items))]
    if step not in names:
        raise ConfigError(f"{label}: no item {step!r} in a list of {len(items)}, counted from 0")
    return names.index(step)


def _paths_in(value: Any) -> Iterator[KeyPath]:
    yield ()
    inside = value.items() if isinstance(value, dict) else ()
    for key, item in enumerate(value) if isinstance(value, list) else inside:
        yield from ((key, *path) for path in _paths_in(item))


def _merged(lower: Layer, upper: Layer) -> Layer:
    origins, below = dict(lower.origins), lower.tree
    if _lengths(upper) and isinstance(below.get("train"), dict):
        left = {name: value for name, value in below["train"].items() if name not in LENGTHS}
        below = {**below, "train": left}
    tree = _merge((), below, upper.tree, origins)
    return Layer(tree, {**origins, **upper.origins})


def _same_format(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> bool:
    format_ = lower.get("format")
    return upper.get("format", format_) == format_


def _merge(path: KeyPath, lower: Any, upper: Any, origins: dict[KeyPath, Origin]) -> Any:
    """Mappings merge key by key, unless the upper one is a source of another ``format``; anything
    else replaces, and the origins below it are forgotten."""
    if isinstance(upper, _Item):
        item = _merge((*path, upper.index), lower[upper.index], upper.value, origins)
        return [*lower[: upper.index], item, *lower[upper.index + 1 :]]
    if isinstance(lower, dict) and isinstance(upper, dict) and _same_format(lower, upper):
        both = {
            key: _merge((*path, key), lower[key], upper[key], origins)
            for key in upper
            if key in lower
        }
        return {**lower, **upper, **both}
    for key in [key for key in origins if key[: len(path)] == path]:
        del origins[key]
    return upper
