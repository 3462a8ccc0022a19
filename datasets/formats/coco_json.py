"""COCO instances JSON: checked reading of its lists, and writing."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..findings import Fault, Finding
from ..records import RawBox, RawObject

Entry = dict[str, Any]
#: {list of a file: keys that `RawImage` stores}; other keys are lost in a conversion.
_KEYS = {
    "images": {"id", "file_name", "width", "height"},
    "annotations": {"id", "image_id", "category_id", "bbox", "area", "iscrowd"},
    "categories": {"id", "name"},
}
_NAN = float("nan")
_NO_BOX: RawBox = (_NAN, _NAN, _NAN, _NAN)


def load_json(path: Path, *, annotated: bool = True) -> dict[str, list[Entry]]:
    """The content of a file that has its three lists; raises `Fault`.

    A file that is not ``annotated`` has no objects, whatever it contains.
    """
    try:
        content = json.loads(path.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError as error:
        raise Fault.of("missing_file", path, "no such file") from error
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        raise Fault.of("malformed_json", path, error.msg, object=where) from error
    except (OSError, ValueError, RecursionError) as error:
        raise Fault.of("malformed_json", path, f"cannot be read ({error})") from error
    if not isinstance(content, dict):
        reason = f"a {type(content).__name__}, expected an object with `images`"
        raise Fault.of("malformed_json", path, reason)
    if not annotated:
        content["annotations"] = []
    for key in _KEYS:
        entries = content.get(key)
        if not isinstance(entries, list) or not all(isinstance(each, dict) for each in entries):
            advice = "; a list of images to test on is read with annotated: false"
            reason = f"`{key}` is missing or not a list of objects"
            unlabelled = key == "annotations" and key not in content
            raise Fault.of("missing_key", path, reason + advice * unlabelled)
    return content


def pycocotools_notes(annotations: list[Entry], path: Path) -> list[Finding]:
    """Notes on content that misleads pycocotools, but not this toolkit."""
    ids = Counter(str(entry.get("id")) for entry in annotations if "id" in entry)
    repeated = [key for key, count in ids.items() if count > 1]
    without = sum("iscrowd" not in entry for entry in annotations)
    found = []
    if ids["0"]:
        reason = "pycocotools would count its detection as wrong; ids are not used here"
        found.append(Finding("annotation_id_zero", "note", path, reason, "annotation 0"))
    if repeated:
        reason = f"{len(repeated)} annotation ids are used twice: they are not used here"
        where = f"annotation {repeated[0]}"
        found.append(Finding("annotation_id_twice", "note", path, reason, where))
    if without:
        reason = f"{without} annotations without `iscrowd`: taken as 0"
        found.append(Finding("missing_iscrowd", "note", path, reason))
    return found


def category_names(categories: list[Entry], path: Path, findings: list[Finding]) -> dict[str, str]:
    """{id: name}; adds errors to ``findings``, like the functions below."""
    names: dict[str, str] = {}
    for entry in categories:
        key, name = _key(entry, "id"), entry.get("name")
        if key is None or not isinstance(name, str) or not name:
            reason = f"{entry!r:.80}: needs an id and a name"
            findings.append(Finding("bad_category", "error", path, reason))
        elif key in names:
            reason = f"the id is used by {names[key]!r} and {name!r}"
            findings.append(_error("category_id_twice", path, f"category {key}", reason))
        elif name in names.values():
            reason = f"the name {name!r} has several ids"
            findings.append(_error("category_name_twice", path, f"category {key}", reason))
        else:
            names[key] = name
    return names


def group_category(content: dict[str, list[Entry]]) -> str:
    """The category that labelling services add for the project; "" if there is none.

    It has no annotations, and is the supercategory of every other category.
    """
    first, *others = content["categories"] or [{}]
    name = str(first.get("name"))
    same = {str(entry.get("supercategory")) for entry in others} == {name}
    if not others or not same:
        return ""
    used = any(_key(entry, "category_id") == _key(first, "id") for entry in content["annotations"])
    return "" if used else name


def images_by_id(images: list[Entry], path: Path, findings: list[Finding]) -> dict[str, Entry]:
    """{id: entry}."""
    entries: dict[str, Entry] = {}
    for entry in images:
        key = _key(entry, "id")
        if key is None:
            reason = f"{entry!r:.80}: needs an id"
            findings.append(Finding("bad_image", "error", path, reason))
        elif key in entries:
            reason = f"the id is used twice: {entries[key].get('file_name')!r:.80} and this"
            findings.append(_error("image_id_twice", path, f"image {key}", reason))
        else:
            entries[key] = entry
    return entries


def listed_twice(paths: dict[str, Path], source: Path) -> list[Finding]:
    """Images of ``paths`` {id: file} with two ids."""
    first: dict[Path, str] = {}
    found = []
    for key, path in paths.items():
        other = first.setdefault(path, key)
        if other != key:
            reason = f"{path.name} is image {other} as well, and counts twice"
            found.append(Finding("listed_twice", "warning", source, reason, f"image {key}", path))
    return found


def objects_by_image(
    annotations: list[Entry],
    paths: dict[str, Path],
    names: dict[str, str],
    source: Path,
    findings: list[Finding],
) -> dict[str, list[RawObject]]:
    """{image id: its objects}."""
    objects: dict[str, list[RawObject]] = {image_id: [] for image_id in paths}
    for number, entry in enumerate(annotations, 1):
        image, category = _key(entry, "image_id"), _key(entry, "category_id")
        where = f"annotation {entry.get('id', f'number {number}')}"
        if image is None or image not in objects:
            reason = f"image_id {image} is not in `images`"
            findings.append(_error("unknown_image", source, where, reason))
            continue
        path = paths[image]
        if category is None or category not in names:
            reason = f"category_id {category} is not in `categories`"
            findings.append(_error("unknown_category", source, where, reason, path))
            continue
        try:
            crowd = _is_crowd(entry.get("iscrowd"))
            box = _box(entry.get("bbox"))
        except ValueError as error:
            findings.append(_error("malformed_object", source, where, str(error), path))
            continue
        area = entry.get("area")
        if area is not None and not _is_area(area):
            reason = f"area is {area!r:.40}, expected a number of square pixels: the box's is used"
            findings.append(Finding("bad_area", "warning", source, reason, where, path))
            area = None
        area = None if area is None else float(area)
        objects[image].append(RawObject(names[category], box, crowd, where, area))
    return objects


def _error(kind: str, file: Path, where: str, reason: str, image: Path | None = None) -> Finding:
    return Finding(kind, "error", file, reason, where, image)


# ---------------------------------------------------------------------------------- one entry


def _key(entry: Entry, field: str) -> str | None:
    """An id as text, so that 7 equals "7"; None for null, "" and other types."""
    value = entry.get(field)
    is_id = isinstance(value, int | str) and not isinstance(value, bool)
    return (str(value) or None) if is_id else None


def _is_crowd(value: object) -> bool:
    if value not in (None, 0, 1):
        raise ValueError(f"iscrowd is {value!r:.40}, expected 0 or 1")
    return value == 1


def _is_area(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return 0 <= value < 1e15


def _box(bbox: object) -> RawBox:
    """(x, y, w, h) to (x1, y1, x2, y2)."""
    if bbox is None or bbox == []:
        return _NO_BOX
    if not isinstance(bbox, list) or len(bbox) != 4:
        raise ValueError(f"bbox is {bbox!r:.60}, expected [x, y, width, height]")
    try:
        x, y, width, height = (_NAN if side is None else float(side) for side in bbox)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"bbox is {bbox!r:.60}, expected four numbers") from None
    return x, y, x + width, y + height


def file_name(entry: Entry, source: Path, where: str) -> str:
    """The name in an entry of ``images``; raises `Fault`."""
    name = entry.get("file_name")
    if not isinstance(name, str) or not name:
        raise Fault.of("bad_image", source, "has no file_name", object=where)
    return name


def claimed_size(entry: Entry, source: Path, where: str) -> tuple[float, float] | None:
    """(h, w), None where the JSON has none."""
    height, width = entry.get("height"), entry.get("width")
    if height is None or width is None:
        return None
    if not (_is_count(height) and _is_count(width)):
        reason = f"height {height!r:.40} and width {width!r:.40} are not pixel counts"
        raise Fault.of("bad_image", source, reason, object=where)
    return float(height), float(width)


def _is_count(value: object) -> bool:
    """A positive whole number that a float holds; some tools write 640.0."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return 0 < value < 2**53 and value % 1 == 0


# ---------------------------------------------------------------------------------- extras


def extra_keys(content: dict[str, list[Entry]]) -> Iterator[str]:
    """Names of content beyond sizes, names, boxes and crowds."""
    for kind, known in _KEYS.items():
        for entry in content[kind]:
            yield from (key for key, value in entry.items() if value and key not in known)
    for entry in content["annotations"]:
        if _is_mask_area(entry):
            yield "area (of a mask)"


def _is_mask_area(entry: Entry) -> bool:
    """Whether there is an area that differs from the box's."""
    try:
        _, _, width, height = map(float, entry.get("bbox") or ())
        area = float(entry.get("area") or 0)
    except (TypeError, ValueError, OverflowError):
        return False  # not a box or number, which the reader reports
    return area != 0 and not math.isclose(area, width * height, rel_tol=1e-6)
