"""Detections of any tool and the objects they are scored against, read from their files: COCO
results, the JSON lines and the COCO JSON of ``resdet infer``, and the detection files of VOC.

Boxes stay in float64 and are not clipped, as in pycocotools.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...datasets.catalog import DataSplit, assemble
from ...datasets.findings import Fault, Finding, refuse
from ...datasets.formats import coco_json, read_images
from ...datasets.formats.coco_ids import CocoIds, coco_ids
from ...datasets.formats.values import Values
from ...datasets.formats.voc import VocSource
from ...datasets.listing import files_in
from ...datasets.text import NotUtf8, utf8_text
from ..errors import ConfigError, DataError
from ..files import read_limited
from ..inference.records import read_records
from .columns import Columns, FoundColumns, TruthColumns, checked, gather_truth, id_order
from .result_ids import ResultIds, result_ids

#: An image id, a label, (x1, y1, x2, y2), a score.
Row = tuple[str, int, tuple[float, float, float, float], float]


@dataclass(frozen=True, eq=False)
class Truth:
    """The objects of a data set: ``image_ids`` in their `id_order`, ``classes`` in label order,
    ``labels`` by category id, and ``image_of`` gives the image id of a file name, or None."""

    image_ids: tuple[str, ...]
    classes: tuple[str, ...]
    labels: Mapping[str, int]
    image_of: Callable[[str], str | None]
    columns: TruthColumns
    #: The file of each image, as the annotations name it.
    files: Mapping[str, str]
    #: The ids for results, of images and in label order of categories.
    ids: ResultIds
    #: The images of data without COCO ids.
    split: DataSplit | None = None

    def label(self, name: object) -> int:
        """The label of a class name; raises ValueError."""
        if name not in self.classes:
            raise ValueError(f"the annotations have no class {name!r:.80}")
        return self.classes.index(str(name))


def read_truth(path: Path, image_set: str) -> Truth:
    """The objects of a COCO file, or of an image set of a VOC folder; raises DataError."""
    return _voc_truth(path, image_set) if path.is_dir() else _coco_truth(path)


def read_columns(path: Path, truth: Truth) -> Columns:
    """The detections of a file, or of a folder of VOC's files, beside the objects.

    Raises:
        ConfigError: no such file.
        DataError: malformed, or with an image or class that the annotations do not have.
    """
    if not path.exists():
        raise ConfigError(f"{path}: no such file or folder")
    index = {image_id: number for number, image_id in enumerate(truth.image_ids)}
    rows = [(index[image], label, box, score) for image, label, box, score in _rows(path, truth)]
    rows.sort(key=lambda row: row[0])  # stable: rows of an image stay in their order
    found = FoundColumns(
        boxes=np.array([row[2] for row in rows], dtype=np.float64).reshape(-1, 4),
        labels=np.array([row[1] for row in rows], dtype=np.int64),
        images=np.array([row[0] for row in rows], dtype=np.int64),
        scores=np.array([row[3] for row in rows], dtype=np.float64),
    )
    return checked(Columns(truth.image_ids, len(truth.classes), truth.columns, found), path)


# ---------------------------------------------------------------------------------- annotations


def _coco_truth(path: Path) -> Truth:
    findings: list[Finding] = []
    values = Values()
    try:
        content = coco_json.load_json(path, outlines=False)
    except Fault as fault:
        raise DataError(str(fault.finding)) from fault
    names = coco_json.category_names(content["categories"], path, findings, values)
    entries = coco_json.images_by_id(content["images"], path, findings, values)
    paths = {key: Path(str(entry.get("file_name"))) for key, entry in entries.items()}
    objects = coco_json.objects_by_image(
        content["annotations"], paths, names, path, findings, values
    )
    refuse(findings, str(path))
    image_ids = tuple(sorted(entries, key=id_order))
    every = [(number, obj) for number, key in enumerate(image_ids) for obj in objects[key]]
    labels = {name: label for label, name in enumerate(names.values())}
    boxes = np.array([obj.box for _, obj in every], dtype=np.float64).reshape(-1, 4)
    areas = np.array([np.nan if obj.area is None else obj.area for _, obj in every], np.float64)
    columns = TruthColumns(
        boxes=boxes,
        labels=np.array([labels[obj.name] for _, obj in every], dtype=np.int64),
        images=np.array([number for number, _ in every], dtype=np.int64),
        ignore=np.array([obj.ignore for _, obj in every], dtype=bool),
        areas=np.where(np.isnan(areas), (boxes[:, 2:] - boxes[:, :2]).prod(axis=1), areas),
    )
    by_category = {key: labels[name] for key, name in names.items()}
    ids = coco_ids(path)
    files = {key: str(paths[key]) for key in image_ids}
    known = ResultIds(ids.images, [ids.categories[name] for name in labels])
    return Truth(image_ids, tuple(labels), by_category, _lookup(ids), columns, files, known)


def _lookup(ids: CocoIds) -> Callable[[str], str | None]:
    def image_of(name: str) -> str | None:
        key = ids.of_file(name)
        return None if key is None else str(key)

    return image_of


def _voc_truth(root: Path, image_set: str) -> Truth:
    source = VocSource(root=root, split=image_set)
    split = assemble(read_images(source), classes=None)
    records = sorted(split.records, key=lambda record: id_order(record.image_id))
    by_file = {record.path.name: record.image_id for record in records}
    return Truth(
        tuple(record.image_id for record in records),
        split.classes,
        {},  # VOC has no category ids
        by_file.get,
        gather_truth([record.annotation for record in records]),
        {record.image_id: str(record.path) for record in records},
        result_ids(split, [source]),
        split,
    )


# ---------------------------------------------------------------------------------- detections


def _rows(path: Path, truth: Truth) -> Iterator[Row]:
    if path.is_dir():
        yield from _voc_rows(path, truth)
    elif path.suffix == ".jsonl":
        yield from _record_rows(path, truth)
    else:
        yield from _coco_rows(path, truth)


def _coco_rows(path: Path, truth: Truth) -> Iterator[Row]:
    """Results (a list), or the COCO JSON of ``infer``, whose images and categories go by name."""
    try:
        content = json.loads(utf8_text(read_limited(path)))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as JSON: {error}") from error
    images: Mapping[str, str] | None = None
    labels = truth.labels
    if isinstance(content, dict) and isinstance(content.get("annotations"), list):
        try:
            images = {str(entry["id"]): entry["file_name"] for entry in content["images"]}
            names = {str(entry["id"]): entry["name"] for entry in content["categories"]}
        except (KeyError, TypeError) as error:
            raise DataError(f"{path}: images or categories without {error}") from error
        labels = {key: truth.label(name) for key, name in names.items() if name in truth.classes}
        content = content["annotations"]
    if not isinstance(content, list):
        raise DataError(
            f"{path}: expected a list of results with image_id, category_id, bbox, score"
        )
    known = set(truth.image_ids)
    for number, entry in enumerate(content, 1):
        try:
            image = str(entry["image_id"])
            if images is not None:
                image = truth.image_of(images[image]) or images[image]
            if image not in known:
                raise ValueError(f"the annotations have no image {image!r:.80}")
            category = str(entry["category_id"])
            if category not in labels:
                raise ValueError(f"the annotations have no category {category!r:.80}")
            x, y, width, height = map(_number, entry["bbox"])
            box = (x, y, x + width, y + height)
            yield image, labels[category], box, _number(entry["score"])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise DataError(f"{path}: result {number}: {_reason(error)}") from error


def _record_rows(path: Path, truth: Truth) -> Iterator[Row]:
    """The JSON lines of ``infer``; an image that failed has no detections."""
    for number, record in enumerate(read_records(path), 1):
        image = truth.image_of(record["file"])
        if image is None:
            raise DataError(
                f"{path}: line {number}: the annotations have no image {record['file']!r:.80}"
            )
        for entry in record.get("detections", ()):
            try:
                x1, y1, x2, y2 = map(_number, entry["box"])
                yield image, truth.label(entry["label"]), (x1, y1, x2, y2), entry["score"]
            except (ValueError, OverflowError) as error:
                raise DataError(f"{path}: line {number}: {error}") from error


def _voc_rows(folder: Path, truth: Truth) -> Iterator[Row]:
    """``*_<class>.txt`` of every class: image id, score, x1, y1, x2, y2 in pixels from 1."""
    files = files_in(folder, ".txt")
    if not files:
        raise DataError(f"{folder}: no file *_<class>.txt")
    known, labels = set(truth.image_ids), {path: _class_of(path, truth) for path in files}
    twice = [label for label, count in Counter(labels.values()).items() if count > 1]
    if twice:
        raise DataError(f"{folder}: several files of the class {truth.classes[twice[0]]!r}")
    for path, label in labels.items():
        try:
            lines = utf8_text(read_limited(path)).splitlines()
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
        except NotUtf8 as error:
            raise DataError(f"{path}: cannot be read: {error}") from error
        for number, line in enumerate(lines, 1):
            try:
                image, *values = line.split()
                score, x1, y1, x2, y2 = map(float, values)
            except ValueError as error:
                reason = "expected an image id, a score and four coordinates"
                raise DataError(f"{path}: line {number}: {reason}") from error
            if image not in known:
                raise DataError(f"{path}: line {number}: no image {image!r:.80} in the annotations")
            yield image, label, (x1 - 1, y1 - 1, x2, y2), score


def _class_of(path: Path, truth: Truth) -> int:
    """The class at the end of a file's name; of several the longest."""
    names = [name for name in truth.classes if f"_{path.stem}".endswith(f"_{name}")]
    if not names:
        raise DataError(f"{path}: the name does not end with a class of the annotations")
    return truth.classes.index(max(names, key=len))


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{value!r:.40} is not a number")
    return float(value)


def _reason(error: Exception) -> str:
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)
