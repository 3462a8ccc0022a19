"""Where the COCO files of a data folder and their images are.

COCO as published has ``annotations/instances_<split>.json`` with the images in ``<split>``. Tools
export ``<split>/_annotations.coco.json``, ``annotations/train.json``, ``instances_default.json`` or
``result.json`` with the images in ``images``, beside the file, or in the folder above.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path, PurePath

from ...detection.files import expect_regular
from ..findings import Fault
from ..listing import is_image_name, split_order, walk_folders
from . import coco_json
from .image_names import ImageFiles

#: Bytes at the beginning of a file in which the keys of COCO are looked for.
_PROBED_BYTES = 2**16
_KEY = re.compile(rb'"(images|annotations|categories)"\s*:\s*\[')
#: Files that are looked into, and names that are looked up, to find annotations and images.
_PROBED_FILES, _PROBED_NAMES = 50, 50
#: The part of a file name that is not the name of a split.
_AFFIX = re.compile(
    r"^(instances|annotations?|labels|coco)[_.-]|[_.-]?(instances|annotations?|labels|coco)$",
    re.IGNORECASE,
)
#: Other files of COCO's own annotation archives.
_OTHER_TASKS = re.compile(r"^(captions|person_keypoints|image_info|panoptic|stuff)_")


def annotation_files(root: Path) -> dict[str, Path]:
    """{split: file} of the COCO files below ``root``, training first.

    A split has the name that is in the file's name (``instances_train.json``), else the file's
    folder (``train/_annotations.coco.json``), else the whole name of the file.
    """
    found: dict[str, Path] = {}
    for path in islice(_candidates(root), _PROBED_FILES):
        if _is_coco(path):
            split = _split_name(path, root)
            found[split if split not in found else path.relative_to(root).as_posix()] = path
    return {split: found[split] for split in sorted(found, key=split_order)}


def _candidates(root: Path) -> Iterator[Path]:
    """JSON files that do not annotate one image of the same name, and are not of other tasks."""
    for folder, names in walk_folders(root):
        files = [name for name in names if name.lower().endswith(".json")]
        stems = {PurePath(name).stem for name in names if is_image_name(name)} if files else ()
        for path in (Path(folder, name) for name in files):
            if path.stem not in stems and not _OTHER_TASKS.match(path.name):
                yield path


def _is_coco(path: Path) -> bool:
    """Whether the file has a name of the published layouts, or begins as COCO files do."""
    if path.name.startswith("instances_") or path.name == "_annotations.coco.json":
        return True
    try:
        expect_regular(path)
        with path.open("rb") as file:
            start = file.read(_PROBED_BYTES)
    except OSError:
        return False
    keys = set(_KEY.findall(start))
    whole = len(start) < _PROBED_BYTES
    return start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{") and (
        {b"images", b"annotations"} <= keys if whole else bool(keys)
    )


def _split_name(path: Path, root: Path) -> str:
    name = path.name.removesuffix(path.suffix).strip("_").removesuffix(".coco")
    for _ in range(2):
        name = _AFFIX.sub("", name)
    if name:
        return name
    return path.parent.name if path.parent != root else path.stem.strip("_.")


def image_folder(annotations: Path, root: Path, split: str) -> Path:
    """The folder below ``root`` that the ``file_name`` entries of a file are relative to: the one
    with most of the first names, else ``root``, below which they are searched for."""
    if annotations.name == f"instances_{split}.json" and (root / split).is_dir():
        return root / split  # as published: the file, of up to 500 MB, need not be read
    beside = annotations.parent
    places = [
        *(folder / part for folder in (root, root / "images") for part in (split,)),
        *(beside, root / "images", beside.parent / "images" / split, beside.parent / "images"),
        *(beside.parent, root),
    ]
    try:
        entries = coco_json.load_json(annotations)["images"][:_PROBED_NAMES]
    except Fault:
        return root
    names = [str(entry.get("file_name")) for entry in entries]

    def there(place: Path) -> int:
        return sum((place / name).is_file() for name in names) if place.is_dir() else -1

    inside = [place for place in dict.fromkeys(places) if place.is_relative_to(root)]
    best = max(inside, key=there)
    if there(best) > 0:
        return best
    return min(
        (place for place in inside if place.is_dir()), key=lambda place: _missing(place, names)
    )


def _missing(folder: Path, names: list[str]) -> int:
    """How many of the names cannot be resolved below the folder."""
    files, missing = ImageFiles(folder), 0
    for name in names:
        try:
            files.find(name, folder)
        except Fault:
            missing += 1
    return missing


def recognise(root: Path) -> str:
    """Why the folder is taken for COCO, "" if it is not."""
    first = next((path for path in _candidates(root) if _is_coco(path)), None)
    return f"{first.relative_to(root)} is a COCO file" if first else ""
