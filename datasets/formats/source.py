"""Which images, classes and further annotations does one split of a data set hold?

For tools that read VOC, COCO and YOLO alike; training reads through `voc.py` and `coco.py`.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from xml.etree.ElementTree import Element

from ..coordinates import Coordinates
from ..image import DEFAULT_RULES, ImageRules
from ..records import RawImage
from .coco import read_coco
from .voc import read_voc
from .voc_xml import parse_annotation
from .yolo import read_names, read_yolo, split_folders

Format = Literal["voc", "coco", "yolo"]

#: What `RawImage` holds of each entry; anything else that is filled in belongs to one format only.
_OBJECT_TAGS = {"name", "bndbox", "difficult"}
_KEYS = {
    "images": {"id", "file_name", "width", "height"},
    "annotations": {"id", "image_id", "category_id", "bbox", "area", "iscrowd"},
    "categories": {"id", "name"},
}


@dataclass(frozen=True)
class Source:
    """Where a split is. ``annotations`` is a COCO JSON; then ``root`` is its folder of images."""

    format: Format
    root: Path
    split: str
    annotations: Path | None = None


@dataclass(frozen=True)
class SourceSplit:
    """One split: its images, whose names are relative to ``folder``, and its classes in order.

    ``extras`` counts what the files say beyond boxes, names and ignored objects, by its name there.
    """

    split: str
    folder: Path
    images: tuple[RawImage, ...]
    classes: tuple[str, ...]
    extras: Counter[str]


def read_split(
    source: Source, *, coordinates: Coordinates = "one_based", rules: ImageRules = DEFAULT_RULES
) -> SourceSplit:
    """Read one split.

    VOC has no class list: its classes are the names that occur, sorted; COCO's are in the order of
    the category ids. Raises `DataError`.
    """
    if source.format == "voc":
        return _voc(source, coordinates, rules)
    if source.format == "coco":
        return _coco(source, rules)
    images = read_yolo(source.root, source.split, rules=rules)
    folder, _ = split_folders(source.root, source.split)
    return SourceSplit(source.split, folder, tuple(images), read_names(source.root), Counter())


def coco_paths(source: Source) -> tuple[Path, Path]:
    """The folder of the images and the JSON, by default those of the published COCO."""
    if source.annotations is not None:
        return source.root, source.annotations
    return source.root / source.split, source.root / f"annotations/instances_{source.split}.json"


def _voc(source: Source, coordinates: Coordinates, rules: ImageRules) -> SourceSplit:
    images = read_voc(source.root, source.split, coordinates=coordinates, rules=rules)
    classes = sorted({obj.name for image in images for obj in image.objects})
    extras = Counter(tag for image in images for tag in _voc_extras(parse_annotation(image.source)))
    folder = source.root / "JPEGImages"
    return SourceSplit(source.split, folder, tuple(images), tuple(classes), extras)


def _voc_extras(tree: Element) -> Iterable[str]:
    if _says_something(tree.find("segmented")):
        yield "<segmented>"
    for obj in tree.findall("object"):
        for element in obj:
            if element.tag not in _OBJECT_TAGS and _says_something(element):
                yield f"<{element.tag}>"


def _says_something(element: Element | None) -> bool:
    """Neither absent nor what labelling tools write by default."""
    if element is None:
        return False
    text = (element.text or "").strip().lower()
    return len(element) > 0 or text not in ("", "0", "unspecified")


def _coco(source: Source, rules: ImageRules) -> SourceSplit:
    folder, path = coco_paths(source)
    images = read_coco(folder, path, rules=rules)
    content = load_json(path)
    categories = content["categories"]
    if all(isinstance(entry["id"], int) for entry in categories):
        categories = sorted(categories, key=lambda entry: int(entry["id"]))
    classes = tuple(str(entry["name"]) for entry in categories)
    return SourceSplit(source.split, folder, tuple(images), classes, Counter(_coco_extras(content)))


def load_json(path: Path) -> dict[str, Any]:
    """The content of a COCO JSON that `read_coco` has accepted."""
    content: dict[str, Any] = json.loads(path.read_bytes().decode("utf-8-sig"))
    return content


def _coco_extras(content: dict[str, Any]) -> Iterable[str]:
    for kind, known in _KEYS.items():
        for entry in content[kind]:
            yield from (key for key, value in entry.items() if value and key not in known)
    for entry in content["annotations"]:
        if _is_mask_area(entry):
            yield "area (of a mask)"


def _is_mask_area(entry: dict[str, Any]) -> bool:
    """Whether the area is there and not the box's; that one can be written anew."""
    try:
        _, _, width, height = map(float, entry.get("bbox") or ())
        area = float(entry.get("area") or 0)
    except (TypeError, ValueError, OverflowError):
        return False  # there is no such box or number, which the reader judges
    return area != 0 and not math.isclose(area, width * height, rel_tol=1e-6)
