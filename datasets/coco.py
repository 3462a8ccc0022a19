"""What does a COCO instances JSON say about its pictures?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..detection.errors import DataError
from .image import DEFAULT_RULES, ImageRules, read_size
from .raw import RawBox, RawImage, RawObject, first_few

_Entry = dict[str, Any]
_NAN = float("nan")
_NO_BOX: RawBox = (_NAN, _NAN, _NAN, _NAN)


def read_coco(
    images: Path, annotations: Path, *, rules: ImageRules = DEFAULT_RULES
) -> list[RawImage]:
    """The pictures of a COCO JSON, in its order, those without objects included.

    ``images`` is the folder of the file names. Crowds become ``ignore``; a missing ``iscrowd`` is
    0; annotation ids are not used. A box of null or [] becomes non-finite, for the catalog to
    judge. Sizes are the JSON's (the header's where it has none): 118 000 headers are not opened
    here, the loader compares each decoded picture with its record.

    Raises `DataError` naming the file, the count and the first few entries that are wrong.
    """
    content = _load(annotations)
    names = _category_names(content["categories"], annotations)
    entries = _images_by_id(content["images"], annotations)
    objects = _objects_by_image(content["annotations"], entries, names, annotations)
    found, errors = [], []
    for image_id, entry in entries.items():
        try:
            path = _picture(images, entry)
            size = _size(entry, path, rules)
        except DataError as error:
            errors.append(f"image {image_id}: {error}")
            continue
        found.append(RawImage(image_id, path, size, tuple(objects[image_id]), annotations))
    _raise_if_any(errors, "images", annotations)
    return found


def _load(path: Path) -> dict[str, list[_Entry]]:
    try:
        content = json.loads(path.read_bytes().decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}:{error.colno}: {error.msg}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: a {type(content).__name__}, expected an object with `images`")
    for key in ("images", "annotations", "categories"):
        entries = content.get(key)
        if not isinstance(entries, list) or not all(isinstance(each, dict) for each in entries):
            raise DataError(f"{path}: `{key}` is missing or not a list of objects")
    return content


def _raise_if_any(errors: Sequence[str], what: str, path: Path) -> None:
    if errors:
        raise DataError(f"{path}: {len(errors)} bad {what}: {first_few(errors)}")


def _category_names(categories: list[_Entry], path: Path) -> dict[str, str]:
    names: dict[str, str] = {}
    errors = []
    for entry in categories:
        key, name = _key(entry, "id"), entry.get("name")
        if key is None or not isinstance(name, str) or not name:
            errors.append(f"{entry!r:.80}: needs an id and a name")
        elif key in names:
            errors.append(f"id {key} is used by {names[key]!r} and {name!r}")
        elif name in names.values():
            errors.append(f"name {name!r} has several ids")
        else:
            names[key] = name
    _raise_if_any(errors, "categories", path)
    return names


def _images_by_id(images: list[_Entry], path: Path) -> dict[str, _Entry]:
    entries: dict[str, _Entry] = {}
    errors = []
    for entry in images:
        key = _key(entry, "id")
        if key is None:
            errors.append(f"{entry!r:.80}: needs an id")
        elif key in entries:
            errors.append(f"id {key} is used twice")
        else:
            entries[key] = entry
    _raise_if_any(errors, "images", path)
    return entries


def _objects_by_image(
    annotations: list[_Entry], images: dict[str, _Entry], names: dict[str, str], path: Path
) -> dict[str, list[RawObject]]:
    objects: dict[str, list[RawObject]] = {image_id: [] for image_id in images}
    errors = []
    for number, entry in enumerate(annotations, 1):
        image, category = _key(entry, "image_id"), _key(entry, "category_id")
        where = f"annotation {entry.get('id', f'number {number}')}"
        if image is None or image not in objects:
            errors.append(f"{where}: image_id {image} is not in `images`")
        elif category is None or category not in names:
            errors.append(f"{where}: category_id {category} is not in `categories`")
        else:
            try:
                crowd = _is_crowd(entry.get("iscrowd"))
                objects[image].append(RawObject(names[category], _box(entry.get("bbox")), crowd))
            except DataError as error:
                errors.append(f"{where}: {error}")
    _raise_if_any(errors, "annotations", path)
    return objects


def _key(entry: _Entry, field: str) -> str | None:
    """An id as text, so that 7 and "7" are one; null, "" and what is no id are None."""
    value = entry.get(field)
    is_id = isinstance(value, int | str) and not isinstance(value, bool)
    return (str(value) or None) if is_id else None


def _is_crowd(value: object) -> bool:
    if value not in (None, 0, 1):
        raise DataError(f"iscrowd is {value!r:.40}, expected 0 or 1")
    return value == 1


def _box(bbox: object) -> RawBox:
    """(x, y, w, h) to (x1, y1, x2, y2)."""
    if bbox is None or bbox == []:
        return _NO_BOX
    if not isinstance(bbox, list) or len(bbox) != 4:
        raise DataError(f"bbox is {bbox!r:.60}, expected [x, y, width, height]")
    try:
        x, y, width, height = (_NAN if side is None else float(side) for side in bbox)
    except (TypeError, ValueError, OverflowError):
        raise DataError(f"bbox is {bbox!r:.60}, expected four numbers") from None
    return x, y, x + width, y + height


def _picture(folder: Path, entry: _Entry) -> Path:
    name = entry.get("file_name")
    if not isinstance(name, str) or not name:
        raise DataError("has no file_name")
    path = folder / name
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    return path


def _size(entry: _Entry, path: Path, rules: ImageRules) -> tuple[int, int]:
    height, width = entry.get("height"), entry.get("width")
    if height is None or width is None:
        return read_size(path, rules)
    if not (_is_count(height) and _is_count(width)):
        raise DataError(f"{path}: height {height!r} and width {width!r} are not pixel counts")
    return int(height), int(width)


def _is_count(value: object) -> bool:
    """A positive whole number; some tools write 640.0."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return value > 0 and value % 1 == 0
