"""Localization errors: worked by hand, beside a loop in the development kit's terms, as files."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from resdet.detection.errors import DataError
from resdet.detection.evaluation.bootstrap import mean_intervals
from resdet.detection.evaluation.localization import (
    DEFINITIONS,
    OTHER_DEFINITIONS,
    Localization,
    evaluate_located,
    evaluate_predictions,
)
from resdet.detection.evaluation.report import print_report, write_report
from resdet.detection.structures import Annotation, Detections, Located, Record
from rich.console import Console

NAMES = ("ant", "=bee", "cat", "dog")
Box = tuple[float, float, float, float]
NAN = math.nan


def record(name: str, label: int | None, *boxes: Box, labels: list[int] | None = None) -> Record:
    labels = [label or 0] * len(boxes) if labels is None else labels
    annotation = Annotation(
        torch.tensor(boxes).float().reshape(-1, 4),
        torch.tensor(labels, dtype=torch.int64),
        torch.zeros(len(boxes), dtype=torch.bool),
    )
    return Record(name, Path(f"{name}.jpg"), (100, 100), annotation, label)


def detections(*rows: tuple[int, Box]) -> Detections:
    """(label, box), best first."""
    return Detections(
        torch.tensor([box for _, box in rows]).float().reshape(-1, 4),
        torch.linspace(0.9, 0.1, len(rows)),
        torch.tensor([label for label, _ in rows], dtype=torch.int64),
    )


def located(*predicted: tuple[int, Box], true_class: tuple[int, Box] | None = None) -> Located:
    return Located(
        detections(*predicted), detections(*([] if true_class is None else [true_class]))
    )


#: IoUs with it below: itself 1; FULL 0.5, exactly; the box HALF 0.5; QUARTER 0.25; AWAY 0.
TRUE: Box = (0, 0, 10, 10)
FULL: Box = (0, 0, 10, 20)
HALF: Box = (0, 0, 5, 10)
QUARTER: Box = (0, 0, 5, 5)
AWAY: Box = (50, 50, 60, 60)

RECORDS = [
    record("a", 0, TRUE),
    record("b", 0, TRUE, AWAY),
    record("c", 1, TRUE),
    record("d", 3, TRUE),
]
FOUND = {
    # First and right, at exactly 0.5.
    "a": located((0, FULL), (1, TRUE), true_class=(0, FULL)),
    # The class is named first, the box is right only the third time, on the second object.
    "b": located((0, QUARTER), (2, TRUE), (0, AWAY), true_class=(0, QUARTER)),
    # The class is never named, though the box is right.
    "c": located((0, TRUE), (3, TRUE), true_class=(1, TRUE)),
    # Right in the fifth place; the sixth is not looked at. There is no box of the true class.
    "d": located((0, TRUE), (1, TRUE), (2, TRUE), (3, AWAY), (3, HALF), (3, TRUE)),
}


def test_by_hand() -> None:
    found = evaluate_located(FOUND, RECORDS, NAMES)
    assert found.images == 4
    assert dict(found.metrics) == {
        "top5_localization_error": 1 / 4,  # c
        "top1_localization_error": 3 / 4,  # all but a
        "true_class_error": 2 / 4,  # b, d
        "top5_classification_error": 1 / 4,  # c
        "top1_classification_error": 2 / 4,  # c, d
        "mean_true_class_iou": (0.5 + 0.25 + 1 + 0) / 4,
    }
    ant, bee, cat, dog = found.per_class
    assert (ant.images, ant.true_class_error, ant.top1_localization_error) == (2, 0.5, 0.5)
    assert ant.mean_true_class_iou == 0.375
    assert (bee.images, bee.true_class_error, bee.top1_localization_error) == (1, 0.0, 1.0)
    assert (dog.true_class_error, dog.mean_true_class_iou) == (1.0, 0.0)
    assert (
        cat.images == 0 and math.isnan(cat.true_class_error) and math.isnan(cat.mean_true_class_iou)
    )


def test_what_went_wrong_in_each_image() -> None:
    """The kinds of all boxes; the box of the true class and the first prediction are counted."""
    found = evaluate_located(FOUND, RECORDS, NAMES)
    entries = {entry["image"]: entry for entry in found.image_entries()}
    kinds = {name: entry["predicted"]["kinds"] for name, entry in entries.items()}
    assert kinds == {
        "a": ["right", "classification"],
        "b": ["localization", "classification", "right"],
        "c": ["classification"] * 2,
        "d": ["classification"] * 3 + ["background", "right"],
    }
    errors = {n: {k: v for k, v in e["errors"].items() if v} for n, e in entries.items()}
    assert errors == {
        "a": {},
        "b": {"localization": 2},
        "c": {"classification": 1},
        "d": {"missed": 1, "classification": 1},
    }
    assert [entries[name]["wrong"] for name in "abcd"] == [0, 2, 1, 2]
    assert entries["b"]["objects"] == {"boxes": [list(TRUE), list(AWAY)]}
    assert entries["b"]["true_class"]["boxes"] == [list(QUARTER)]
    assert entries["b"]["true_class"]["ious"] == [0.25]
    assert entries["d"]["true_class"]["boxes"] == []
    assert entries["a"]["predicted"]["labels"] == [0, 1]
    assert set(found.image_header()["definitions"]) >= {*errors["d"], "right", "both"}


def test_numbers_that_are_not_finite_are_written_as_null(tmp_path: Path) -> None:
    odd = {"a": located((1, (NAN, 0, math.inf, 9)), true_class=(0, (NAN, 0, 10, 10)))}
    write_report(evaluate_located(odd, RECORDS[:1], NAMES), tmp_path)
    (entry,) = json.loads((tmp_path / "images.json").read_text())["images"]
    assert entry["true_class"]["boxes"] == [[None, 0, 10, 10]]
    assert entry["predicted"]["boxes"] == [[None, 0, None, 9]]
    assert entry["errors"]["background"] == 2


def test_some_of_the_classes() -> None:
    """As if images and predictions of the others had never been there."""
    trivial = {each.image_id: located() for each in RECORDS}
    found = evaluate_located(FOUND, RECORDS, NAMES, only=("dog", "ant"), baseline=trivial)
    kept = (RECORDS[0], RECORDS[1], record("d", 1, TRUE))
    number = {0: 0, 3: 1}

    def limited(each: Detections) -> Detections:
        rows = [row for row, label in enumerate(each.labels.tolist()) if label in number]
        labels = torch.tensor([number[int(each.labels[row])] for row in rows], dtype=torch.int64)
        return Detections(each.boxes[rows], each.scores[rows], labels)

    alone = {n: Located(limited(e.predicted), limited(e.true_class)) for n, e in FOUND.items()}
    expected = evaluate_located(alone, kept, ("ant", "dog"))
    assert found.metrics == expected.metrics and found.per_class == expected.per_class
    assert found.image_entries() == expected.image_entries()
    assert found.images == 3 and found.baseline["true_class_error"] == 1
    with pytest.raises(DataError, match="no class 'cow'"):
        evaluate_located(FOUND, RECORDS, NAMES, only=("cow",))


def test_the_sixth_prediction_is_not_looked_at() -> None:
    rows = [(0, TRUE)] * 5 + [(3, TRUE)]
    found = evaluate_located({"d": located(*rows)}, [RECORDS[3]], NAMES)
    assert found.metrics["top5_localization_error"] == 1
    assert found.metrics["top5_classification_error"] == 1


@pytest.mark.parametrize(("height", "error"), [(500, 0), (499, 1), (2000, 0), (2001, 1)])
def test_an_overlap_of_half_is_enough_and_no_less(height: float, error: int) -> None:
    """IoUs 0.5 and 0.499 of a smaller box, 0.5 and 0.49975 of a larger one."""
    found = {"a": located((0, (0, 0, 1000, height)), true_class=(0, (0, 0, 1000, height)))}
    metrics = evaluate_located(found, [record("a", 0, (0, 0, 1000, 1000))], NAMES).metrics
    assert metrics["true_class_error"] == metrics["top1_localization_error"] == error


def test_boxes_of_other_classes_are_no_truth_and_ignored_ones_are() -> None:
    mixed = record("m", 0, AWAY, TRUE, labels=[0, 1])
    marked = replace(mixed, annotation=replace(mixed.annotation, ignore=torch.ones(2).bool()))
    for each in (mixed, marked):
        wrong = evaluate_located({"m": located((0, TRUE), true_class=(0, TRUE))}, [each], NAMES)
        assert wrong.metrics["true_class_error"] == wrong.metrics["top1_localization_error"] == 1
        right = evaluate_located({"m": located((0, AWAY), true_class=(0, AWAY))}, [each], NAMES)
        assert right.metrics["true_class_error"] == right.metrics["top1_localization_error"] == 0


@pytest.mark.parametrize(
    "box",
    [
        (NAN, 0, 10, 10),
        (NAN, NAN, NAN, NAN),
        (-math.inf, -math.inf, math.inf, math.inf),
        (0, 0, math.inf, 10),
        (10, 10, 0, 0),
        (10, 0, 0, 10),
        (5, 5, 5, 5),
        (0, 0, 10, 0),
    ],
)
def test_a_box_with_a_nan_or_no_area_is_wrong(box: Box) -> None:
    metrics = evaluate_located(
        {"a": located((0, box), true_class=(0, box))}, RECORDS[:1], NAMES
    ).metrics
    assert metrics["top5_localization_error"] == metrics["true_class_error"] == 1
    assert metrics["top5_classification_error"] == metrics["mean_true_class_iou"] == 0


def test_without_a_classifier() -> None:
    found = {name: replace(each, predicted=Detections.empty()) for name, each in FOUND.items()}
    evaluation = evaluate_located(found, RECORDS, NAMES)
    undefined = {name for name, value in evaluation.metrics.items() if math.isnan(value)}
    assert undefined == {name for name in DEFINITIONS if name.startswith("top")}
    assert evaluation.metrics["true_class_error"] == 0.5
    assert all(math.isnan(row.top1_localization_error) for row in evaluation.per_class)


def test_predictions_alone() -> None:
    """As of a submission: no true class; without any prediction all images are wrong."""
    predictions = {name: each.predicted for name, each in FOUND.items()}
    evaluation = evaluate_predictions(predictions, RECORDS, NAMES)
    assert evaluation.metrics["top5_localization_error"] == 0.25
    assert math.isnan(evaluation.metrics["true_class_error"])
    assert "true_class_error" not in evaluation.intervals
    nothing = dict.fromkeys(FOUND, Detections.empty())
    assert evaluate_predictions(nothing, RECORDS, NAMES).metrics["top5_localization_error"] == 1
    assert evaluate_predictions(nothing, RECORDS, NAMES).metrics["top1_classification_error"] == 1


def test_nothing_to_evaluate() -> None:
    evaluation = evaluate_located({}, [], NAMES, baseline={})
    assert all(math.isnan(value) for value in evaluation.metrics.values())
    assert "true_class_error" not in evaluation.intervals
    assert [row.images for row in evaluation.per_class] == [0] * 4


def test_the_interval_is_wilsons() -> None:
    """2 of 4 by the formula; no one can be sure of 0 errors either: 0 of 4 reaches z²/(4 + z²)."""

    def interval(share: float) -> tuple[float, float]:
        outcomes = (np.arange(4) < share * 4).astype(np.float64)
        found = mean_intervals({"true_class_error": outcomes}, "abcd")["true_class_error"]
        return found.low, found.high

    assert interval(0.5) == pytest.approx((0.1500, 0.8500), abs=1e-4)
    low, high = interval(0.0)
    assert (low, high) == (0.0, pytest.approx(3.8415 / 7.8415, abs=1e-4))
    assert interval(1.0) == pytest.approx((1 - high, 1.0))


def test_the_baseline_is_judged_by_the_same_rules() -> None:
    trivial = {
        "a": located(true_class=(0, TRUE)),
        "b": located(true_class=(0, TRUE)),
        "c": located(true_class=(1, QUARTER)),
        "d": located(),
    }
    evaluation = evaluate_located(FOUND, RECORDS, NAMES, baseline=trivial)
    assert dict(evaluation.baseline) == {"true_class_error": 0.5, "mean_true_class_iou": 2.25 / 4}
    assert evaluation.metrics["true_class_error"] == 0.5
    assert dict(evaluate_located(FOUND, RECORDS, NAMES).baseline) == {}


@pytest.mark.parametrize(
    ("records", "found", "reason"),
    [
        ([record("z", 0, TRUE)], FOUND, r"^no boxes for 1 images, the first: z$"),
        ([record("a", None, TRUE)], FOUND, r"^a\.jpg: the record has no class$"),
        ([record("a", 4, TRUE)], FOUND, r"^a\.jpg: label 4 outside 0\.\.3$"),
        ([record("a", 0)], FOUND, r"^a\.jpg: the record has no box of its class 'ant'$"),
        ([record("a", 0, TRUE, labels=[1])], FOUND, r"a\.jpg: the record has no box of its class"),
        ([record("c", 0, TRUE)], FOUND, r"^c: expected one box, of the true class 0: \[1\]$"),
    ],
)
def test_what_cannot_be_evaluated(
    records: list[Record], found: dict[str, Located], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        evaluate_located(found, records, NAMES)


# ----------------------------------------------------------------- the development kit's terms

#: xmin, ymin, xmax, ymax: pixels that count from 1, both ends belong to the box.
KitBox = tuple[int, int, int, int]
Kit = list[tuple[int, KitBox]]


def kit_errors(guesses: Kit, label: int, objects: Kit, most: int) -> tuple[bool, bool]:
    """(is the class wrong, is the place wrong) of one image with at most ``most`` guesses."""
    class_wrong = place_wrong = True
    for guess, box in guesses[:most]:
        if guess != label:
            continue
        class_wrong = False
        for name, other in objects:
            if name == label and kit_overlap(box, other) >= 0.5:
                place_wrong = False
    return class_wrong, place_wrong


def kit_overlap(a: KitBox, b: KitBox) -> float:
    """Counts pixels, one by one in each direction."""
    wide = len(set(range(a[0], a[2] + 1)) & set(range(b[0], b[2] + 1)))
    high = len(set(range(a[1], a[3] + 1)) & set(range(b[1], b[3] + 1)))
    first = (a[2] - a[0] + 1) * (a[3] - a[1] + 1)
    second = (b[2] - b[0] + 1) * (b[3] - b[1] + 1)
    return wide * high / (first + second - wide * high)


def ours(box: KitBox) -> Box:
    return box[0] - 1, box[1] - 1, box[2], box[3]


def share(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


spans = st.tuples(st.integers(1, 6), st.integers(1, 6)).map(sorted)
kit_boxes = st.tuples(spans, spans).map(lambda s: (s[0][0], s[1][0], s[0][1], s[1][1]))
guesses = st.lists(st.tuples(st.integers(0, 2), kit_boxes), max_size=7)
images = st.tuples(
    st.integers(0, 2),
    st.lists(kit_boxes, min_size=1, max_size=3),
    st.lists(st.tuples(st.integers(0, 2), kit_boxes), max_size=2),  # may be of other classes
    guesses,
    st.none() | kit_boxes,
)


@settings(max_examples=120)
@given(st.lists(images, min_size=1, max_size=6))
def test_as_the_development_kit_counts(
    data: list[tuple[int, list[KitBox], Kit, Kit, KitBox | None]],
) -> None:
    records, found = [], {}
    errors: dict[str, list[float]] = {name: [] for name in DEFINITIONS}
    for number, (label, boxes, others, guessed, known) in enumerate(data):
        objects = [*((label, box) for box in boxes), *others]
        records.append(
            record(
                str(number),
                label,
                *(ours(box) for _, box in objects),
                labels=[name for name, _ in objects],
            )
        )
        found[str(number)] = located(
            *((name, ours(box)) for name, box in guessed),
            true_class=None if known is None else (label, ours(known)),
        )
        for most in (1, 5):
            class_wrong, place_wrong = kit_errors(guessed, label, objects, most)
            errors[f"top{most}_classification_error"].append(class_wrong)
            errors[f"top{most}_localization_error"].append(place_wrong)
        truth = [box for name, box in objects if name == label]
        best = 0.0 if known is None else max(kit_overlap(known, box) for box in truth)
        errors["mean_true_class_iou"].append(best)
        errors["true_class_error"].append(best < 0.5)
    evaluation = evaluate_located(found, records, NAMES[:3])
    for name, values in errors.items():
        classifier = any(guessed for _, _, _, guessed, _ in data)
        expected = share(values) if classifier or "true_class" in name else math.nan
        assert evaluation.metrics[name] == pytest.approx(expected, abs=1e-12, nan_ok=True)
    for label, row in enumerate(evaluation.per_class):
        own = [number for number, (name, *_) in enumerate(data) if name == label]
        assert row.images == len(own)
        if own:
            expected = share([errors["true_class_error"][number] for number in own])
            assert row.true_class_error == pytest.approx(expected)


# ------------------------------------------------------------------------------------- report


def test_files_and_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Localization, "max_rows", 2)
    evaluation = replace(evaluate_located(FOUND, RECORDS, NAMES), seconds_per_image=0.25)
    metrics, table, _ = write_report(evaluation, tmp_path / "new")
    content = json.loads(metrics.read_text())
    assert content["task"] == "localization" and content["baseline"] == {}
    assert content["metrics"]["top5_localization_error"] == 0.25
    assert content["true_class_error_interval"] == pytest.approx([0.15, 0.85], abs=1e-4)
    assert content["per_class"][2]["true_class_error"] is None
    columns = set(content["per_class"][0]) - {"name"}
    assert set(content["definitions"]) >= {*content["metrics"], *columns, *OTHER_DEFINITIONS}
    rows = list(csv.DictReader(table.open()))
    assert [row["name"] for row in rows] == ["dog", "ant", "'=bee", "cat"]  # worst first
    assert rows[3]["true_class_error"] == ""
    text = shown(evaluation)
    assert "dog" in text and "bee" not in text and "and 2 better classes" in text
    assert "0.7500" in text and "0.2500" in text and "0.1500-0.8500" in text
    assert "baseline" not in text


def test_the_baseline_stands_beside_the_metrics() -> None:
    trivial = {each.image_id: located() for each in RECORDS}
    evaluation = evaluate_located(FOUND, RECORDS, NAMES, baseline=trivial)
    line = next(row for row in shown(evaluation).splitlines() if "mean_true_class_iou" in row)
    assert [*line.split()[1:2], line.split()[3]] == ["0.4375", "0.0000"]


def test_what_is_undefined_is_written_and_shown_so(tmp_path: Path) -> None:
    predictions = {name: each.predicted for name, each in FOUND.items()}
    evaluation = replace(evaluate_predictions(predictions, RECORDS, NAMES), notes=("[red]odd",))
    metrics, table, _ = write_report(evaluation, tmp_path)
    content = json.loads(metrics.read_text())
    assert content["metrics"]["true_class_error"] is content["true_class_error_interval"] is None
    names = [row["name"] for row in csv.DictReader(table.open())]
    assert names == ["'=bee", "dog", "ant", "cat"]  # by top-1 error
    text = shown(evaluation)
    line = next(row for row in text.splitlines() if "mean_true_class_iou" in row)
    assert line.split()[1] == "-" and line.count("0.") == 0
    assert "note: [red]odd" in text


def shown(evaluation: Localization) -> str:
    text = io.StringIO()
    print_report(evaluation, Console(file=text, width=100))
    return text.getvalue()
