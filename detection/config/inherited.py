"""Classes and data sources that a config has from its bases, for messages about other data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...datasets.findings import Finding
from ...datasets.formats.format import Source
from .layers import find_config, read_layers

#: Kinds of findings that a class list of other data leads to.
_CLASS_KINDS = frozenset(
    {"unknown_class", "misspelt_class", "absent_class", "class_missing_in_split"}
    | {"class_not_in_train", "other_class"}
)
#: {key of ``data``: the line below it in the config that replaces what the base has, and its
#: effect}.
_UNDONE_BY = {
    "classes": ("classes: null", "takes the classes of the data"),
    "train": ("train: [{format: ..., root: ...}]", "names your own images"),
    "val": ("val: [{format: ..., root: ...}]", "names your own images"),
    "test": ("test: []", "takes none"),
    "source": ("source: {format: ..., root: ...}", "names your own images"),
}


@dataclass(frozen=True)
class Inherited:
    """The setting ``data.<key>`` of a base; ``line`` says where it is stated and what undoes it.
    ``paths`` are those of its sources."""

    key: str
    line: str
    paths: tuple[Path, ...] = ()

    def contradicts(self, finding: Finding) -> bool:
        """Whether the finding may be due to this setting."""
        if self.key == "classes":
            return finding.kind in _CLASS_KINDS
        return finding.severity == "error" and any(map(finding.file.is_relative_to, self.paths))


def inherited_data(config: Any, name: str | Path, overrides: Sequence[str] = ()) -> list[Inherited]:
    """The settings of ``data`` that ``config``, read from the file ``name``, has from its bases.

    Raises ConfigError as `read_config` does.
    """
    path = find_config(name)
    layer = read_layers(path, overrides)
    found = []
    for key, (line, effect) in _UNDONE_BY.items():
        label = layer.origin(("data", key)).label
        stated = layer.tree.get("data", {}).get(key)
        if not stated or label.startswith((f"{path}:", "override ")):
            continue
        text = (
            f"data.{key} is that of {label}, a base of {path}; the line `{line}` below `data:` in "
            f"{path.name} {effect}"
        )
        found.append(Inherited(key, text, _paths(getattr(config.data, key))))
    return found


def contradicted(inherited: Iterable[Inherited], findings: Iterable[Finding]) -> list[str]:
    """The lines of the settings that the findings may be due to, of several the first."""
    settings = list(inherited)
    due = (
        next((each.line for each in settings if each.contradicts(finding)), None)
        for finding in findings
    )
    return list(dict.fromkeys(filter(None, due)))


def with_bases(missing: Sequence[str], inherited: Iterable[Inherited]) -> str:
    """The message about ``missing`` paths (`missing_paths`), and the bases that some come from."""
    lines = [
        each.line
        for each in inherited
        if any(line.startswith(f"data.{each.key}.") for line in missing)
    ]
    return "\n".join([*missing, *lines])


def _paths(value: Any) -> tuple[Path, ...]:
    """The paths of one source, or of several; none of class names."""
    sources = value if isinstance(value, tuple) else (value,)
    fields = (vars(source).values() for source in sources if isinstance(source, Source))
    return tuple(each for values in fields for each in values if isinstance(each, Path))
