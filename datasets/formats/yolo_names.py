"""Class names and splits in the YAML and text files of a YOLO folder."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ...detection.errors import first_few
from ..findings import Fault, Finding
from ..listing import files_in, is_hidden
from .yolo_text import malformed, read_text

#: Usual names of the file, before any other YAML file that has ``names``.
_YAML_FILES = ("data.yaml", "data.yml", "dataset.yaml")
#: Texts with one name a line, in the root or among images and labels.
_TEXT_FILES = ("classes.txt", "obj.names", "*.names", "_darknet.labels")
_TEXT_FOLDERS = ("", "labels", "images", "train", "obj", "obj_train_data")


def read_names(
    root: Path, given: Sequence[str] | None = None
) -> tuple[dict[int, str], list[Finding]]:
    """{number: class name}, by number, and a note if they are those ``given`` for a folder without
    a file of names; raises `Fault`."""
    for path in _yaml_files(root):
        content = _content(path)
        if path.name in _YAML_FILES or "names" in content:
            return _checked(_numbered(content, path), path), []
    for path in _text_files(root):
        return _checked(dict(enumerate(_lines(read_text(path)))), path), []
    if given:
        numbers = first_few([f"{number} is {name!r}" for number, name in enumerate(given)])
        reason = f"no file of class names: the classes are numbered as given, {numbers}"
        names = _checked(dict(enumerate(given)), root)
        return names, [Finding("given_names", "note", root, reason)]
    reason = (
        f"no class names: expected a YAML file with `names`, or one of {', '.join(_TEXT_FILES)}; "
        "--classes A,B or data.classes gives those of the numbers 0, 1, ..."
    )
    raise Fault.of("missing_file", root, reason)


def stated_splits(root: Path) -> dict[str, str]:
    """{split: path} of the images of each split, as the YAML file says; {} without one."""
    try:
        content = next((found for path in _yaml_files(root) if (found := _content(path))), {})
    except Fault:
        return {}  # reported by `read_names`
    paths = {key: content.get(key) for key in ("train", "val", "test")}
    single = {
        key: path[0] if isinstance(path, list) and len(path) == 1 else path
        for key, path in paths.items()
    }
    return {key: path for key, path in single.items() if isinstance(path, str) and path}


def _yaml_files(root: Path) -> list[Path]:
    usual = [root / name for name in _YAML_FILES if (root / name).is_file()]
    return usual or files_in(root, ".yaml", ".yml")


def _text_files(root: Path) -> Iterator[Path]:
    for folder in _TEXT_FOLDERS:
        for name in _TEXT_FILES:
            found = sorted((root / folder).glob(name))
            yield from (path for path in found if not is_hidden(path.name))


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.rstrip().split("\n")]


def _checked(names: dict[int, str], path: Path) -> dict[int, str]:
    nameless = [number for number, name in names.items() if not name]
    if nameless:
        raise malformed(path, f"class {nameless[0]} has no name")
    twice = [name for name, count in Counter(names.values()).items() if count > 1]
    if twice:
        raise malformed(path, f"class {twice[0]!r} stands twice")
    return dict(sorted(names.items()))


def _content(path: Path) -> Mapping[str, Any]:
    """The mapping in a YAML file, {} for other content; raises `Fault`.

    Names are taken as they are written, not as YAML 1.1 reads them: there ``no`` is false and
    ``010`` is eight. The loader makes texts, lists and mappings only, and copies no alias.
    """
    try:
        content = yaml.BaseLoader(read_text(path)).get_single_data()
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise malformed(path, f"not readable as YAML ({' '.join(str(error).split())})") from error
    return content if isinstance(content, dict) else {}


def _numbered(content: Mapping[str, Any], path: Path) -> dict[int, str]:
    """``names`` as a list, or by numbers, which need not begin with 0; ``nc``, if there, counts
    them."""
    names = content.get("names")
    if isinstance(names, list):
        names = {str(index): name for index, name in enumerate(names)}
    if (
        not isinstance(names, dict)
        or not all(isinstance(name, str) for name in names.values())
        or not all(key.isascii() and key.isdigit() and len(key) < 10 for key in names)
    ):
        raise malformed(path, "`names` is missing, or neither a list nor numbered names")
    count = content.get("nc")
    if isinstance(count, str) and count != str(len(names)):
        raise malformed(path, f"nc is {count!r:.40}, but there are {len(names)} names")
    return {int(key): name for key, name in names.items()}


def format_names(splits: Sequence[str], classes: Sequence[str]) -> str:
    """The ``data.yaml``, without ``path``: that would be relative to the reader's data folder."""
    # JSON strings are valid YAML; quoted, no reader takes a name for a number or a boolean.
    folders = [f"{split}: {json.dumps(f'images/{split}')}" for split in splits]
    names = [f"  {i}: {json.dumps(name, ensure_ascii=False)}" for i, name in enumerate(classes)]
    return "\n".join([*folders, "names:" if names else "names: {}", *names]) + "\n"
