"""What does a COCO instances JSON say about its images?"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..coordinates import question_coordinates
from ..findings import Fault, Finding, refuse
from ..image import DEFAULT_RULES, IMAGE_SUFFIXES, ImageRules, is_file
from ..records import RawBox, RawImage, RawObject, first_few
from .claimed_size import checked_size

_Entry = dict[str, Any]
_KEYS = ("images", "annotations", "categories")
_NAN = float("nan")
_NO_BOX: RawBox = (_NAN, _NAN, _NAN, _NAN)


def read_coco(
    images: Path, annotations: Path, *, rules: ImageRules = DEFAULT_RULES
) -> list[RawImage]:
    """As `inspect_coco`, but raises `DataError` listing the errors found."""
    found, findings = inspect_coco(images, annotations, rules=rules)
    refuse(findings, str(annotations))
    return found


def inspect_coco(
    images: Path, annotations: Path, *, rules: ImageRules = DEFAULT_RULES
) -> tuple[list[RawImage], list[Finding]]:
    """The usable images of a COCO JSON, in its order, and everything that is wrong with it.

    ``images`` is the folder of the file names. Images without objects are included. Crowds become
    ``ignore``; a missing ``iscrowd`` is 0; annotation ids only name objects in messages. A box of
    null or [] becomes non-finite, for the catalog to judge. Sizes come from the images' headers
    and are compared with the JSON's.
    """
    try:
        content = _load(annotations)
    except Fault as fault:
        return [], [fault.finding]
    findings = _notes(content["annotations"], annotations)
    names = _category_names(content["categories"], annotations, findings)
    entries = _images_by_id(content["images"], annotations, findings)
    paths = {key: images / str(entry.get("file_name")) for key, entry in entries.items()}
    findings += _listed_twice(paths, annotations)
    objects = _objects_by_image(content["annotations"], paths, names, annotations, findings)
    found = []
    for image_id, entry in entries.items():
        where = f"image {image_id}"
        try:
            path = _image(images, entry, annotations, where)
            claimed = _claimed_size(entry, annotations, where)
            size = checked_size(path, claimed, annotations, rules, object=where)
        except Fault as fault:
            findings.append(fault.finding)
            continue
        found.append(RawImage(image_id, path, size, tuple(objects[image_id]), annotations))
    return found, findings + question_coordinates(found, "zero_based")


def compare_categories(paths: Sequence[Path]) -> list[Finding]:
    """Ids that mean different classes in several files: labels are taken by name, but results and
    weights made with such ids are permuted. Unreadable files are left to `inspect_coco`."""
    first: dict[str, tuple[str, Path]] = {}
    findings = []
    for path in dict.fromkeys(paths):
        try:
            names = _category_names(_load(path)["categories"], path, [])
        except Fault:
            continue
        for key, name in names.items():
            other, file = first.setdefault(key, (name, path))
            if other != name:
                reason = f"is {name!r} here and {other!r} in {file}"
                where = f"category {key}"
                findings.append(Finding("permuted_classes", "warning", path, reason, where))
    return findings


def inspect_coco_folder(images: Path, annotations: Sequence[Path]) -> list[Finding]:
    """One note if images below ``images`` are in none of the files."""
    listed: set[str] = set()
    for path in annotations:
        try:
            listed |= {str(entry.get("file_name")) for entry in _load(path)["images"]}
        except Fault:
            return []  # `inspect_coco` says why; every image would seem unlisted
    files = (path for path in images.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    alone = sorted(name for path in files if (name := str(path.relative_to(images))) not in listed)
    if not alone:
        return []
    reason = f"{len(alone)} images are in no annotation file: {first_few(alone)}"
    return [Finding("unlisted_image", "note", images, reason)]


# ---------------------------------------------------------------------------------- the file


def _load(path: Path) -> dict[str, list[_Entry]]:
    try:
        content = json.loads(path.read_bytes().decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        raise Fault.of("malformed_json", path, error.msg, object=where) from error
    except (OSError, ValueError, RecursionError) as error:
        raise Fault.of("malformed_json", path, f"cannot be read ({error})") from error
    if not isinstance(content, dict):
        reason = f"a {type(content).__name__}, expected an object with `images`"
        raise Fault.of("malformed_json", path, reason)
    for key in _KEYS:
        entries = content.get(key)
        if not isinstance(entries, list) or not all(isinstance(each, dict) for each in entries):
            raise Fault.of("missing_key", path, f"`{key}` is missing or not a list of objects")
    return content


def _notes(annotations: list[_Entry], path: Path) -> list[Finding]:
    """What other evaluators stumble over and this toolkit does not."""
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


def _category_names(
    categories: list[_Entry], path: Path, findings: list[Finding]
) -> dict[str, str]:
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


def _images_by_id(images: list[_Entry], path: Path, findings: list[Finding]) -> dict[str, _Entry]:
    entries: dict[str, _Entry] = {}
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


def _listed_twice(paths: dict[str, Path], source: Path) -> list[Finding]:
    first: dict[Path, str] = {}
    found = []
    for key, path in paths.items():
        other = first.setdefault(path, key)
        if other != key:
            reason = f"{path.name} is image {other} as well, and counts twice"
            found.append(Finding("listed_twice", "warning", source, reason, f"image {key}", path))
    return found


def _objects_by_image(
    annotations: list[_Entry],
    paths: dict[str, Path],
    names: dict[str, str],
    source: Path,
    findings: list[Finding],
) -> dict[str, list[RawObject]]:
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
        objects[image].append(RawObject(names[category], box, crowd, where))
    return objects


def _error(kind: str, file: Path, where: str, reason: str, image: Path | None = None) -> Finding:
    return Finding(kind, "error", file, reason, where, image)


# ---------------------------------------------------------------------------------- one entry


def _key(entry: _Entry, field: str) -> str | None:
    """An id as text, so that 7 and "7" are one; null, "" and what is no id are None."""
    value = entry.get(field)
    is_id = isinstance(value, int | str) and not isinstance(value, bool)
    return (str(value) or None) if is_id else None


def _is_crowd(value: object) -> bool:
    if value not in (None, 0, 1):
        raise ValueError(f"iscrowd is {value!r:.40}, expected 0 or 1")
    return value == 1


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


def _image(folder: Path, entry: _Entry, source: Path, where: str) -> Path:
    name = entry.get("file_name")
    if not isinstance(name, str) or not name:
        raise Fault.of("bad_image", source, "has no file_name", object=where)
    path = folder / name
    if not is_file(path):
        raise Fault.of("missing_image", source, f"{path}: no such file", object=where)
    return path


def _claimed_size(entry: _Entry, source: Path, where: str) -> tuple[float, float] | None:
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
