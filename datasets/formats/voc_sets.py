"""The image sets of a VOC folder, and its images and annotations by stem."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

from ..findings import Fault
from ..image import IMAGE_SUFFIXES

#: Lines of the devkit's image sets of one class end with -1, 0 or 1 (presence) ...
_PRESENCE = re.compile(r"^(.*\S)\s+(-1|0|1)$")
#: ... and those of one action have the number of a person before it.
_PERSON = re.compile(r"^(.*\S)\s+\d+$")


def image_sets(root: Path) -> list[str]:
    """Names of all image sets of the folder, sorted."""
    return sorted(path.stem for path in (root / "ImageSets" / "Main").glob("*.txt"))


def disjoint_sets(root: Path) -> list[str]:
    """The image sets that together contain every image once.

    Left out are sets of one class (``dog_train`` beside ``train``) and unions of smaller ones
    (``trainval``); ``train`` comes first.
    """
    names = image_sets(root)
    names = [name for name in names if name.rpartition("_")[2] not in names or "_" not in name]
    images = images_by_stem(root / "JPEGImages")
    members: dict[str, set[str]] = {}
    for name in names:
        try:
            members[name] = set(listed_ids(root, name, images))
        except Fault:  # stays, and is reported when it is read
            members[name] = {f"unreadable {name}"}

    def is_union(name: str) -> bool:
        smaller = [ids for ids in members.values() if len(ids) < len(members[name])]
        return members[name] <= set().union(*smaller)

    parts = [name for name in names if not is_union(name)]
    return sorted(parts, key=lambda name: (not name.startswith("train"), name))


def set_path(root: Path, split: str) -> Path:
    return root / "ImageSets" / "Main" / f"{split}.txt"


def listed_ids(root: Path, split: str, images: dict[str, list[Path]]) -> list[str]:
    """The ids of an image set."""
    path = set_path(root, split)
    if not path.is_file():
        there = ", ".join(image_sets(root)) or "none"
        raise Fault.of("missing_image_set", path, f"no such image set; there are: {there}")
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise Fault.of("unreadable_image_set", path, f"cannot be read ({error})") from error
    lines = [line.strip() for line in lines if line.strip()]
    if not lines:
        raise Fault.of("empty_image_set", path, "lists no images")
    return [_image_id(line, images) for line in lines]


def _image_id(line: str, images: dict[str, list[Path]]) -> str:
    """The line without the columns of a class's or an action's image set."""
    flagged = _PRESENCE.match(line)
    if line in images or not flagged:
        return line
    name = flagged.group(1)
    person = _PERSON.match(name)
    return person.group(1) if person and name not in images else name


def images_by_stem(folder: Path) -> dict[str, list[Path]]:
    """Images by stem; other files (`.json`, `.txt`) only if there is no image of the stem."""
    if not folder.is_dir():
        raise Fault.of("missing_folder", folder, "no such folder")
    found: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.iterdir()):
        found[path.stem].append(path)
    for stem, paths in found.items():
        found[stem] = [path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES] or paths
    return dict(found)


def annotations_by_stem(root: Path) -> dict[str, Path]:
    return {path.stem: path for path in (root / "Annotations").glob("*.xml")}
