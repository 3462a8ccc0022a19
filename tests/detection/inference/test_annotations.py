"""Detections written for annotation tools are read back by the readers of the same formats."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image
from resdet.datasets.formats import FORMATS, read_images, recognise
from resdet.detection.errors import ConfigError
from resdet.detection.inference.annotations import write_annotations
from resdet.detection.inference.records import append_record, write_meta

DETECTIONS = {
    "a.png": [("cat", 0.9, (1.5, 2.0, 20.25, 30.0)), ("dog", 0.5, (3.0, 4.0, 9.0, 10.0))],
    "sub/b.png": [],
    "c.png": [("cat", 0.7, (0.0, 0.0, 40.0, 30.0))],
}
WRITTEN = tuple(name for name, each in FORMATS.items() if each.carries == "boxes" and each.writer)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    write_meta(tmp_path, {"classes": ["dog", "cat"]})
    for name, found in DETECTIONS.items():
        detections = [{"label": n, "score": s, "box": list(box)} for n, s, box in found]
        append_record(
            tmp_path / "detections.jsonl",
            {"file": name, "width": 40, "height": 30, "detections": detections},
        )
    append_record(tmp_path / "detections.jsonl", {"file": "d.png", "error": "no image"})
    return tmp_path


@pytest.mark.parametrize("format", WRITTEN)
def test_detections_come_back_as_annotations(results: Path, format: str) -> None:
    out, plan = write_annotations(results, format)
    assert out == results / "annotations" / format
    assert plan.losses == ()
    assert list(out.rglob("*.png")) == []  # images stay where they are
    for image in plan.splits["images"]:
        folder = {"voc": "JPEGImages", "yolo": "images/images"}.get(format, "images")
        (out / folder / image.name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30)).save(out / folder / image.name)
    if format == "label_studio":  # predictions are no annotations
        path = out / "images.json"
        tasks = json.loads(path.read_text(encoding="utf-8"))
        assert [task["predictions"][0]["result"] for task in tasks if "sub/" in str(task)] == [[]]
        assert tasks[0]["predictions"][0]["result"][0]["score"] == 0.9
        path.write_text(json.dumps([_accepted(task) for task in tasks]))
    assert recognise(out).format.name == format
    (source,) = FORMATS[format].splits(out).values()
    found = sorted(
        [(obj.name, tuple(round(side, 6) for side in obj.box)) for obj in image.objects]
        for image in read_images(source)
    )
    assert found == sorted([(name, box) for name, _, box in each] for each in DETECTIONS.values())


def _accepted(task: dict) -> dict:
    return {"data": task["data"], "annotations": task["predictions"]}


def test_a_second_run_replaces_the_first(results: Path) -> None:
    out, _ = write_annotations(results, "labelme")
    (out / "left.json").write_text("{}")
    assert write_annotations(results, "labelme")[0] == out
    assert sorted(path.name for path in out.rglob("*.json")) == ["a.json", "b.json", "c.json"]


def test_a_folder_without_results(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="this is no folder of results"):
        write_annotations(tmp_path, "voc")


def test_no_detections_at_all(results: Path) -> None:
    shutil.copy(results / "detections.jsonl", results / "old")
    (results / "detections.jsonl").write_text("")
    for format in WRITTEN:
        _, plan = write_annotations(results, format)
        assert plan.splits["images"] == []
