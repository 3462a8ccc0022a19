"""The page of a comparison: which evaluation is better and how sure that is, and the images where
they differ, side by side.

The script ``compare.js`` draws the boxes of detectors and filters the images.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..pages.rendering import render_html
from ..pages.shots import BUDGET, ImageBudget, Reader, Shot, class_hex, scaled_box
from .error_page import MAX_DETECTIONS, STYLES, case_shot
from .error_types import ERRORS, KINDS
from .image_records import ImageRecords
from .paired import Comparison, Difference, conclusion

#: Images that got worse and images that got better, of each at most this many; longer sides.
CHANGED, SIDE = 30, 480
#: Further images that are named.
MAX_NAMED = 1000
#: Answers of a classifier that are shown.
ANSWERS = 3

Entry = Mapping[str, Any]


@dataclass(frozen=True)
class ChangedCase:
    """An image with the errors of both; ``answers`` are the best classes of both, with their scores
    and whether they are right, and ``true`` the class; both are empty for detectors."""

    name: str
    wrong: tuple[int, int]
    shot: Shot
    true: str
    answers: tuple[Sequence[tuple[str, float, bool]], ...]


def render_comparison(
    comparison: Comparison, first: ImageRecords, second: ImageRecords, read: Reader
) -> str:
    """The HTML text; ``read`` returns the pixels (h, w, 3) RGB of a file."""
    detectors = comparison.task == "detection"
    worse = [row for row in comparison.images if row["wrong_second"] > row["wrong_first"]]
    better = [row for row in comparison.images if row["wrong_second"] < row["wrong_first"]]
    rows = [*worse[:CHANGED], *better[::-1][:CHANGED]]
    entries = [{each["image"]: each for each in records.images} for records in (first, second)]
    # Its classes may be in another order.
    second_label = [first.classes.index(name) for name in second.classes]
    labels = (list(range(len(first.classes))), second_label)
    scores = [_thresholds(records) for records in (first, second)]
    budget, cases, boxes = ImageBudget(BUDGET), [], []
    for row in rows:
        pair = [each[row["image"]] for each in entries]
        file = next((each["file"] for each in pair if each.get("file")), None)
        shot, scale = case_shot({**pair[0], "file": file}, read, budget, SIDE)
        wrong = (row["wrong_first"], row["wrong_second"])
        sides = zip(pair, (first, second), strict=True)
        cases.append(
            ChangedCase(
                shot.caption,
                wrong,
                shot,
                "" if detectors else first.classes[pair[0]["label"]],
                () if detectors else tuple(_answers(*side) for side in sides),
            )
        )
        if detectors:
            sides_of = zip(pair, labels, scores, strict=True)
            boxes.append([_side(entry, own, least, scale) for entry, own, least in sides_of])
    named = [*worse[CHANGED:], *better[::-1][CHANGED:]]
    return render_html(
        Path(__file__).with_name("compare.html.j2"),
        {"number": _number, "signed": _signed, "colour": class_hex, "conclusion": conclusion},
        scripts=("boxes.js", "compare.js"),
        comparison=comparison,
        headline=comparison.metrics[0],
        advice=_advice(comparison.metrics[0]),
        detectors=detectors,
        classes=first.classes,
        cases=cases,
        worse=len(worse),
        better=len(better),
        kinds=[(name, *style[:2], {**KINDS, **ERRORS}[name]) for name, style in STYLES.items()],
        per_class=comparison.per_class if len(comparison.per_class) > 1 else (),
        named=named[:MAX_NAMED],
        hidden=max(0, len(named) - MAX_NAMED),
        data={"classes": first.classes, "styles": STYLES, "cases": boxes},
    )


def _advice(row: Difference) -> str:
    gain = row.difference
    if math.isnan(gain.low):
        return "no image has what this number needs"
    if gain.low <= 0 <= gain.high:
        return (
            "these images do not tell which one is better. To do: evaluate both on more images "
            "(four times as many halve the interval), or take the one that is cheaper to run"
        )
    which = "second" if row.better > 0.5 else "first"
    return (
        f"the {which} one is better on images of this kind. To do: look below at the images on "
        "which it is the worse one; the interval does not cover trainings with other seeds"
    )


def _thresholds(records: ImageRecords) -> list[float]:
    """The scores from which on detections of each class are counted; all where none are known."""
    known = records.header.get("score_thresholds") or [0.0] * len(records.classes)
    return [math.inf if score is None else float(score) for score in known]


def _side(
    entry: Entry, labels: Sequence[int], least: Sequence[float], scale: float
) -> list[list[Any]]:
    """What is drawn: (x1, y1, x2, y2, label, score or None, kind, label of the object it is about
    or None), the detections that count and the missed objects."""
    found, truth = entry["detections"], entry["objects"]
    rows = [
        row
        for row in sorted(range(len(found["scores"])), key=lambda row: -found["scores"][row])
        if found["scores"][row] >= least[found["labels"][row]]
    ]
    detections = [
        [
            *scaled_box(found["boxes"][row], scale),
            labels[found["labels"][row]],
            round(found["scores"][row], 6),
            found["kinds"][row],
            None if target is None else labels[truth["labels"][target]],
        ]
        for row in rows[:MAX_DETECTIONS]
        for target in (found["objects"][row],)
    ]
    missed = [
        [*scaled_box(box, scale), labels[label], None, "missed", labels[label]]
        for box, label, lost in zip(truth["boxes"], truth["labels"], truth["missed"], strict=True)
        if lost
    ]
    return detections + missed


def _answers(entry: Entry, records: ImageRecords) -> list[tuple[str, float, bool]]:
    predicted = entry.get("predicted", {"labels": [], "scores": []})
    ranked = zip(predicted["labels"], predicted["scores"], strict=True)
    return [
        (records.classes[label], score, label == entry["label"])
        for label, score in list(ranked)[:ANSWERS]
    ]


def _number(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "-"


def _signed(value: float) -> str:
    return f"{value:+.3f}" if math.isfinite(value) else "-"
