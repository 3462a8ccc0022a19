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
from .columns import Columns
from .definitions import COCO_SIZES
from .error_counts import SCORES, count_errors, own_scores, own_words, sizes_of
from .error_types import ERRORS, KINDS
from .image_records import ImageRecords
from .voc import PrecisionRecall, area_ap, precision_recall

#: The worst images, further ones for classes that these do not show, and their longer side.
WORST, MORE, SIDE = 48, 24, 640
#: Detections of an image in the page, those of the highest scores; the counts are of all.
MAX_DETECTIONS = 100
#: Images named below those that are shown.
MAX_NAMED = 200
#: Points of a curve.
CURVE_POINTS = 200

#: Colour and line of each kind (Okabe and Ito's colours, which all people can tell apart).
STYLES: Mapping[str, tuple[str, str, str]] = {
    "right": ("right", "#009e73", ""),
    "missed": ("missed", "#56b4e9", "dashed"),
    "classification": ("wrong class", "#cc79a7", ""),
    "localization": ("wrong place", "#e69f00", ""),
    "both": ("wrong class and place", "#f0e442", "dotted"),
    "duplicate": ("duplicate", "#0072b2", "dotted"),
    "background": ("on background", "#d55e00", ""),
    "ignored": ("ignored", "#999999", "dotted"),
}


@dataclass(frozen=True)
class ClassCurve:
    """Precision over recall of one class in its colour, with the area below; ``points`` are x,y in
    percent, y falling with the precision."""

    name: str
    colour: str
    ap: float
    points: str


@dataclass(frozen=True)
class ErrorView:
    """``cases`` are the shown images with their names and errors in words, ``data`` is what the
    script reads, ``kinds`` are names, words, colours and definitions, ``named`` further images with
    their errors, and ``hidden`` is the number of those that are not even named. ``sides`` are those
    of the squares that part `SIZES`, ``curves`` those of the classes with objects, best first."""

    cases: Sequence[tuple[str, str, Shot]]
    data: Mapping[str, Any]
    kinds: Sequence[tuple[str, str, str, str]]
    named: Sequence[tuple[str, int, str]]
    hidden: int
    sides: tuple[float, float]
    curves: Sequence[ClassCurve]


def error_view(records: ImageRecords, read: Reader, score: float) -> ErrorView:
    """The view of a detector's evaluation, at first from ``score`` on.

    ``read`` returns the pixels (h, w, 3) RGB of a file. Raises DataError for damaged records.
    """
    small, large = map(float, records.header.get("sizes", COCO_SIZES))
    sides = small, large
    columns = records.columns()
    own = own_scores(records)
    counts = count_errors(columns, sides, own)
    chosen = _chosen(records)
    budget = ImageBudget(BUDGET)
    cases, boxes = [], []
    for entry in chosen:
        shot, scale = case_shot(entry, read, budget)
        cases.append((_name(entry), _words(entry), shot))
        boxes.append(_boxes(entry, scale, sides))
    shown = {entry["image"] for entry in chosen}
    others = [entry for entry in records.images if entry["image"] not in shown and entry["wrong"]]
    data = {
        "classes": records.classes,
        "colours": [class_hex(label) for label in range(len(records.classes))],
        "styles": STYLES,
        "errors": [name for name in STYLES if name in ERRORS],
        "scores": SCORES,
        "score": score,
        "own": own,
        "own_words": own_words(own),
        "counts": counts,
        "cases": boxes,
    }
    kinds = [(name, *style[:2], {**KINDS, **ERRORS}[name]) for name, style in STYLES.items()]
    named = [(_name(each), each["wrong"], _words(each)) for each in others[:MAX_NAMED]]
    return ErrorView(
        cases,
        data,
        kinds,
        named,
        len(others) - len(named),
        sides,
        _curves(columns, records.classes),
    )


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


def _boxes(entry: Mapping[str, Any], scale: float, sides: tuple[float, float]) -> dict[str, Any]:
    """Objects (x1, y1, x2, y2, label, ignore, size) and detections (x1, y1, x2, y2, label, score,
    kind, object or -1, size) in pixels of the shown image, the detections by falling score; sizes
    are numbers in `SIZES`."""
    truth, found = entry["objects"], entry["detections"]
    of_object = sizes_of(np.array(truth["areas"], dtype=np.float64), sides).tolist()
    boxes = np.array(found["boxes"], dtype=np.float64).reshape(-1, 4)
    own = sizes_of((boxes[:, 2:] - boxes[:, :2]).prod(axis=1), sides).tolist()
    rows = sorted(range(len(found["scores"])), key=lambda row: -found["scores"][row])
    return {
        "objects": [
            [*scaled_box(box, scale), label, int(ignore), size]
            for box, label, ignore, size in zip(
                truth["boxes"], truth["labels"], truth["ignore"], of_object, strict=True
            )
        ],
        "detections": [
            [
                *scaled_box(found["boxes"][row], scale),
                found["labels"][row],
                found["scores"][row],
                found["kinds"][row],
                -1 if target is None else target,
                own[row] if target is None else of_object[target],
            ]
            for row in rows[:MAX_DETECTIONS]
            for target in (found["objects"][row],)
        ],
    }


def _curves(columns: Columns, classes: Sequence[str]) -> list[ClassCurve]:
    found = [
        ClassCurve(classes[label], class_hex(label), area_ap(curve), _points(curve))
        for label, curve in enumerate(precision_recall(columns))
        if curve.objects
    ]
    return sorted(found, key=lambda curve: -curve.ap)


def _points(curve: PrecisionRecall) -> str:
    """At most `CURVE_POINTS` of them."""
    places = np.unique(np.linspace(0, max(0, len(curve.right) - 1), CURVE_POINTS).astype(int))
    places = places[places < len(curve.right)]
    pairs = zip(curve.recall[places].tolist(), curve.precision[places].tolist(), strict=True)
    return " ".join(f"{100 * x:.1f},{100 - 100 * y:.1f}" for x, y in pairs)


def _name(entry: Mapping[str, Any]) -> str:
    return Path(entry["file"]).name if entry["file"] else str(entry["image"])


def _words(entry: Mapping[str, Any]) -> str:
    """``2 missed, 1 duplicate``."""
    return ", ".join(f"{n} {STYLES[k][0]}" for k, n in Counter(entry["errors"]).most_common() if n)
