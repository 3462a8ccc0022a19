"""Label Studio: one JSON file with a list of tasks, exported as JSON or JSON-MIN.

Shapes are in per cent of the image. Of a task, the last annotation that was not cancelled counts.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeGuard

from ..findings import Fault, Finding
from ..records import RawBox, RawImage, RawObject
from .file_source import (
    FileEntry,
    FileLayout,
    FileSource,
    bounding_box,
    inspect_entries,
    outlines_note,
    probe,
    read_json,
    rotated_box,
)
from .format import Contents, Format, Inspected, Reading, checked_size
from .image_names import ImageFiles
from .values import Values
from .writing import Place, Splits, Writer, fit_known_box, write_new

_BOXES, _POLYGONS = "rectanglelabels", "polygonlabels"
#: Other results of a task with a class; without a box of their own.
_OTHERS = ("brushlabels", "keypointlabels", "ellipselabels")
_Task = Mapping[str, Any]


class LabelStudioSource(FileSource):
    """A JSON export of Label Studio, whose image names are resolved below ``images``."""

    format: Literal["label_studio"] = "label_studio"


def _tasks(path: Path) -> list[_Task]:
    """The tasks; raises `Fault` unless they, their annotations and the results of those are
    objects in lists."""
    content = read_json(path)
    if not _are_objects(content):
        raise Fault.of("malformed_json", path, "expected a list of tasks")
    for index, task in enumerate(content, 1):
        annotations = task.get("annotations") or []
        if not _are_objects(annotations) or not all(
            _are_objects(each.get("result") or []) for each in annotations
        ):
            reason = "`annotations` and their `result` must be lists of objects"
            raise Fault.of("malformed_json", path, reason, object=f"task {task.get('id', index)}")
    return content


def _are_objects(value: Any) -> TypeGuard[list[_Task]]:
    return isinstance(value, list) and all(isinstance(each, dict) for each in value)


def inspect_label_studio(source: LabelStudioSource, reading: Reading) -> Inspected:
    """The images of the tasks, in their order, and all findings.

    Polygons and rotated boxes become the boxes around them; brush strokes, ellipses and key points
    are errors.
    """
    path = source.annotations
    try:
        tasks = _tasks(path)
    except Fault as fault:
        return [], [fault.finding]
    findings: list[Finding] = []
    entries, outlines, values = [], 0, Values()
    files = ImageFiles(source.images, allow_outside=reading.allow_outside)
    for index, task in enumerate(tasks, 1):
        where = f"task {task.get('id', index)}"
        shapes = list(_shapes(task))
        try:
            name = _image_name(task, path, where)
            size = _size(shapes[0][0], path, where, values) if shapes else None
        except Fault as fault:
            findings.append(fault.finding)
            continue
        objects = []
        actual = size or (_actual_size(name, files, source, reading, where) if shapes else None)
        for number, (shape, kind) in enumerate(shapes, 1):
            if actual is None:
                break  # `inspect_entries` says why
            place = f"{where}: shape {number}"
            try:
                obj, outline = _object(shape, kind, actual, path, place, values)
            except Fault as fault:
                findings.append(fault.finding)
                continue
            objects.append(obj)
            outlines += outline
        entries.append(FileEntry(name, size, tuple(objects), where))
    findings += outlines_note(path, outlines) + values.notes(path)
    return inspect_entries(source, reading, entries, findings)


def _image_name(task: _Task, path: Path, where: str) -> str:
    """The first text of the task's data that is named like an image, else its first text."""
    data = task.get("data")
    data = data if isinstance(data, dict) else task
    known = [
        data[key] for key in ("image", "img", "photo", "ocr") if isinstance(data.get(key), str)
    ]
    texts = known or [value for value in data.values() if isinstance(value, str)]
    if not texts:
        raise Fault.of("bad_image", path, "has no image", object=where)
    return str(texts[0])


def _shapes(task: _Task) -> Iterator[tuple[Mapping[str, Any], str]]:
    """(shape with its value's keys, kind) of a task with `annotations`, or of JSON-MIN."""
    if isinstance(task.get("annotations"), list):
        shapes = [
            {**each, **each["value"]}
            for each in _results(task)
            if isinstance(each.get("value"), dict)
        ]
    else:
        lists = (value for value in task.values() if isinstance(value, list))
        shapes = [each for value in lists for each in value if isinstance(each, dict)]
    for shape in shapes:
        kind = next((kind for kind in (_BOXES, _POLYGONS, *_OTHERS) if kind in shape), "")
        if kind:  # relations, choices and texts have no place in the image
            yield shape, kind


def _results(task: _Task) -> Sequence[Mapping[str, Any]]:
    """The results of the last annotation that was not cancelled, which is the one that is read."""
    kept = [each for each in task.get("annotations") or () if not each.get("was_cancelled")]
    return (kept[-1].get("result") or ()) if kept else ()


def _size(
    shape: Mapping[str, Any], path: Path, where: str, values: Values
) -> tuple[float, float] | None:
    """(h, w) of the image as a shape states it, None if it does not; raises `Fault`."""
    try:
        return values.size(shape.get("original_height"), shape.get("original_width"))
    except ValueError as error:
        raise Fault.of("bad_image", path, str(error), object=where) from None


