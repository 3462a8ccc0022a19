"""What the page of a detector shows of its errors: the worst images with their boxes, and how many
detections of each kind there are from each score on.

Everything is data for the script of the page, ``errors.js``, which draws the boxes and counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..pages.shots import BUDGET, ImageBudget, Reader, Shot, class_hex, read_shot, scaled_box
from .error_types import ERRORS, KINDS, error_types
from .image_records import ImageRecords

#: The worst images, further ones for classes that these do not show, and their longer side.
WORST, MORE, SIDE = 48, 24, 640
#: Detections of an image in the page, those of the highest scores; the counts are of all.
MAX_DETECTIONS = 100
#: Beyond this number of classes only the counts of all together are in the page.
MAX_CLASSES = 100
#: Images named below those that are shown.
MAX_NAMED = 200
#: The scores of the slider.
SCORES = tuple(round(number / 100, 2) for number in range(100))

#: Colour and line of each kind (Okabe and Ito's colours, which all people can tell apart).
STYLES: Mapping[str, tuple[str, str, str]] = {
    "right": ("right", "#009e73", ""),
    "missed": ("missed", "#56b4e9", "dashed"),
    "classification": ("confused", "#cc79a7", ""),
    "localization": ("in a wrong place", "#e69f00", ""),
    "both": ("confused in a wrong place", "#f0e442", "dotted"),
    "duplicate": ("double", "#0072b2", "dotted"),
    "background": ("on background", "#d55e00", ""),
    "ignored": ("ignored", "#999999", "dotted"),
}

#: What to look at where an error type costs most.
ADVICE: Mapping[str, str] = {
    "missed": "choose the error below and see which objects are missed: small ones need larger "
    "images (image.short_side_train) or smaller anchors (rpn.anchor_sizes), rare ones more images",
    "background": "choose the error below and see whether objects there are not annotated; images "
    "without objects in training teach what is none",
    "classification": "see in the confusion matrix which classes are confused, and whether their "
    "objects are named alike in all annotations",
    "localization": "see whether the boxes are drawn alike in all annotations; longer training "
    "makes boxes more exact",
    "both": "choose the error below and see which classes are concerned; more images of them help",
    "duplicate": "a smaller test.nms_iou joins overlapping detections",
}


@dataclass(frozen=True)
class ErrorView:
    """``cases`` are the shown images with their names and errors in words, ``data`` is what the
    script reads, ``kinds`` are names, words, colours and definitions, ``named`` further images with
    their errors, and ``hidden`` is the number of those that are not even named."""

    cases: Sequence[tuple[str, str, Shot]]
    data: Mapping[str, Any]
    kinds: Sequence[tuple[str, str, str, str]]
    named: Sequence[tuple[str, int, str]]
    hidden: int


def error_view(records: ImageRecords, read: Reader, score: float) -> ErrorView:
    """The view of a detector's evaluation, at first from ``score`` on.

    ``read`` returns the pixels (h, w, 3) RGB of a file. Raises DataError for damaged records.
    """
    counts = _counts(records)
    chosen = _chosen(records)
    budget = ImageBudget(BUDGET)
    cases, boxes = [], []
    for entry in chosen:
        shot, scale = case_shot(entry, read, budget)
        cases.append((_name(entry), _words(entry), shot))
        boxes.append(_boxes(entry, scale))
    shown = {entry["image"] for entry in chosen}
    others = [entry for entry in records.images if entry["image"] not in shown and entry["wrong"]]
    data = {
        "classes": records.classes,
        "colours": [class_hex(label) for label in range(len(records.classes))],
        "styles": STYLES,
        "errors": [name for name in STYLES if name in ERRORS],
        "scores": SCORES,
        "score": score,
        "counts": counts,
        "cases": boxes,
    }
    kinds = [(name, *style[:2], {**KINDS, **ERRORS}[name]) for name, style in STYLES.items()]
    named = [(_name(each), each["wrong"], _words(each)) for each in others[:MAX_NAMED]]
    return ErrorView(cases, data, kinds, named, len(others) - len(named))


def costliest(dap: Mapping[str, float | None]) -> str:
    """What costs most AP and what to do about it; "" where nothing costs any."""
    costs = {name: cost for name, cost in dap.items() if cost and name in ADVICE}
    if not costs:
        return ""
    name = max(costs, key=lambda each: costs[each] or 0.0)
    rise = f"without such errors AP would rise by {costs[name]:.3f}"
    return f"most AP is lost to: {STYLES[name][0]}; {rise}. To do: {ADVICE[name]}"


def _chosen(records: ImageRecords) -> list[Mapping[str, Any]]:
    """The worst images, and the worst one of each class that they do not show."""
    wrong = [entry for entry in records.images if entry["wrong"]] or list(records.images)
    chosen = wrong[:WORST]
    seen = {label for entry in chosen for label in entry["objects"]["labels"]}
    for entry in wrong[WORST:]:
        if len(chosen) == WORST + MORE:
            break
        own = set(entry["objects"]["labels"])
        if not own <= seen:
            chosen.append(entry)
            seen |= own
    return chosen


def case_shot(
    entry: Mapping[str, Any], read: Reader, budget: ImageBudget, side: int = SIDE
) -> tuple[Shot, float]:
    """`read_shot` of the image of an entry."""
    if not entry["file"] and not budget.spent:
        return Shot(_name(entry), why="the evaluation does not know its file"), 1.0
    return read_shot(_name(entry), Path(entry["file"] or ""), read, budget, side)


def _boxes(entry: Mapping[str, Any], scale: float) -> dict[str, Any]:
    """Objects (x1, y1, x2, y2, label, ignore) and detections (x1, y1, x2, y2, label, score, kind,
    object or -1) in pixels of the shown image, the detections by falling score."""
    truth, found = entry["objects"], entry["detections"]
    rows = sorted(range(len(found["scores"])), key=lambda row: -found["scores"][row])
    return {
        "objects": [
            [*scaled_box(box, scale), label, int(ignore)]
            for box, label, ignore in zip(
                truth["boxes"], truth["labels"], truth["ignore"], strict=True
            )
        ],
        "detections": [
            [
                *scaled_box(found["boxes"][row], scale),
                found["labels"][row],
                found["scores"][row],
                found["kinds"][row],
                -1 if found["objects"][row] is None else found["objects"][row],
            ]
            for row in rows[:MAX_DETECTIONS]
        ],
    }


def _counts(records: ImageRecords) -> dict[str, Any]:
    """The number of objects, and of detections of each kind and missed objects from each of SCORES
    on: lists by class, the last one of all classes together."""
    columns = records.columns()
    errors = error_types(columns)
    classes = len(records.classes)
    labels = columns.truth.labels[~columns.truth.ignore]
    tables = {name: np.zeros((classes, len(SCORES)), np.int64) for name in STYLES}
    for place, score in enumerate(SCORES):
        thresholds = np.full(classes, score)
        for name, each in errors.counts(thresholds).items():
            tables[name][:, place] = each
        right = errors.kept(thresholds) & (errors.kinds == list(KINDS).index("right"))
        tables["right"][:, place] = np.bincount(columns.found.labels[right], minlength=classes)
    del tables["ignored"]
    objects = np.bincount(labels, minlength=classes)
    own = classes if classes <= MAX_CLASSES else 0
    return {
        "objects": [*objects[:own].tolist(), int(objects.sum())],
        "kinds": {
            name: [*table[:own].tolist(), table.sum(axis=0).tolist()]
            for name, table in tables.items()
        },
    }


def _name(entry: Mapping[str, Any]) -> str:
    return Path(entry["file"]).name if entry["file"] else str(entry["image"])


def _words(entry: Mapping[str, Any]) -> str:
    """``2 missed, 1 duplicate``."""
    return ", ".join(f"{n} {STYLES[k][0]}" for k, n in Counter(entry["errors"]).most_common() if n)
