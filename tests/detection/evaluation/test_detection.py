"""Per-class rows, overall metrics, and rejected inputs."""

from __future__ import annotations

import math
from pathlib import Path
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from resdet.detection.errors import DataError
from resdet.detection.evaluation.definitions import DEFINITIONS
from resdet.detection.evaluation.detection import DetectionEvaluation, evaluate
from resdet.detection.structures import Annotation, Detections, Record

ONE = (10.0, 10.0, 40.0, 40.0)
TWO = (60.0, 60.0, 90.0, 95.0)
FAR = (200.0, 200.0, 240.0, 240.0)

Box = tuple[float, float, float, float]


def record(image_id: str, *objects: tuple[Box, int]) -> Record:
    annotation = Annotation(
        torch.tensor([box for box, _ in objects]).reshape(-1, 4),
        torch.tensor([label for _, label in objects], dtype=torch.int64),
        torch.zeros(len(objects), dtype=torch.bool),
    )
    return Record(image_id, Path(f"{image_id}.jpg"), (300, 300), annotation)


def found(*rows: tuple[Box, float, int]) -> Detections:
    return Detections(
        torch.tensor([box for box, _, _ in rows]).reshape(-1, 4),
        torch.tensor([score for _, score, _ in rows], dtype=torch.float32),
        torch.tensor([label for _, _, label in rows], dtype=torch.int64),
    )


RECORDS = [record("a", (ONE, 0), (TWO, 1)), record("b", (ONE, 0))]
DETECTIONS = {
    "a": found((ONE, 0.9, 0), (FAR, 0.8, 0), (TWO, 0.6, 1)),
    "b": found((ONE, 0.7, 0), (FAR, 0.2, 0)),
}


def test_worked_by_hand() -> None:
    result = evaluate(DETECTIONS, RECORDS, ["cat", "dog"])
    cat, dog = result.per_class
    assert (cat.name, cat.objects, cat.ignored, cat.detections) == ("cat", 2, 0, 4)
    assert cat.voc_ap50 == pytest.approx((1 + 2 / 3) / 2)
    assert cat.voc_ap50_11point == pytest.approx((6 * 1 + 5 * 2 / 3) / 11)
    # F1 is 2/3, 1/2, 4/5, 2/3 at the thresholds .9, .8, .7, .2.
    assert cat.threshold == pytest.approx(0.7)
    assert (cat.precision, cat.recall, cat.f1) == pytest.approx((2 / 3, 1.0, 4 / 5))
    assert (dog.voc_ap50, dog.f1) == pytest.approx((1.0, 1.0))
    assert result.metrics["voc_ap50"] == pytest.approx((5 / 6 + 1) / 2)
    assert (result.images, result.notes) == (2, ())


def test_every_metric_has_a_definition() -> None:
    everything = evaluate(DETECTIONS, RECORDS, ["cat", "dog"], ilsvrc=True).metrics
    assert set(everything) == set(DEFINITIONS)
    usual = set(evaluate(DETECTIONS, RECORDS, ["cat", "dog"]).metrics)
    assert usual == set(DEFINITIONS) - {"ilsvrc_ap"}
    without = evaluate(DETECTIONS, RECORDS, ["cat", "dog"], coco=None)
    assert list(without.metrics) == ["voc_ap50", "voc_ap50_11point"]
    assert all(math.isnan(row.coco_ap) for row in without.per_class)


def test_coco_ap50_of_perfect_boxes_equals_voc() -> None:
    perfect = {"a": found((ONE, 0.9, 0), (TWO, 0.6, 1)), "b": found((ONE, 0.7, 0))}
    metrics = evaluate(perfect, RECORDS, ["cat", "dog"]).metrics
    assert metrics["voc_ap50"] == metrics["coco_ap50"] == pytest.approx(1.0)
    assert metrics["coco_ap"] == pytest.approx(1.0)


def test_a_threshold_does_not_part_equal_scores() -> None:
    detections = {"a": found((ONE, 0.5, 0), (FAR, 0.5, 0))}
    [row] = evaluate(detections, [record("a", (ONE, 0))], ["cat"]).per_class
    assert (row.threshold, row.precision, row.recall) == (0.5, 0.5, 1.0)


def test_nothing_right() -> None:
    records = [record("a", (ONE, 0), (ONE, 1))]
    wrong, missing = evaluate({"a": found((FAR, 0.9, 0))}, records, ["cat", "dog"]).per_class
    assert math.isnan(wrong.threshold)
    assert math.isnan(missing.threshold)
    assert (wrong.precision, wrong.recall, wrong.f1) == (0.0, 0.0, 0.0)
    assert math.isnan(missing.precision)
    assert (missing.recall, missing.f1, missing.voc_ap50) == (0.0, 0.0, 0.0)


