"""The ILSVRC DET average precision equals that of the development kit."""

from __future__ import annotations

import math
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from resdet.detection.evaluation.columns import gather
from resdet.detection.evaluation.detection import evaluate
from resdet.detection.evaluation.ilsvrc import least_overlaps, outcomes
from resdet.detection.evaluation.voc import area_ap, precision_recall
from resdet.tests.detection.evaluation.test_voc import Box, Case, Det, Obj, as_detections, as_record

CLASSES = ("ant", "bee")


def aps(case: Case) -> list[float]:
    records = [as_record(name, objects) for name, (objects, _) in case.items()]
    found = {name: as_detections(detections) for name, (_, detections) in case.items()}
    rows = evaluate(found, records, CLASSES, coco=None, ilsvrc=True).per_class
    return [row.ilsvrc_ap for row in rows]


def side(box: Box, axis: int) -> int:
    return box[axis + 2] - box[axis] + 1


def kit_ap(case: Case, label: int) -> float:
    """``eval_detection.m`` as plain loops, in its pixels from 1 that include the last one."""
    ranked: list[tuple[float, bool]] = []
    total = 0
    for _, (objects, detections) in sorted(case.items()):
        own = [obj.box for obj in objects if obj.label == label]
        total += len(own)
        taken = [False] * len(own)
        mine = sorted((d for d in detections if d.label == label), key=lambda d: -d.score)
        for detection in mine:
            box, best, chosen = detection.box, -math.inf, -1
            for k, truth in enumerate(own):
                if taken[k]:
                    continue
                w = min(box[2], truth[2]) - max(box[0], truth[0]) + 1
                h = min(box[3], truth[3]) - max(box[1], truth[1]) + 1
                if w <= 0 or h <= 0:
                    continue
                area = side(truth, 0) * side(truth, 1)
                union = side(box, 0) * side(box, 1) + area - w * h
                needed = min(0.5, area / ((side(truth, 0) + 10) * (side(truth, 1) + 10)))
                if w * h / union >= needed and w * h / union > best:
                    best, chosen = w * h / union, k
            if chosen >= 0:
                taken[chosen] = True
            ranked.append((detection.score, chosen >= 0))
    if total == 0:
        return math.nan
    ranked.sort(key=lambda pair: -pair[0])
    right = np.cumsum([hit for _, hit in ranked])
    recall = [0.0, *(right / total), 1.0]
    precision = [0.0, *(right / np.arange(1, len(ranked) + 1)), 0.0]
    for i in range(len(precision) - 2, -1, -1):
        precision[i] = max(precision[i], precision[i + 1])
    return sum(
        (recall[i] - recall[i - 1]) * precision[i]
        for i in range(1, len(recall))
        if recall[i] != recall[i - 1]
    )


def test_the_least_overlap_by_hand() -> None:
    """10 x 10 pixels: 100 / 400; 30 x 40: 1200 / 2000, which 0.5 limits."""
    boxes = np.array([[0.0, 0.0, 10.0, 10.0], [5.0, 5.0, 35.0, 45.0]])
    assert least_overlaps(boxes).tolist() == [0.25, 0.5]


def test_a_small_object_needs_less_overlap() -> None:
    """IoU 50 / 150 = 1/3: enough for 10 x 10 pixels here, too little for VOC."""
    case: Case = {"a": ([Obj((1, 1, 10, 10))], [Det((6, 1, 15, 10), 0.9)])}
    assert aps(case)[0] == 1.0
    records = [as_record("a", case["a"][0])]
    plain = evaluate({"a": as_detections(case["a"][1])}, records, CLASSES, coco=None)
    assert plain.per_class[0].voc_ap50 == 0.0
    assert "ilsvrc_ap" not in plain.metrics and math.isnan(plain.per_class[0].ilsvrc_ap)


def test_a_second_detection_takes_another_object() -> None:
    """Both lie nearest to the first object; VOC calls the second one wrong, the kit of DET not."""
    objects = [Obj((1, 1, 100, 100)), Obj((11, 1, 110, 100))]
    detections = [Det((1, 1, 100, 100), 0.9), Det((3, 1, 102, 100), 0.8)]
    assert aps({"a": (objects, detections)})[0] == 1.0
    columns = gather(
        {"a": as_detections(detections)}, [as_record("a", objects)], num_classes=len(CLASSES)
    )
    assert area_ap(precision_recall(columns)[0]) == 0.5


def test_detections_on_ignored_objects_do_not_count() -> None:
    objects = [Obj((1, 1, 50, 50), difficult=True), Obj((61, 61, 99, 99))]
    detections = [Det((1, 1, 50, 50), 0.9), Det((61, 61, 99, 99), 0.5)]
    assert aps({"a": (objects, detections)})[0] == 1.0


def test_nothing() -> None:
    assert all(math.isnan(ap) for ap in aps({"a": ([], [])}))
    assert aps({"a": ([Obj((1, 1, 9, 9))], [])})[0] == 0.0
    columns = gather({}, [], num_classes=2)
    right, counts = outcomes(columns, np.zeros(0, dtype=np.int64))
    assert len(right) == len(counts) == 0


@settings(max_examples=60)
@given(st.integers(0, 10_000))
def test_equals_the_kit(seed: int) -> None:
    """Crowded images of small and large objects; scores are all different."""
    random = Random(seed)  # noqa: S311  no secret

    def box() -> Box:
        x, y = random.randint(1, 60), random.randint(1, 60)
        return (x, y, x + random.randint(2, 35), y + random.randint(2, 35))

    def near(one: Box) -> Box:
        x1, y1, x2, y2 = (value + random.randint(-4, 4) for value in one)
        return (max(x1, 1), max(y1, 1), max(x2, max(x1, 1) + 1), max(y2, max(y1, 1) + 1))

    case: Case = {}
    for name in "ab":
        objects = [Obj(box(), random.randrange(2)) for _ in range(random.randint(0, 8))]
        places = [near(obj.box) for obj in objects for _ in range(random.randint(0, 3))]
        places += [box() for _ in range(random.randint(0, 4))]
        scores = random.sample(range(1000), len(places))
        detections = [
            Det(place, score / 1000, random.randrange(2))
            for place, score in zip(places, scores, strict=True)
        ]
        case[name] = (objects, detections)
    expected = [kit_ap(case, label) for label in range(2)]
    assert aps(case) == pytest.approx(expected, nan_ok=True)
