"""The paths of data and weights in a config.

``data.root``, the weights to start from and, without a ``data.root``, the paths of the data sources
are looked up in the folder of the file that states them, then in the working folder; the first that
exists is taken. With ``data.root`` the sources lie under it. Paths from an override or a shipped
config are looked up in the working folder only: the package contains no data. A path that does not
exist becomes the first one tried; `missing_paths` lists it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...datasets.formats import FORMATS
from .base import Section, flat
from .layers import Layer, path_exists
from .strict_yaml import KeyPath

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
    """Key and path, or address, of what evaluation, prediction and resuming open: data and other
    networks, not the weights that training started from."""
    tree = config.model_dump(mode="json")
    paths = {key: path for key, path in _paths(tree) if key not in START}
    urls = {where: source["url"] for where, source in _sources(tree["data"]) if source.get("url")}
    return paths | {".".join(map(str, ("data", *at, "url"))): Path(url) for at, url in urls.items()}


def settings_but_paths(config: Section) -> dict[str, Any]:
    """The settings by key (`flat`), without those that are paths of data or weights."""
    tree = config.model_dump(mode="json")
    paths = ["data.root", *(key for key, _ in _paths(tree))]
    return {
        key: value
        for key, value in flat(tree).items()
        if not any(path == key or path.startswith(f"{key}.") for path in paths)
    }


def make_relative(data: dict[str, Any], root: Path) -> None:
    """Remove ``root`` from the paths of the data sources below it."""
    for _, source in _sources(data):
        for key in _path_keys(source):
            if Path(source[key]).is_relative_to(root):
                source[key] = str(Path(source[key]).relative_to(root))


def without_paths(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config as a dict without data sources and weights, whose paths are those of one machine."""
    tree: dict[str, Any] = json.loads(json.dumps(config))
    data = tree["data"]
    data |= {name: [] for name in ("train", "val", "test") if isinstance(data.get(name), list)}
    data |= {name: None for name in ("root", "source") if name in data}
    for section, key, _ in _weights(tree):
        tree[section][key] = [] if isinstance(tree[section][key], list) else None
    return tree


def with_absolute_paths(layer: Layer) -> Layer:
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
