"""The mean boxes of the classes, worked by hand, and their boxes in images of other sizes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from resdet.detection.evaluation.localization import evaluate_located
from resdet.detection.evaluation.localization_baseline import locate_by_mean_box, mean_boxes
from resdet.detection.structures import Annotation, Record

NAMES = ("ant", "bee", "cat")


def record(
    name: str, label: int | None, size: tuple[int, int], *boxes: tuple[float, float, float, float]
) -> Record:
    annotation = Annotation(
        torch.tensor(boxes).float().reshape(-1, 4),
        torch.full((len(boxes),), label or 0),
        torch.zeros(len(boxes), dtype=torch.bool),
    )
    return Record(name, Path(f"{name}.jpg"), size, annotation, label)


TRAIN = [
    record("a", 0, (100, 200), (0, 0, 100, 50)),  # 0 0 .5 .5
    record("b", 0, (10, 20), (10, 5, 20, 10), (0, 5, 20, 10)),  # .5 .5 1 1 and 0 .5 1 1
    record("c", 2, (8, 4), (1, 2, 3, 4)),  # .25 .25 .75 .5
    record("d", 1, (0, 0)),  # without boxes its size need not be known
]


def test_by_hand() -> None:
    boxes = mean_boxes(TRAIN, NAMES)
    assert boxes.dtype == torch.float32 and boxes.shape == (3, 4)
    assert boxes[0].tolist() == pytest.approx([0.5 / 3, 1 / 3, 2.5 / 3, 2.5 / 3])
    assert boxes[1].isnan().all()
    assert boxes[2].tolist() == [0.25, 0.25, 0.75, 0.5]


def test_the_mean_box_of_its_class_in_each_image() -> None:
    val = [
        record("x", 2, (200, 100), (25, 50, 75, 100)),
        record("y", 1, (50, 50), (0, 0, 9, 9)),
        record("z", 2, (8, 8), (2, 2, 6, 8)),
    ]
    found = locate_by_mean_box(val, mean_boxes(TRAIN, NAMES))
    assert found["x"].true_class.boxes.tolist() == [[25, 50, 75, 100]]
    assert found["x"].true_class.labels.tolist() == [2] and len(found["x"].predicted) == 0
    assert len(found["y"].true_class) == 0
    assert found["z"].true_class.boxes.tolist() == [[2, 2, 6, 4]]
    metrics = evaluate_located(found, val, NAMES).metrics
    assert metrics["true_class_error"] == pytest.approx(2 / 3)  # z: 8 of 24 px²
    assert metrics["mean_true_class_iou"] == pytest.approx((1 + 0 + 1 / 3) / 3)


def test_without_records() -> None:
    assert mean_boxes([], NAMES).isnan().all()
    assert locate_by_mean_box([], mean_boxes([], NAMES)) == {}


def test_an_image_of_unknown_size_or_class_is_an_error() -> None:
    unknown = record("u", 0, (0, 0), (0, 0, 1, 1))
    with pytest.raises(ValueError, match=r"^u\.jpg: the size of the image is not known$"):
        mean_boxes([unknown], NAMES)
    with pytest.raises(ValueError, match=r"^u\.jpg: the size of the image is not known$"):
        locate_by_mean_box([unknown], mean_boxes(TRAIN, NAMES))
    with pytest.raises(ValueError, match=r"^n\.jpg: the record has no class$"):
        locate_by_mean_box([record("n", None, (4, 4))], mean_boxes(TRAIN, NAMES))
