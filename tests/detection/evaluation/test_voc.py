"""The VOC average precision equals that of the development kit."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from resdet.detection.evaluation.columns import gather
from resdet.detection.evaluation.detection import evaluate
from resdet.detection.evaluation.report import write_report
from resdet.detection.evaluation.voc import (
    FLOAT_RECALLS,
    PrecisionRecall,
    area_ap,
    best_objects,
    eleven_point_ap,
    precision_recall,
)
from resdet.detection.structures import Annotation, Detections, Record

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Obj:
    """An object as the kit writes it: pixels from 1, the last one included."""

    box: Box
    label: int = 0
    difficult: bool = False


@dataclass(frozen=True)
class Det:
    box: Box
    score: float
    label: int = 0


Case = dict[str, tuple[list[Obj], list[Det]]]


def ours(box: Box) -> tuple[int, int, int, int]:
    return (box[0] - 1, box[1] - 1, box[2], box[3])


def as_record(image_id: str, objects: list[Obj]) -> Record:
    annotation = Annotation(
        torch.tensor([ours(obj.box) for obj in objects], dtype=torch.float32).reshape(-1, 4),
        torch.tensor([obj.label for obj in objects], dtype=torch.int64),
        torch.tensor([obj.difficult for obj in objects], dtype=torch.bool),
    )
    return Record(image_id, Path(image_id), (100, 100), annotation)


def as_detections(found: list[Det]) -> Detections:
    return Detections(
        torch.tensor([ours(det.box) for det in found], dtype=torch.float32).reshape(-1, 4),
        torch.tensor([det.score for det in found], dtype=torch.float32),
        torch.tensor([det.label for det in found], dtype=torch.int64),
    )


def measure(case: Case, classes: int = 1) -> list[tuple[float, float]]:
    """(area AP, 11-point AP) of each class."""
    records = [as_record(image_id, objects) for image_id, (objects, _) in case.items()]
    detections = {image_id: as_detections(found) for image_id, (_, found) in case.items()}
    curves = precision_recall(gather(detections, records, classes))
    return [(area_ap(curve), eleven_point_ap(curve)) for curve in curves]


def kit_overlap(a: Box, b: Box) -> float:
    """Pixels shared by two inclusive boxes over the pixels in either."""
    width = min(a[2], b[2]) - max(a[0], b[0]) + 1
    height = min(a[3], b[3]) - max(a[1], b[1]) + 1
    if width <= 0 or height <= 0:
        return 0.0
    pixels_a = (a[2] - a[0] + 1) * (a[3] - a[1] + 1)
    pixels_b = (b[2] - b[0] + 1) * (b[3] - b[1] + 1)
    return width * height / (pixels_a + pixels_b - width * height)


def kit_marks(case: Case, label: int) -> tuple[list[bool], int]:
    """Right or wrong of each counted detection by falling score, and how many are to be found."""
    ranked = []
    for image_id in sorted(case):
        for position, det in enumerate(case[image_id][1]):
            if det.label == label:
                ranked.append((-det.score, image_id, position, det))
    ranked.sort(key=lambda entry: entry[:3])
    used: set[tuple[str, int]] = set()
    marks = []
    for _, image_id, _, det in ranked:
        largest, chosen, difficult = 0.0, -1, False
        for number, obj in enumerate(case[image_id][0]):
            overlap = kit_overlap(det.box, obj.box)
            if obj.label == label and overlap > largest:
                largest, chosen, difficult = overlap, number, obj.difficult
        if largest < 0.5:
            marks.append(False)
        elif not difficult:
            marks.append((image_id, chosen) not in used)
            used.add((image_id, chosen))
    to_find = sum(
        obj.label == label and not obj.difficult for objs, _ in case.values() for obj in objs
    )
    return marks, to_find


def kit_ap(marks: list[bool], to_find: int) -> tuple[float, float]:
    """Area and 11-point AP from the definition, point by point."""
    if to_find == 0:
        return math.nan, math.nan
    points = []  # (number found, precision)
    for taken in range(1, len(marks) + 1):
        points.append((sum(marks[:taken]), sum(marks[:taken]) / taken))
    area = 0.0
    for found in range(1, to_find + 1):
        area += max((p for n, p in points if n >= found), default=0.0) / to_find
    eleven = 0.0
    for tenth in range(11):
        eleven += max((p for n, p in points if 10 * n >= tenth * to_find), default=0.0) / 11
    return area, eleven


def same(a: float, b: float) -> bool:
    return (math.isnan(a) and math.isnan(b)) or math.isclose(a, b, rel_tol=1e-12, abs_tol=1e-15)


CLASSES = 3
corner = st.integers(1, 8)
side = st.integers(0, 5)
boxes = st.builds(lambda x, y, w, h: (x, y, x + w, y + h), corner, corner, side, side)
labels = st.integers(0, CLASSES - 2)  # the last class stays empty
objects = st.builds(Obj, boxes, labels, st.booleans())
# Few different scores, all exact in float32: ties are common.
found = st.builds(Det, boxes, st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), labels)
images = st.tuples(st.lists(objects, max_size=5), st.lists(found, max_size=8))
cases = st.lists(images, max_size=4).map(lambda c: {f"image {i}": e for i, e in enumerate(c)})


@st.composite
def near_misses(draw: st.DrawFn) -> Case:
    """Detections that are shifted copies of objects, so that most overlaps are near one half."""
    case = draw(cases)
    shifts = st.integers(-1, 1)
    for objs, dets in case.values():
        for obj in objs:
            dx, dy = draw(shifts), draw(shifts)
            x1, y1, x2, y2 = obj.box
            box = (x1 + dx, y1 + dy, x2 + dx, y2 + dy)
            dets.append(Det(box, draw(st.sampled_from([0.25, 0.5])), obj.label))
    return case


@settings(max_examples=300)
@given(near_misses())
def test_equals_the_definition(case: Case) -> None:
    for label, (area, eleven) in enumerate(measure(case, CLASSES)):
        area_wanted, eleven_wanted = kit_ap(*kit_marks(case, label))
        assert same(area, area_wanted)
        assert same(eleven, eleven_wanted)


@settings(max_examples=100)
@given(near_misses(), st.randoms(use_true_random=False))
def test_the_order_of_images_changes_nothing(case: Case, random: Random) -> None:
    ids = list(case)
    random.shuffle(ids)
    mixed = {image_id: case[image_id] for image_id in ids}
    for before, after in zip(measure(case, CLASSES), measure(mixed, CLASSES), strict=True):
        assert same(before[0], after[0])
        assert same(before[1], after[1])


@settings(max_examples=100)
@given(boxes, boxes)
def test_iou_is_the_kits_with_its_plus_one(a: Box, b: Box) -> None:
    columns = gather({"i": as_detections([Det(a, 1.0)])}, [as_record("i", [Obj(b)])], 1)
    overlap, target = best_objects(columns)
    assert overlap.tolist() == [kit_overlap(a, b)]
    assert target.tolist() == [0 if kit_overlap(a, b) > 0 else -1]


ONE = (11, 11, 20, 20)
TWO = (41, 41, 50, 50)
FAR = (71, 71, 80, 80)


def test_worked_by_hand() -> None:
    # Right, wrong, right of three objects: precision 1, 1/2, 2/3 at recall 1/3, 1/3, 2/3.
    case: Case = {
        "a": ([Obj(ONE), Obj(TWO)], [Det(ONE, 0.9), Det(FAR, 0.8)]),
        "b": ([Obj(ONE)], [Det(ONE, 0.7)]),
    }
    [(area, eleven)] = measure(case)
    assert area == pytest.approx((1 + 2 / 3) / 3)
    # Recalls 0, .1, .2, .3 reach precision 1; .4, .5, .6 reach 2/3; .7 to 1 are never reached.
    assert eleven == pytest.approx((4 * 1 + 3 * 2 / 3) / 11)


def test_second_detection_of_an_object_is_wrong() -> None:
    case: Case = {"a": ([Obj(ONE), Obj(TWO)], [Det(ONE, 0.9), Det(ONE, 0.8), Det(TWO, 0.7)])}
    [(area, _)] = measure(case)
    assert area == pytest.approx((1 + 2 / 3) / 2)


def test_second_detection_does_not_move_on_to_a_free_object() -> None:
    # The second box overlaps both objects by more than half, the taken one more.
    wide, beside = (1, 1, 20, 10), (4, 1, 23, 10)
    case: Case = {"a": ([Obj(wide), Obj(beside)], [Det(wide, 0.9), Det((2, 1, 21, 10), 0.8)])}
    [(area, _)] = measure(case)
    assert area == pytest.approx(1 / 2)


def test_difficult_objects_are_neither_right_nor_wrong() -> None:
    clean: Case = {"a": ([Obj(ONE)], [Det(ONE, 0.5)])}
    with_difficult: Case = {
        "a": ([Obj(TWO, difficult=True), Obj(ONE)], [Det(TWO, 0.9), Det(TWO, 0.8), Det(ONE, 0.5)])
    }
    assert measure(with_difficult) == measure(clean) == [(1.0, pytest.approx(1.0))]
    missed: Case = {"a": ([Obj(TWO, difficult=True), Obj(ONE)], [Det(ONE, 0.5)])}
    assert measure(missed) == measure(clean)


def test_a_difficult_object_takes_a_detection_from_a_plain_one() -> None:
    plain, difficult = (1, 1, 20, 10), (3, 1, 22, 10)
    case: Case = {"a": ([Obj(plain), Obj(difficult, difficult=True)], [Det((3, 1, 22, 10), 0.9)])}
    assert measure(case) == [(0.0, 0.0)]


@pytest.mark.parametrize(("height", "ap"), [(10, 1.0), (9, 0.0)])
def test_an_overlap_of_exactly_one_half_is_right(height: int, ap: float) -> None:
    case: Case = {"a": ([Obj((1, 1, 10, 20))], [Det((1, 1, 10, height), 0.9)])}
    assert measure(case)[0][0] == ap


def test_eleven_points_are_exact_tenths() -> None:
    # Three of ten found at precision 1, then a miss, then a fourth: recall 0.3 counts as reached
    # by the third, although 3/10 < 0.30000000000000004, the fourth step of 0.1 in floating point.
    spots = [(1 + 9 * i, 1, 8 + 9 * i, 8) for i in range(10)]
    hits = [Det(spot, 0.9 - 0.1 * i) for i, spot in enumerate(spots[:3])]
    case: Case = {
        "a": ([Obj(spot) for spot in spots], [*hits, Det((1, 50, 8, 58), 0.5), Det(spots[3], 0.4)])
    }
    assert measure(case)[0][1] == pytest.approx((4 * 1 + 4 / 5) / 11)


def ten_objects(right: int) -> Case:
    """Ten objects, of which the best ``right`` detections find as many; then one that is wrong."""
    boxes = [(20 * n + 1, 1, 20 * n + 10, 10) for n in range(10)]
    dets = [Det(box, 0.9) for box in boxes[:right]] + [Det((1, 50, 10, 60), 0.5)]
    return {"a": ([Obj(box) for box in boxes], dets)}


@pytest.mark.parametrize(
    ("right", "matlab", "python"), [(3, 3, 3), (6, 7, 6), (7, 8, 7), (4, 5, 5)]
)
def test_recalls_in_floating_point_by_hand(right: int, matlab: int, python: int) -> None:
    """3/10 is below the kit's 0:0.1:1, 6/10 and 7/10 are below the ports' arange as well."""
    case = ten_objects(right)
    records = [as_record("a", case["a"][0])]
    (curve,) = precision_recall(gather({"a": as_detections(case["a"][1])}, records, 1))
    assert eleven_point_ap(curve) == pytest.approx((right + 1) / 11)
    assert eleven_point_ap(curve, FLOAT_RECALLS["matlab"]) == pytest.approx(matlab / 11)
    assert eleven_point_ap(curve, FLOAT_RECALLS["python"]) == pytest.approx(python / 11)


@settings(max_examples=200)
@given(st.lists(st.booleans(), max_size=40), st.integers(1, 60))
def test_floating_point_recalls_equal_the_loop_of_the_kit(marks: list[bool], extra: int) -> None:
    """``for t: p = max(prec(rec >= t))`` with tp / npos in double precision."""
    right = np.cumsum(np.array(marks, dtype=np.int64))
    objects = int(sum(marks)) + extra
    curve = PrecisionRecall(np.linspace(1, 0, len(marks)), right, objects, 0, len(marks))
    recall, precision = right / objects, curve.precision
    for recalls in FLOAT_RECALLS.values():
        points = [max(precision[recall >= level], default=0.0) for level in recalls.tolist()]
        assert eleven_point_ap(curve, recalls) == pytest.approx(sum(points) / 11)


def test_another_number_in_floating_point_is_told_beside_the_exact_one(tmp_path: Path) -> None:
    case = ten_objects(6)
    found = {"a": as_detections(case["a"][1])}
    evaluation = evaluate(found, [as_record("a", case["a"][0])], ["box"], coco=None)
    assert evaluation.metrics["voc_ap50_11point"] == pytest.approx(7 / 11)
    (note,) = evaluation.notes
    assert "0.6364 at exact recalls, 0.6364 at those of the VOC kit" in note
    assert "0.5455 at those of its Python ports" in note
    write_report(evaluation, tmp_path)
    recalls = json.loads((tmp_path / "metrics.json").read_text())["voc_ap50_11point_recalls"]
    assert recalls == {"matlab": pytest.approx(7 / 11), "python": pytest.approx(6 / 11)}


def test_scores_are_not_rounded() -> None:
    case: Case = {"a": ([Obj(ONE)], [Det(FAR, 0.90001), Det(ONE, 0.90002)])}
    assert measure(case)[0][0] == 1.0


def test_equal_scores_go_by_image_id_then_position() -> None:
    late: Case = {"b": ([Obj(ONE)], [Det(ONE, 0.5)]), "a": ([], [Det(FAR, 0.5)])}
    assert measure(late)[0][0] == 0.5
    early: Case = {"a": ([Obj(ONE)], [Det(ONE, 0.5)]), "b": ([], [Det(FAR, 0.5)])}
    assert measure(early)[0][0] == 1.0


def test_nothing_at_all() -> None:
    assert measure({}, classes=0) == []
    assert [math.isnan(ap) for ap in measure({}, classes=1)[0]] == [True, True]
    assert measure({"a": ([Obj(ONE)], [])}) == [(0.0, 0.0)]
    assert math.isnan(measure({"a": ([], [Det(ONE, 0.5)])})[0][0])
    assert math.isnan(measure({"a": ([Obj(ONE, difficult=True)], [Det(ONE, 0.5)])})[0][0])


def test_curve_counts() -> None:
    objs = [Obj(ONE), replace(Obj(TWO), difficult=True)]
    dets = [Det(TWO, 0.9), Det(ONE, 0.8), Det(FAR, 0.7)]
    columns = gather({"a": as_detections(dets)}, [as_record("a", objs)], 1)
    [curve] = precision_recall(columns)
    assert (curve.objects, curve.ignored, curve.detections) == (1, 1, 3)
    assert curve.right.tolist() == [1, 1]
    assert curve.recall.tolist() == [1.0, 1.0]
    assert curve.precision.tolist() == [1.0, 0.5]
    assert curve.scores.tolist() == pytest.approx([0.8, 0.7])
