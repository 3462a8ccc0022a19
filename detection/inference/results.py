"""Export of a run's JSON lines to COCO JSON and CSV, and of a classifier's to CSV."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from ...datasets.formats.coco_ids import CocoIds, Id
from ..errors import DataError
from ..files import atomic_write, csv_cell
from .records import CLASS_RECORDS, RECORDS, Json, read_meta, read_records

COCO = "detections.coco.json"
CSV = "detections.csv"
CLASS_CSV = "classes.csv"

_COLUMNS = ("file", "width", "height", "label", "score", "x1", "y1", "x2", "y2", "error")
_CLASS_COLUMNS = ("file", "width", "height", "rank", "label", "score", "error")


def export_results(folder: Path, coco_ids: CocoIds | None = None) -> tuple[Path, Path]:
    """Make the COCO JSON and the CSV of a run from its JSON lines; returns their paths.

    One record is in memory at a time. Each file appears whole or not at all. The ids in the COCO
    JSON are ``coco_ids``, or count from 1: images as in the records, categories as in the classes.
    Raises ConfigError for a folder without ``meta.json``, DataError for damaged records.
    """
    classes = read_meta(folder)["classes"]
    coco, table = folder / COCO, folder / CSV
    with _replacing(coco) as coco_file, _replacing(table) as table_file:
        rows = csv.writer(table_file, lineterminator="\n")
        rows.writerow(_COLUMNS)
        for record in _labelled_records(folder / RECORDS, set(classes)):
            rows.writerows(_rows(record))
        # Ids count from 1, since pycocotools takes annotation 0 for "no match".
        ids: Mapping[str, Id] = {name: number for number, name in enumerate(classes, start=1)}
        if coco_ids is not None:
            ids = {
                name: coco_ids.categories[name] for name in classes if name in coco_ids.categories
            }
        categories = [{"id": number, "name": name} for name, number in ids.items()]
        coco_file.write(f'{{"categories": {_dump(categories)},\n"annotations": [')
        _write_items(coco_file, _annotations(folder / RECORDS, ids, coco_ids))
        coco_file.write('\n],\n"images": [')
        _write_items(coco_file, _images(folder / RECORDS, coco_ids))
        coco_file.write("\n]}\n")
    return coco, table


def export_classes(folder: Path) -> Path:
    """Make the CSV of a classifier's run from its JSON lines, a row per class and image, and
    return its path; raises as `export_results`."""
    classes = set(read_meta(folder)["classes"])
    path = folder / CLASS_CSV
    with _replacing(path) as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(_CLASS_COLUMNS)
        for record in _labelled_records(folder / CLASS_RECORDS, classes):
            start, ranked = _image_cells(record), record.get("classes", ())
            for rank, each in enumerate(ranked, start=1):
                rows.writerow([*start, rank, csv_cell(each["label"]), each["score"], ""])
            if not ranked:
                rows.writerow([*start, "", "", "", csv_cell(record.get("error", ""))])
    return path


def _labelled_records(path: Path, classes: set[str]) -> Iterator[dict[str, Any]]:
    for number, record in enumerate(read_records(path), start=1):
        for found in record.get("detections", record.get("classes", ())):
            if found["label"] not in classes:
                raise DataError(
                    f"{path}: line {number}: label {found['label']!r:.80} is not among the "
                    "classes of meta.json"
                )
        yield record


def _numbered(path: Path, coco_ids: CocoIds | None) -> Iterator[tuple[Id, Json]]:
    """Each record with the id of its image."""
    for number, record in enumerate(read_records(path), start=1):
        key = number if coco_ids is None else coco_ids.of_file(record["file"])
        if key is None:
            raise DataError(f"{path}: line {number}: {record['file']!r:.80} has no COCO id")
        yield key, record


def _annotations(
    path: Path, category_ids: Mapping[str, Id], coco_ids: CocoIds | None
) -> Iterator[Json]:
    detections = (
        (image_id, detection)
        for image_id, record in _numbered(path, coco_ids)
        for detection in record.get("detections", ())
    )
    for number, (image_id, detection) in enumerate(detections, start=1):
        x1, y1, x2, y2 = detection["box"]
        # The lines hold thousandths of a pixel; the differences are rounded to the same.
        width, height = round(x2 - x1, 3), round(y2 - y1, 3)
        yield {
            "id": number,
            "image_id": image_id,
            "category_id": category_ids[detection["label"]],
            "bbox": [x1, y1, width, height],
            "area": round(width * height, 3),
            "iscrowd": 0,
            "score": detection["score"],
        }


def _images(path: Path, coco_ids: CocoIds | None) -> Iterator[Json]:
    """Failed images as well, with ``error`` instead of a size."""
    for image_id, record in _numbered(path, coco_ids):
        known = ("error",) if "error" in record else ("width", "height")
        yield {"id": image_id, "file_name": record["file"], **{key: record[key] for key in known}}


def _write_items(file: IO[str], items: Iterable[Json]) -> None:
    """The items of a JSON list, one a line."""
    for number, item in enumerate(items):
        file.write(",\n" if number else "\n")
        file.write(_dump(item))


def _rows(record: Json) -> Iterator[list[Any]]:
    """A row per detection; an image without detections, or a failed one, has one unlabelled row."""
    start = _image_cells(record)
    detections = record.get("detections", ())
    for detection in detections:
        yield [*start, csv_cell(detection["label"]), detection["score"], *detection["box"], ""]
    if not detections:
        yield [*start, "", "", "", "", "", "", csv_cell(record.get("error", ""))]


def _image_cells(record: Json) -> list[object]:
    return [csv_cell(record["file"]), record.get("width", ""), record.get("height", "")]


def _dump(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


@contextmanager
def _replacing(path: Path) -> Iterator[IO[str]]:
    with (
        atomic_write(path) as part,
        # JSON can name half a surrogate pair, which UTF-8 cannot hold: it is written escaped.
        part.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        yield file
