"""COCO JSON and CSV of records that are written by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from resdet.detection.errors import DataError
from resdet.detection.inference.records import META, RECORDS
from resdet.detection.inference.results import export_results


def run_folder(folder: Path, *records: dict[str, Any]) -> Path:
    (folder / META).write_text(json.dumps({"classes": ["cat", "dog"]}))
    (folder / RECORDS).write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def image(name: str, *detections: dict[str, Any]) -> dict[str, Any]:
    return {"file": name, "width": 40, "height": 30, "detections": list(detections)}


DOG = {"label": "dog", "score": 0.75, "box": [1.5, 2.0, 11.0, 22.25]}
CAT = {"label": "cat", "score": 0.5, "box": [0.0, 0.0, 4.0, 5.0]}
RUN = (image("a.jpg", DOG, CAT), {"file": "=b.jpg", "error": "cut \ud800"}, image("c.jpg", CAT))


def test_coco_by_hand(tmp_path: Path) -> None:
    """Ids count from 1, over all images; a failed image has its error in place of a size."""
    path, _ = export_results(run_folder(tmp_path, *RUN))
    coco = json.loads(path.read_text("utf-8"))
    assert coco["categories"] == [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    assert coco["images"] == [
        {"id": 1, "file_name": "a.jpg", "width": 40, "height": 30},
        {"id": 2, "file_name": "=b.jpg", "error": "cut \ud800"},
        {"id": 3, "file_name": "c.jpg", "width": 40, "height": 30},
    ]
    columns = ("id", "image_id", "category_id", "bbox", "area", "score")
    assert [tuple(found[key] for key in columns) for found in coco["annotations"]] == [
        (1, 1, 2, [1.5, 2.0, 9.5, 20.25], 192.375, 0.75),
        (2, 1, 1, [0.0, 0.0, 4.0, 5.0], 20.0, 0.5),
        (3, 3, 1, [0.0, 0.0, 4.0, 5.0], 20.0, 0.5),
    ]


def test_csv_by_hand(tmp_path: Path) -> None:
    """A name that a spreadsheet would run as a formula is quoted."""
    _, path = export_results(run_folder(tmp_path, *RUN[:2], image("d.jpg")))
    assert path.read_text("utf-8").splitlines() == [
        "file,width,height,label,score,x1,y1,x2,y2,error",
        "a.jpg,40,30,dog,0.75,1.5,2.0,11.0,22.25,",
        "a.jpg,40,30,cat,0.5,0.0,0.0,4.0,5.0,",
        "'=b.jpg,,,,,,,,,cut \\ud800",
        "d.jpg,40,30,,,,,,,",
    ]


def test_a_run_without_images(tmp_path: Path) -> None:
    path, _ = export_results(run_folder(tmp_path))
    coco = json.loads(path.read_text())
    assert (coco["images"], coco["annotations"], len(coco["categories"])) == ([], [], 2)


def test_an_unknown_label_is_an_error_that_names_its_line(tmp_path: Path) -> None:
    """Neither file is written."""
    bad = image("b.jpg", {**CAT, "label": "owl"})
    with pytest.raises(DataError, match="line 2: label 'owl' is not among"):
        export_results(run_folder(tmp_path, image("a.jpg", CAT), bad))
    assert {path.name for path in tmp_path.iterdir()} == {META, RECORDS}