def without_nan(result: DetectionEvaluation) -> list[tuple[object, ...]]:
    """Rows that compare equal when undefined."""
    return [
        tuple("nan" if value != value else value for value in vars(row).values())
        for row in result.per_class
    ]


scores = st.sampled_from([0.25, 0.5, 0.75])
places = st.sampled_from([ONE, TWO, FAR, (12.0, 12.0, 40.0, 40.0)])
random_images = st.tuples(
    st.lists(st.tuples(places, st.integers(0, 1)), max_size=3),
    st.lists(st.tuples(places, scores, st.integers(0, 1)), max_size=4),
)


@settings(max_examples=30)
@given(st.lists(random_images, min_size=1, max_size=3), st.randoms(use_true_random=False))
def test_metamorphic(images: list, random: Random) -> None:
    records = [record(str(i), *objects) for i, (objects, _) in enumerate(images)]
    detections = {str(i): found(*rows) for i, (_, rows) in enumerate(images)}
    result = evaluate(detections, records, ["cat", "dog"])

    wider = evaluate(detections, records, ["cat", "dog", "never seen"])
    assert without_nan(wider)[:2] == without_nan(result)
    assert math.isnan(wider.per_class[2].voc_ap50)
    assert wider.metrics == pytest.approx(result.metrics, nan_ok=True)

    random.shuffle(records)
    mixed = evaluate(dict(reversed(detections.items())), records, ["cat", "dog"])
    assert without_nan(mixed) == without_nan(result)
    assert mixed.metrics == pytest.approx(result.metrics, nan_ok=True, abs=0, rel=0)


def test_empty_everything() -> None:
    for records, detections in (
        ([], {}),
        ([record("a")], {"a": Detections.empty()}),
        ([record("a")], {"a": found((ONE, 0.5, 0))}),
    ):
        result = evaluate(detections, records, ["cat"])
        assert all(math.isnan(value) for value in result.metrics.values())
        [row] = result.per_class
        assert math.isnan(row.precision)
        assert math.isnan(row.recall)
        assert result.notes == ("no objects to find: every average precision is undefined",)
    assert evaluate({}, [], []).per_class == ()


def test_a_class_without_objects_is_noted() -> None:
    result = evaluate(DETECTIONS, RECORDS, ["cat", "dog", "eel"])
    assert result.notes == ("without objects, left out of the means: eel",)


def test_permuted_labels_are_noted() -> None:
    swapped = {
        image_id: Detections(d.boxes, d.scores, 1 - d.labels) for image_id, d in DETECTIONS.items()
    }
    [note] = evaluate(swapped, RECORDS, ["cat", "dog"], coco=None).notes
    assert note.endswith("'cat' is found as 'dog', 'dog' is found as 'cat'")


def test_poor_boxes_are_not_called_permuted() -> None:
    poor = {"a": found((FAR, 0.9, 0)), "b": found((FAR, 0.9, 1))}
    assert evaluate(poor, RECORDS, ["cat", "dog"], coco=None).notes == ()


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("detections", "message"),
    [
        ({"a": found()}, r"detections: 'b': no entry for 1 of 2 images"),
        (DETECTIONS | {"c": found()}, r"detections: 'c': image id not in the data set"),
        (DETECTIONS | {"b": found((ONE, 0.1, 0), (ONE, NAN, 0))}, r"'b': detection 1: score not"),
        (DETECTIONS | {"b": found((ONE, INF, 0))}, r"image 'b': detection 0: score not finite"),
        (DETECTIONS | {"b": found(((0.0, 0.0, NAN, 1.0), 0.5, 0))}, r"'b': detection 0: box not"),
        (DETECTIONS | {"b": found(((-INF, 0.0, INF, 1.0), 0.5, 0))}, r"box not finite"),
        (DETECTIONS | {"b": found(((9.0, 0.0, 8.0, 1.0), 0.5, 0))}, r"box with x2 < x1"),
        (DETECTIONS | {"b": found((ONE, 0.5, 2))}, r"'b': detection 0: label outside 0\.\.1"),
        (DETECTIONS | {"b": found((ONE, 0.5, -1))}, r"label outside 0\.\.1"),
    ],
)
def test_bad_detections_are_refused(detections: dict[str, Detections], message: str) -> None:
    with pytest.raises(DataError, match=message):
        evaluate(detections, RECORDS, ["cat", "dog"])


def test_bad_records_and_classes_are_refused() -> None:
    with pytest.raises(DataError, match="data set: 'a': image id used by more than one record"):
        evaluate(DETECTIONS, [*RECORDS, record("a")], ["cat", "dog"])
    with pytest.raises(DataError, match="'cat': named more than once"):
        evaluate(DETECTIONS, RECORDS, ["cat", "cat"])
    with pytest.raises(DataError, match=r"image 'a': object 1: label outside 0\.\.0"):
        evaluate(dict.fromkeys("ab", found()), RECORDS, ["cat"])
