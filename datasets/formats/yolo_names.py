"""The class names of a YOLO folder: ``data.yaml`` or ``classes.txt``, read and written."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import yaml

from ..findings import Fault

NAMES_FILES = ("data.yaml", "data.yml", "dataset.yaml", "classes.txt")
#: An image with 20 000 objects, or 30 000 class names.
_LARGEST_FILE = 2**20


def read_text(path: Path) -> str:
    """Of names or labels; raises `Fault`."""
    try:
        if path.stat().st_size > _LARGEST_FILE:
            reason = f"larger than {_LARGEST_FILE // 2**20} MB, not of this format"
            raise _malformed(path, reason)
        return path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise _malformed(path, f"cannot be read ({error})") from error


def _malformed(path: Path, reason: str) -> Fault:
    return Fault.of("malformed_file", path, reason)


def read_names(root: Path) -> tuple[str, ...]:
    """Class names in the order of their numbers; raises `Fault`."""
    for path in (root / name for name in NAMES_FILES):
        if path.is_file():
            text = read_text(path)
            names = _lines(text) if path.suffix == ".txt" else _yaml_names(text, path)
            return _checked(names, path)
    reason = f"no class names: expected one of {', '.join(NAMES_FILES)}"
    raise Fault.of("missing_file", root, reason)


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.rstrip().split("\n")]


def _checked(names: list[str], path: Path) -> tuple[str, ...]:
    if "" in names:
        raise _malformed(path, f"class {names.index('')} has no name")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise _malformed(path, f"class {twice[0]!r} stands twice")
    return tuple(names)


def _yaml_names(text: str, path: Path) -> list[str]:
    """``names`` as a list, or by number, and ``nc`` if there.

    Names are taken as they are written, not as YAML 1.1 reads them: there ``no`` is false and
    ``010`` is eight. Nothing is constructed, so that aliases cannot grow and tags do nothing.
    """
    try:
        top = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise _malformed(path, f"not readable as YAML ({reason})") from error
    entries = _mapping(top)
    names = _scalars(entries.get("names"))
    if names is None:
        raise _malformed(path, "`names` is missing, or neither a list nor numbered names")
    count = entries.get("nc")
    if isinstance(count, yaml.ScalarNode) and count.value != str(len(names)):
        raise _malformed(path, f"nc is {count.value!r:.40}, but there are {len(names)} names")
    return names


def _mapping(node: yaml.Node | None) -> dict[str, yaml.Node]:
    if not isinstance(node, yaml.MappingNode):
        return {}
    return {key.value: value for key, value in node.value if isinstance(key, yaml.ScalarNode)}


def _scalars(node: yaml.Node | None) -> list[str] | None:
    """The texts of a list, or of a mapping whose keys are 0, 1, 2 and so on in any order."""
    if isinstance(node, yaml.SequenceNode):
        items: list[yaml.Node | None] = list(node.value)
    elif isinstance(node, yaml.MappingNode):
        numbered = _mapping(node)
        items = [numbered.get(str(number)) for number in range(len(node.value))]
    else:
        return None
    texts = [item.value for item in items if isinstance(item, yaml.ScalarNode)]
    return texts if len(texts) == len(items) else None


def format_names(splits: Sequence[str], classes: Sequence[str]) -> str:
    """The ``data.yaml``, without ``path``: that would be relative to the reader's data folder."""
    # JSON's quotes are YAML's, and keep every reader from taking a name for a number or a truth.
    folders = [f"{split}: {json.dumps(f'images/{split}')}" for split in splits]
    names = [f"  {i}: {json.dumps(name, ensure_ascii=False)}" for i, name in enumerate(classes)]
    return "\n".join([*folders, "names:" if names else "names: {}", *names]) + "\n"
