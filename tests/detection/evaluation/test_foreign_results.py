"""Detections from files of other tools: the numbers of pycocotools, and faults by their place."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from resdet.detection.errors import ConfigError, DataError
from resdet.detection.evaluation.coco import COCO_METRICS
from resdet.detection.evaluation.detection import evaluate_columns
from resdet.detection.evaluation.foreign_results import read_columns, read_truth
from resdet.tests.detection.evaluation.test_coco import random_set, reference

TRUTH: dict[str, Any] = {
    "images": [{"id": 10, "file_name": "sub/a.jpg"}, {"id": 9, "file_name": "b.jpg"}],
    "categories": [{"id": 18, "name": "dog"}, {"id": 3, "name": "hot dog"}],
    "annotations": [
        {"id": 1, "image_id": 10, "category_id": 3, "bbox": [-5, 2, 30.5, 40], "area": 7},
        {"id": 2, "image_id": 9, "category_id": 18, "bbox": [0, 0, 4, 5], "iscrowd": 1},
    ],
}
RESULT = {"image_id": 10, "category_id": 3, "bbox": [0.5, 2, 30, 40], "score": 0.5}


def write(folder: Path, content: object, name: str = "results.json") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize("seed", range(2))
def test_the_numbers_of_pycocotools(seed: int, tmp_path: Path) -> None:
    stats, _ = reference(tmp_path, *random_set(seed, images=30))
    truth = read_truth(tmp_path / "truth.json", "val")
    columns = read_columns(tmp_path / "results.json", truth)
    metrics = evaluate_columns(columns, truth.classes).metrics
    ours = [metrics[name] for name in COCO_METRICS]
    assert 0.05 < stats[0] < 0.95
    np.testing.assert_allclose(ours, stats, rtol=0, atol=1e-12)


def test_coco_by_hand(tmp_path: Path) -> None:
    """Boxes are not clipped, classes in the order of the categories, images by id."""
    truth = read_truth(write(tmp_path, TRUTH, "truth.json"), "val")
    assert (truth.image_ids, truth.classes) == (("9", "10"), ("dog", "hot dog"))
    assert truth.columns.boxes.tolist() == [[0, 0, 4, 5], [-5, 2, 25.5, 42]]
    assert truth.columns.areas.tolist() == [20, 7]
    assert truth.columns.ignore.tolist() == [True, False]
    other = RESULT | {"image_id": 9, "category_id": 18, "score": 1}
    found = read_columns(write(tmp_path, [RESULT, other]), truth).found
    assert found.images.tolist() == [0, 1]
    assert found.labels.tolist() == [0, 1]
    assert found.scores.tolist() == [1, 0.5]
    assert found.boxes[1].tolist() == [0.5, 2, 30.5, 42]


def test_results_of_infer_go_by_name(tmp_path: Path) -> None:
    truth = read_truth(write(tmp_path, TRUTH, "truth.json"), "val")
    line = {"file": "a.jpg", "width": 9, "height": 9}
    line["detections"] = [{"label": "dog", "score": 0.25, "box": [1, 2, 3, 4]}]
    failed = {"file": "b.jpg", "error": "cut"}
    text = "".join(json.dumps(each) + "\n" for each in (line, failed))
    lines = read_columns(write(tmp_path, text, "detections.jsonl"), truth).found
    exported = {
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}],
        "annotations": [{"image_id": 1, "category_id": 2, "bbox": [1, 2, 2, 2], "score": 0.25}],
    }
    coco = read_columns(write(tmp_path, exported, "detections.coco.json"), truth).found
    for found in (lines, coco):
        assert found.images.tolist() == [1] and found.labels.tolist() == [0]
        assert found.boxes.tolist() == [[1, 2, 3, 4]] and found.scores.tolist() == [0.25]


def test_files_of_voc(tmp_path: Path) -> None:
    """Pixels from 1, the last one included; the longest class that ends the name."""
    truth = read_truth(write(tmp_path, TRUTH, "truth.json"), "val")
    folder = tmp_path / "Main"
    folder.mkdir()
    write(folder, "10 0.5 1 2 3 4\n9 0.25 5 6 7 8\n", "comp4_det_val_hot dog.txt")
    write(folder, "", "comp4_det_val_dog.txt")
    found = read_columns(folder, truth).found
    assert found.labels.tolist() == [1, 1]
    assert found.boxes.tolist() == [[4, 5, 7, 8], [0, 1, 3, 4]]
    write(folder, "", "comp3_det_val_dog.txt")
    with pytest.raises(DataError, match="several files of the class 'dog'"):
        read_columns(folder, truth)


def test_annotations_of_voc(tmp_path: Path) -> None:
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (tmp_path / name).mkdir(parents=True)
    Image.new("RGB", (64, 48)).save(tmp_path / "JPEGImages" / "a.jpg")
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>64</xmax><ymax>48</ymax></bndbox>"
    xml = f"<annotation><object><name>dog</name>{box}</object></annotation>"
    write(tmp_path, xml, "Annotations/a.xml")
    write(tmp_path, "a\n", "ImageSets/Main/test.txt")
    truth = read_truth(tmp_path, "test")
    folder = tmp_path / "Main"
    folder.mkdir()
    write(folder, "a 0.5 1 1 64 48\n", "comp4_det_test_dog.txt")
    metrics = evaluate_columns(read_columns(folder, truth), truth.classes).metrics
    assert metrics["voc_ap50"] == 1 and metrics["coco_ap"] == pytest.approx(1)


def changed(**values: object) -> list[dict[str, Any]]:
    return [RESULT, RESULT | values]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("[", "cannot be read as JSON"),
        ({"results": []}, "expected a list of results"),
        ([RESULT, 5], "result 2: "),
        ([{"image_id": 10}], "result 1: 'category_id' is missing"),
        (changed(image_id=7), "result 2: the annotations have no image '7'"),
        (changed(category_id=7), "result 2: the annotations have no category '7'"),
        (changed(bbox=[1, 2, 3]), "result 2: not enough values"),
        (changed(bbox=[1, 2, 3, "4"]), "result 2: '4' is not a number"),
        (changed(bbox=[1, 2, 3, 10**400]), "result 2: int too large"),
        (changed(score=None), "result 2: None is not a number"),
        (changed(bbox=[1, 2, -3, 4]), "box with x2 < x1"),
        ('[{"image_id": 10, "category_id": 3, "bbox": [0, 0, 1, 1], "score": NaN}]', "not finite"),
    ],
)
def test_faults_are_named(tmp_path: Path, content: object, reason: str) -> None:
    truth = read_truth(write(tmp_path, TRUTH, "truth.json"), "val")
    with pytest.raises(DataError) as caught:
        read_columns(write(tmp_path, content), truth)
    assert reason in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_another_encoding_is_named(tmp_path: Path, encoding: str) -> None:
    truth = read_truth(write(tmp_path, TRUTH, "truth.json"), "val")
    results = tmp_path / "found.json"
    folder = tmp_path / "voc"
    folder.mkdir()
    for path in (results, folder / "comp4_det_test_dog.txt"):
        path.write_bytes("é 0.5 1 1 64 48".encode(encoding))
    for place in (results, folder):
        with pytest.raises(DataError, match=r"cannot be read.*: line 1 is not UTF-8"):
            read_columns(place, truth)


def test_nothing_found_and_nothing_there(tmp_path: Path) -> None:
    truth = read_truth(write(tmp_path, TRUTH, "truth.json"), "val")
    metrics = evaluate_columns(read_columns(write(tmp_path, []), truth), truth.classes).metrics
    assert metrics["voc_ap50"] == 0
    with pytest.raises(ConfigError, match="no such file"):
        read_columns(tmp_path / "none.json", truth)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match="no file"):
        read_columns(empty, truth)
    wrong = copy.deepcopy(TRUTH)
    wrong["annotations"][0]["category_id"] = 5
    with pytest.raises(DataError, match="category_id 5 is not in `categories`"):
        read_truth(write(tmp_path, wrong, "wrong.json"), "val")
