"""A strict YAML 1.2 reader that records the line of every value, and a writer.

PyYAML reads YAML 1.1, where ``no`` is false, ``1e-3`` a string, ``007`` seven, ``12:30`` 750, and
the last of repeated keys wins. Here a repeated key, a tag, a non-finite number or an alias bomb is
an error with its line. The node graph is read directly, since PyYAML's constructors do not know
the path of a value, stop at the first problem and do not count aliased values.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ...datasets.text import NotUtf8, utf8_text
from ..errors import ConfigError
from ..files import read_limited

#: The keys and list indices that lead to a value.
KeyPath = tuple[str | int, ...]

MAX_BYTES = 1_000_000
MAX_DEPTH = 50
#: Values after aliases are expanded; nine nested ten-fold aliases would be a billion.
MAX_VALUES = 100_000

_TAG = "tag:yaml.org,2002:"
_PLAIN_SCALARS = (
    (_TAG + "null", re.compile(r"(?:~|null|Null|NULL|)\Z")),
    (_TAG + "bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z")),
    (_TAG + "int", re.compile(r"[-+]?(?:0|[1-9][0-9]*)\Z")),
    (
        _TAG + "float",
        re.compile(
            r"(?:[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
            r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z"
        ),
    ),
)


@dataclass(frozen=True)
class YamlText:
    """The plain value of a document, and the line (from 1) of every key and list item."""

    value: Any
    lines: Mapping[KeyPath, int]


class _Composer(yaml.SafeLoader):
    """Text to nodes, with YAML 1.2 scalars, bounded depth and no tags. Constructs no objects."""

    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012 - PyYAML's name for a class table
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        tag = getattr(event, "tag", None)
        if tag is not None:
            raise yaml.MarkedYAMLError(
                problem=f"tags are not allowed ({tag})", problem_mark=event.start_mark
            )
        if self.depth >= MAX_DEPTH:
            raise yaml.MarkedYAMLError(problem=_TOO_DEEP, problem_mark=event.start_mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _Dumper(yaml.SafeDumper):
    """Quotes exactly the strings that ``_Composer`` would not read as strings."""

    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012 - PyYAML's name for a class table

    def ignore_aliases(self, data: object) -> bool:
        return True


def _list_node(dumper: _Dumper, data: list[Any]) -> yaml.Node:
    """A list of scalars on one line, a list of mappings on several."""
    flow = not any(isinstance(item, dict | list) for item in data)
    return dumper.represent_sequence(_TAG + "seq", data, flow_style=flow)


def _text_node(dumper: _Dumper, data: str) -> yaml.Node:
    """Double quotes escape what is not printable; PyYAML's own choice turns U+0085 into a space."""
    style = None if data.isprintable() else '"'
    return dumper.represent_scalar(_TAG + "str", data, style=style)


for _tag, _pattern in _PLAIN_SCALARS:
    _Composer.add_implicit_resolver(_tag, _pattern, None)
    _Dumper.add_implicit_resolver(_tag, _pattern, None)
_Dumper.add_representer(list, _list_node)
_Dumper.add_representer(str, _text_node)

_TOO_DEEP = f"nested deeper than {MAX_DEPTH} levels"


def read_yaml(path: Path) -> YamlText:
    """The document in a file; raises ConfigError with a line for each problem."""
    try:
        data = read_limited(path, MAX_BYTES)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    return parse_yaml(data, str(path))


def _not_utf8(data: bytes | str) -> str:
    try:
        utf8_text(data if isinstance(data, bytes) else b"")
    except NotUtf8 as error:
        return str(error)
    return ""


def parse_yaml(data: bytes | str, name: str) -> YamlText:
    """The document in a text; messages begin with ``name``."""
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{name}: larger than {MAX_BYTES} bytes, not a config")
    try:
        node = _Composer(data).get_single_node()
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{name}{line}: {error.problem or error.context}") from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        # The last two: PyYAML calls chr() and int() on unchecked escapes and directives.
        reason = _not_utf8(data) or " ".join(str(error).split())
        raise ConfigError(f"{name}: not readable as YAML: {reason}") from error
    if node is None:
        return YamlText(None, {})
    reader = _NodeReader(name)
    value = reader.read(node, (), node.start_mark.line + 1)
    if reader.problems:
        raise ConfigError("\n".join(reader.problems))
    return YamlText(value, reader.lines)


def parse_scalar(text: str, name: str) -> str | int | float | bool | None:
    """One plain scalar, read literally: comments, quotes and indicators have no meaning."""
    tags = (tag for tag, pattern in _PLAIN_SCALARS if pattern.match(text))
    try:
        return _scalar(next(tags, _TAG + "str"), text)
    except ValueError as error:
        raise ConfigError(f"{name}: {error}") from error


def to_yaml(value: object) -> str:
    """YAML text that `parse_yaml` reads back to an equal value (of plain, finite values)."""
    text = yaml.dump(
        value,
        Dumper=_Dumper,
        sort_keys=False,
        default_flow_style=False,
        allow_unicode=True,
        width=100,
    )
    return str(text)


class _NodeReader:
    """Converts nodes to plain values and collects their lines and all problems."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.lines: dict[KeyPath, int] = {}
        self.problems: list[str] = []

    def read(self, node: yaml.Node, path: KeyPath, line: int) -> Any:
        self.lines[path] = line
        if len(self.lines) > MAX_VALUES:
            raise ConfigError(f"{self.name}:{line}: more than {MAX_VALUES} values")
        if len(path) > MAX_DEPTH:  # an anchor that contains its own alias
            raise ConfigError(f"{self.name}:{line}: {_TOO_DEEP}")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [
                self.read(item, (*path, index), item.start_mark.line + 1)
                for index, item in enumerate(node.value)
            ]
        return self._scalar(node, line)

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        result: dict[str, Any] = {}
        first_lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            key = self._key(key_node, line)
            if key is None:
                continue
            if key in result:
                self._problem(line, f"key {key!r} is already given in line {first_lines[key]}")
                continue
            first_lines[key] = line
            result[key] = self.read(value_node, (*path, key), line)
        return result

    def _key(self, node: yaml.Node, line: int) -> str | None:
        key = self._scalar(node, line) if isinstance(node, yaml.ScalarNode) else None
        if isinstance(key, str):
            return key
        self._problem(line, "a key must be a name; quote it if it is one")
        return None

    def _scalar(self, node: yaml.Node, line: int) -> Any:
        try:
            return _scalar(node.tag, node.value)
        except ValueError as error:
            self._problem(line, str(error))
            return None

    def _problem(self, line: int, reason: str) -> None:
        self.problems.append(f"{self.name}:{line}: {reason}")


def _scalar(tag: str, text: str) -> str | int | float | bool | None:
    kind = tag.removeprefix(_TAG)
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    if kind == "int":
        if len(text) > 300:  # floats end at 308 digits, Python's int() at 4300
            raise ValueError(f"a number of {len(text)} digits is too large")
        return int(text)
    if kind == "float":
        return _finite(text)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{json.dumps(text)} is not valid Unicode text") from error
    return text


def _finite(text: str) -> float:
    # Python writes .inf and .nan without the point.
    number = float(re.sub(r"\.(?=[iInN])", "", text))
    if not math.isfinite(number):
        raise ValueError(f"{text} is not a finite number")
    return number
