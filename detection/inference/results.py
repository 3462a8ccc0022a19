"""How do the JSON lines of a run become the files that other tools read: COCO JSON and CSV?"""

from __future__ import annotations

import contextlib
import csv
import json
import shutil
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from ..errors import DataError
from ..files import atomic_write
from .records import RECORDS, read_meta, read_records

COCO = "detections.coco.json"
CSV = "detections.csv"

#: How half a surrogate pair is written, which JSON can name and UTF-8 cannot hold.
_LONE = "backslashreplace"
_COLUMNS = ("file", "width", "height", "label", "score", "x1", "y1", "x2", "y2", "error")


def export_results(folder: Path) -> tuple[Path, Path]:
    """Make the COCO JSON and the CSV of a run from its JSON lines; returns their paths.

    One pass, one record in memory at a time. Each file appears whole or not at all.
    Raises ConfigError for a folder without ``meta.json``, DataError for damaged records.
    """
    classes = read_meta(folder)["classes"]
    coco, table = folder / COCO, folder / CSV
    with _replacing(coco) as coco_file, _replacing(table) as table_file:
        images_path = folder / f"{COCO}.images.part"
        try:
            with images_path.open("w+", encoding="utf-8", errors=_LONE) as images_file:
                writer = _CocoWriter(coco_file, images_file, classes)
                rows = csv.writer(table_file, lineterminator="\n")
                rows.writerow(_COLUMNS)
                for record in _labelled_records(folder / RECORDS, set(classes)):
                    writer.add(record)
                    rows.writerows(_rows(record))
                writer.finish()
        finally:
            images_path.unlink(missing_ok=True)
    return coco, table


def _labelled_records(path: Path, classes: Collection[str]) -> Iterator[dict[str, Any]]:
    for number, record in enumerate(read_records(path), start=1):
        for detection in record.get("detections", ()):
            if detection["label"] not in classes:
                raise DataError(
                    f"{path}: line {number}: label {detection['label']!r:.80} is not among the "
                    "classes of meta.json"
                )
        yield record


class _CocoWriter:
    """COCO's lists of images and annotations, grown side by side in two files and then joined.

    Ids count from 1, since pycocotools takes annotation 0 for "no match". Categories are the
    classes in label order. ``images`` holds failed images as well, with ``error`` instead of
    a size.
    """

    def __init__(self, out: IO[str], images: IO[str], classes: Sequence[str]) -> None:
        self._out = out
        self._images = images
        self._ids = {name: number for number, name in enumerate(classes, start=1)}
        self._image_count = 0
        self._annotation_count = 0
        categories = [{"id": number, "name": name} for name, number in self._ids.items()]
        out.write(f'{{"categories": {_dump(categories)},\n"annotations": [')

    def add(self, record: dict[str, Any]) -> None:
        self._image_count += 1
        self._images.write(",\n" if self._image_count > 1 else "\n")
        self._images.write(_dump(self._image(record)))
        for detection in record.get("detections", ()):
            self._annotation_count += 1
            self._out.write(",\n" if self._annotation_count > 1 else "\n")
            self._out.write(_dump(self._annotation(detection)))

    def finish(self) -> None:
        self._out.write('\n],\n"images": [')
        self._images.seek(0)
        shutil.copyfileobj(self._images, self._out)
        self._out.write("\n]}\n")

    def _image(self, record: dict[str, Any]) -> dict[str, Any]:
        image = {"id": self._image_count, "file_name": record["file"]}
        if "error" in record:
            return {**image, "error": record["error"]}
        return {**image, "width": record["width"], "height": record["height"]}

    def _annotation(self, detection: dict[str, Any]) -> dict[str, Any]:
        x1, y1, x2, y2 = detection["box"]
        # The lines hold thousandths of a pixel; the differences are rounded to the same.
        width, height = round(x2 - x1, 3), round(y2 - y1, 3)
        return {
            "id": self._annotation_count,
            "image_id": self._image_count,
            "category_id": self._ids[detection["label"]],
            "bbox": [x1, y1, width, height],
            "area": round(width * height, 3),
            "iscrowd": 0,
            "score": detection["score"],
        }


def _rows(record: dict[str, Any]) -> Iterator[list[Any]]:
    """A row a detection; an image without any, or a failed one, has one row without a label."""
    start = [_cell(record["file"]), record.get("width", ""), record.get("height", "")]
    detections = record.get("detections", ())
    for detection in detections:
        yield [*start, _cell(detection["label"]), detection["score"], *detection["box"], ""]
    if not detections:
        yield [*start, "", "", "", "", "", "", _cell(record.get("error", ""))]


def _cell(text: str) -> str:
    """Text that no spreadsheet runs as a formula (OWASP, CSV injection)."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def _dump(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[IO[str]]:
    with (
        atomic_write(path) as part,
        part.open("w", encoding="utf-8", errors=_LONE, newline="") as file,
    ):
        yield file
