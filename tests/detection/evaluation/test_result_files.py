"""Files of results by hand: ids, rows, order and image sets."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from resdet.datasets.catalog import DataSplit
from resdet.datasets.formats.coco import CocoSource
from resdet.datasets.formats.format import Source
from resdet.datasets.formats.voc import VocSource
from resdet.detection.evaluation.result_files import write_coco, write_voc
from resdet.detection.evaluation.result_ids import ResultIds, result_ids
from resdet.detection.structures import Annotation, Detections, Record

NAMES = ("=cmd()", "[bold]été[/bold]")
OBJECTS = Annotation(
    torch.tensor([[10.0, 20, 30, 60], [0, 0, 4, 4]]),
    torch.tensor([1, 0]),
    torch.tensor([False, True]),
    torch.tensor([700.5, torch.nan], dtype=torch.float64),
)
RECORDS = (
    Record("10", Path("sub/b.jpg"), (200, 100), OBJECTS),
    Record("9", Path("sub/a.jpg"), (50, 60)),
)
SPLIT = DataSplit(RECORDS, NAMES)
FOUND = {
    "10": Detections(
        torch.tensor([[10.5, 20, 30, 60], [0, 0, 5, 5]]),
        torch.tensor([0.25, 0.125]),
        torch.tensor([1, 0]),
    ),
    "9": Detections(torch.tensor([[1.0, 2, 3, 4]]), torch.tensor([0.25]), torch.tensor([1])),
}


def coco_file(path: Path, **categories: object) -> Source:
    images = [{"id": int(record.image_id), "file_name": record.path.name} for record in RECORDS]
    named = [{"id": key, "name": name} for name, key in categories.items()]
    path.write_text(json.dumps({"images": images, "annotations": [], "categories": named}))
    return CocoSource(images=path.parent, annotations=path)


def load(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_numbers_from_1_without_coco_ids(tmp_path: Path) -> None:
    """Images by id, numbers by value."""
    ids = result_ids(SPLIT, [VocSource(root=tmp_path, split="val")])
    assert (dict(ids.images), list(ids.categories)) == ({"9": 1, "10": 2}, [1, 2])
    assert "no COCO ids" in ids.notes[0]


def test_ids_of_one_file_and_of_several(tmp_path: Path) -> None:
    one = coco_file(tmp_path / "one.json", **{NAMES[0]: 7, NAMES[1]: 5})
    ids = result_ids(SPLIT, [one])
    assert (dict(ids.images), list(ids.categories)) == ({"9": 9, "10": 10}, [7, 5])
    assert ids.notes == ()
    other = coco_file(tmp_path / "other.json", **{NAMES[1]: 7})
    ids = result_ids(SPLIT, [one, other])
    assert (dict(ids.images), list(ids.categories)) == ({"9": 9, "10": 10}, [1, 2])
    assert "different ids" in ids.notes[0]


def test_images_of_the_same_id_in_two_files_are_numbered(tmp_path: Path) -> None:
    """The second file's got the number of their source before their ids when they were read."""
    files = [coco_file(tmp_path / f"{n}.json", **{NAMES[0]: 1, NAMES[1]: 2}) for n in range(2)]
    second = tuple(replace(record, image_id=f"2:{record.image_id}") for record in RECORDS)
    ids = result_ids(DataSplit((*RECORDS, *second), NAMES), files)
    assert len(set(ids.images.values())) == len(ids.images) == 4
    assert {*ids.images} == {"9", "10", "2:9", "2:10"} and list(ids.categories) == [1, 2]
    assert ids.notes == (
        "the COCO files give images the same ids: images are numbered, and classes by label",
    )


def test_a_class_that_is_no_category_gets_the_next_number(tmp_path: Path) -> None:
    ids = result_ids(SPLIT, [coco_file(tmp_path / "one.json", **{NAMES[1]: 90})])
    assert list(ids.categories) == [91, 90]
    assert ids.notes == ("class '=cmd()' is no category of the COCO files: written as 91",)


def test_coco_results_and_ground_truth(tmp_path: Path) -> None:
    ids = ResultIds({"9": 900, "10": "x"}, [3, 4])
    results, truth = write_coco(FOUND, SPLIT, ids, tmp_path)
    assert load(results) == [
        {"image_id": 900, "category_id": 4, "bbox": [1.0, 2.0, 2.0, 2.0], "score": 0.25},
        {"image_id": "x", "category_id": 4, "bbox": [10.5, 20.0, 19.5, 40.0], "score": 0.25},
        {"image_id": "x", "category_id": 3, "bbox": [0.0, 0.0, 5.0, 5.0], "score": 0.125},
    ]
    content = load(truth)
    assert content["images"][0] == {"id": "x", "file_name": "b.jpg", "width": 100, "height": 200}
    assert content["categories"] == [{"id": 3, "name": NAMES[0]}, {"id": 4, "name": NAMES[1]}]
    assert [
        (e["id"], e["image_id"], e["category_id"], e["bbox"], e["area"], e["iscrowd"])
        for e in content["annotations"]
    ] == [
        (1, "x", 4, [10.0, 20.0, 20.0, 40.0], 700.5, 0),
        (2, "x", 3, [0.0, 0.0, 4.0, 4.0], 16.0, 1),
    ]


def test_images_without_annotations_have_no_ground_truth(tmp_path: Path) -> None:
    split = DataSplit(RECORDS, NAMES, annotated=False)
    _, info = write_coco(FOUND, split, ResultIds({"9": 1, "10": 2}, [1, 2]), tmp_path)
    assert info.name == "image_info.json"
    assert set(load(info)) == {"info", "images", "categories"}


def test_nothing_found(tmp_path: Path) -> None:
    empty = DataSplit((), NAMES)
    results, truth = write_coco({}, empty, ResultIds({}, [1, 2]), tmp_path)
    assert load(results) == [] and load(truth)["annotations"] == []
    paths = write_voc({}, ["cat"], "test", tmp_path)
    assert [path.read_text() for path in paths] == [""]


def test_voc_files_by_hand(tmp_path: Path) -> None:
    """Pixels from 1, the last one included; the best first, of equal scores by image id."""
    paths = write_voc(FOUND, ["cat", "dog"], "test", tmp_path / "Main")
    assert [path.name for path in paths] == ["comp4_det_test_cat.txt", "comp4_det_test_dog.txt"]
    cat, dog = (path.read_text().splitlines() for path in paths)
    assert cat == ["10 0.125000000000 1.000000 1.000000 5.000000 5.000000"]
    assert dog == [
        "9 0.250000000000 2.000000 3.000000 3.000000 4.000000",
        "10 0.250000000000 11.500000 21.000000 30.000000 60.000000",
    ]
