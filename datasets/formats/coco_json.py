"""COCO instances JSON: checked reading of its lists, and writing."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...detection.files import read_limited
from ..findings import Fault, Finding
from ..records import RawBox, RawObject
from ..text import utf8_text
from .coco_masks import box_of
from .values import Values, key_of

Entry = dict[str, Any]
#: {list of a file: keys that `RawImage` stores}; other keys are lost in a conversion.
_KEYS = {
    "images": {"id", "file_name", "width", "height"},
    "annotations": {"id", "image_id", "category_id", "bbox", "area", "iscrowd"},
    "categories": {"id", "name"},
}
#: Bytes; a bound for files without end.
_LARGEST_JSON = 16 * 2**30
#: The key of polygons or masks.
_OUTLINE = "segmentation"
_NAN = float("nan")
_NO_BOX: RawBox = (_NAN, _NAN, _NAN, _NAN)


def load_json(
    path: Path, *, annotated: bool = True, outlines: bool = True
) -> dict[str, list[Entry]]:
    """The content of a file that has its three lists; raises `Fault`.

    A file that is not ``annotated`` has no objects, whatever it contains. Without ``outlines``,
    objects that have a box lack their segmentation, which takes most of the memory.
    """
    hook = None if outlines else _without_outline
    try:
        content = json.loads(utf8_text(read_limited(path, _LARGEST_JSON)), object_pairs_hook=hook)
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


def _without_outline(pairs: list[tuple[str, Any]]) -> Entry:
    entry = dict(pairs)
    if entry.get("bbox"):
        entry.pop(_OUTLINE, None)
    return entry


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


def category_names(
    categories: list[Entry], path: Path, findings: list[Finding], values: Values
) -> dict[str, str]:
    """{id: name}; adds errors to ``findings``, like the functions below."""
    names: dict[str, str] = {}
    taken: set[str] = set()  # a file may have very many
    for entry in categories:
        key, name = values.key("id", entry.get("id")), values.text("name", entry.get("name"))
        if key is None or not name:
            reason = f"{entry!r:.80}: needs an id and a name"
            findings.append(Finding("bad_category", "error", path, reason))
        elif key in names:
            reason = f"the id is used by {names[key]!r} and {name!r}"
            findings.append(_error("category_id_twice", path, f"category {key}", reason))
        elif name in taken:
            reason = f"the name {name!r} has several ids"
            findings.append(_error("category_name_twice", path, f"category {key}", reason))
        else:
            names[key] = name
            taken.add(name)
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
    used = any(
        key_of(entry.get("category_id")) == key_of(first.get("id"))
        for entry in content["annotations"]
    )
    return "" if used else name


def images_by_id(
    images: list[Entry], path: Path, findings: list[Finding], values: Values
) -> dict[str, Entry]:
    """{id: entry}."""
    entries: dict[str, Entry] = {}
    for entry in images:
        key = values.key("id", entry.get("id"))
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
    values: Values,
) -> dict[str, list[RawObject]]:
    """{image id: its objects}. An object without ``bbox`` has the box of its polygons or mask; one
    note counts them. ``annotations`` is empty afterwards: both would take much memory."""
    derived: list[str] = []
    objects: dict[str, list[RawObject]] = {image_id: [] for image_id in paths}
    annotations.reverse()
    for number in range(1, len(annotations) + 1):
        entry = annotations.pop()
        image = values.key("image_id", entry.get("image_id"))
        category = values.key("category_id", entry.get("category_id"))
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
            crowd = values.flag("iscrowd", entry.get("iscrowd"))
            box, from_mask = _box(entry, values)
        except ValueError as error:
            findings.append(_error("malformed_object", source, where, str(error), path))
            continue
        derived += [where] * from_mask
        area = _area(entry.get("area"), values)
        if area is not None and not 0 <= area < 1e15:
            reason = f"area is {entry['area']!r:.40}, expected a number of square pixels"
            findings.append(
                Finding("bad_area", "warning", source, f"{reason}: the box's is used", where, path)
            )
            area = None
        objects[image].append(RawObject(names[category], box, crowd, where, area))
    if derived:
        reason = f"{len(derived)} objects without `bbox`: the boxes of their polygons or masks"
        findings.append(Finding("box_from_mask", "note", source, reason, derived[0]))
    return objects


def _error(kind: str, file: Path, where: str, reason: str, image: Path | None = None) -> Finding:
    return Finding(kind, "error", file, reason, where, image)


# ---------------------------------------------------------------------------------- one entry


def _area(value: object, values: Values) -> float | None:
    """NaN for what is no number, such as text of another kind."""
    try:
        return values.number("area", value)
    except ValueError:
        return _NAN


def _box(entry: Entry, values: Values) -> tuple[RawBox, bool]:
    """(x, y, w, h) to (x1, y1, x2, y2); and whether it is that of the mask, as there is no bbox."""
    bbox = entry.get("bbox")
    if bbox is None or bbox == []:
        box = box_of(entry.get(_OUTLINE))
        return (_NO_BOX, False) if box is None else (box, True)
    if not isinstance(bbox, list) or len(bbox) != 4:
        raise ValueError(f"bbox is {bbox!r:.60}, expected [x, y, width, height]")
    sides = [values.number("bbox", side) for side in bbox]
    x, y, width, height = (_NAN if side is None else side for side in sides)
    return (x, y, x + width, y + height), False


def file_name(entry: Entry, source: Path, where: str) -> str:
    """The name in an entry of ``images``; raises `Fault`."""
    name = entry.get("file_name")
    if not isinstance(name, str) or not name:
        raise Fault.of("bad_image", source, "has no file_name", object=where)
    return name


def claimed_size(
    entry: Entry, source: Path, where: str, values: Values
) -> tuple[float, float] | None:
    """(h, w), None where the JSON has none, or 0; raises `Fault`."""
    try:
        return values.size(entry.get("height"), entry.get("width"))
    except ValueError as error:
        raise Fault.of("bad_image", source, str(error), object=where) from None


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