def _actual_size(
    name: str, files: ImageFiles, source: LabelStudioSource, reading: Reading, where: str
) -> tuple[int, int] | None:
    """(h, w) of the image, which shapes in per cent need; None if it cannot be used."""
    path = source.annotations
    try:
        return checked_size(files.find(name, path, where), None, path, reading.rules)
    except Fault:
        return None


def _object(
    shape: Mapping[str, Any],
    kind: str,
    size: tuple[float, float],
    path: Path,
    where: str,
    values: Values,
) -> tuple[RawObject, bool]:
    """The object, and whether its box is one around an outline."""
    labels = shape[kind]
    if not isinstance(labels, list) or not labels or not isinstance(labels[0], str):
        raise Fault.of("unnamed_object", path, "has no label", object=where)
    where = f"{where} ({labels[0]})"
    if kind in _OTHERS:
        reason = f"a shape with {kind} has no box"
        raise Fault.of("malformed_object", path, reason, object=where)
    try:
        box, outline = _corners(shape, kind, size, values)
    except (KeyError, TypeError, ValueError) as error:
        reason = f"{kind}: coordinates are missing or no numbers"
        raise Fault.of("not_a_number", path, reason, object=where) from error
    return RawObject(labels[0], box, reference=where), outline


def _corners(
    shape: Mapping[str, Any], kind: str, size: tuple[float, float], values: Values
) -> tuple[RawBox, bool]:
    height, width = (side / 100 for side in size)
    read = values.stated
    if kind == _POLYGONS:
        points = [(read("points", x), read("points", y)) for x, y in shape["points"]]
        return bounding_box([(x * width, y * height) for x, y in points]), True
    x, y = read("x", shape["x"]) * width, read("y", shape["y"]) * height
    part_x, part_y = read("width", shape["width"]), read("height", shape["height"])
    box = (x, y, x + part_x * width, y + part_y * height)
    degrees = (values.number("rotation", shape.get("rotation")) or 0.0) % 360
    return (rotated_box(box, degrees, (x, y)), True) if degrees else (box, False)


def _contents(source: LabelStudioSource, images: Sequence[RawImage]) -> Contents:
    tasks = _tasks(source.annotations)
    return Contents(source.images, Counter(name for task in tasks for name in _extras(task)))


def _extras(task: _Task) -> Iterator[str]:
    """Names of what a `RawImage` does not store: outlines, rotation, further labels, and results
    that are no shapes."""
    for shape, kind in _shapes(task):
        yield from [kind] if kind != _BOXES else []
        yield from ["rotation"] if shape.get("rotation") else []
        yield from ["further labels"] if len(shape[kind]) > 1 else []
    kinds = (str(each.get("type")) for each in _results(task))
    yield from (kind for kind in kinds if kind not in (_BOXES, _POLYGONS, *_OTHERS, "None"))


def _is_label_studio(path: Path) -> bool:
    """Whether a list of tasks begins here, or a list of images with shapes (JSON-MIN)."""
    start = probe(path).lstrip()
    tasks = '"data"' in start and '"annotations"' in start
    shapes = "labels" in start and "original_width" in start
    return start.startswith("[") and (tasks or shapes)


# ---------------------------------------------------------------------------------- writing


def _write(out: Path, splits: Splits, classes: Sequence[str], place: Place) -> None:
    """``<split>.json`` with the images in ``<split>``, which Label Studio finds as local files;
    detections are predictions of their tasks."""
    every = (obj for images in splits.values() for image in images for obj in image.objects)
    kind = "predictions" if any(obj.score is not None for obj in every) else "annotations"
    for split, images in splits.items():
        tasks = []
        for image in images:
            place(image.source, out / split / image.name)
            name = f"/data/local-files/?d={split}/{image.name.as_posix()}"
            result = [shape_of(obj, image.size) for obj in image.objects]
            tasks.append({"data": {"image": name}, kind: [{"result": result}]})
        write_new(out / f"{split}.json", json.dumps(tasks, ensure_ascii=False, indent=1) + "\n")


def shape_of(obj: RawObject, size: tuple[int, int]) -> dict[str, Any]:
    """The result of a box in an image of ``size`` (h, w), with the score of a detection."""
    (height, width), (x1, y1, x2, y2) = size, obj.box
    value = {
        "x": x1 / width * 100,
        "y": y1 / height * 100,
        "width": (x2 - x1) / width * 100,
        "height": (y2 - y1) / height * 100,
        "rotation": 0,
        _BOXES: [obj.name],
    }
    score = {} if obj.score is None else {"score": obj.score}
    return score | {
        "type": _BOXES,
        "from_name": "label",
        "to_name": "image",
        "original_width": width,
        "original_height": height,
        "value": value,
    }


_LAYOUT = FileLayout(LabelStudioSource, ".json", _is_label_studio, "an export of Label Studio")

FORMAT = Format(
    name="label_studio",
    source=LabelStudioSource,
    carries="boxes",
    layout="a JSON list of tasks of Label Studio",
    recognise=_LAYOUT.recognise,
    recognise_file=_LAYOUT.recognise_file,
    splits=_LAYOUT.splits,
    named=_LAYOUT.named,
    inspect=inspect_label_studio,
    contents=_contents,
    writer=Writer(fit=fit_known_box, write=_write, pairs_by_stem=False, keeps_class_list=False),
)
