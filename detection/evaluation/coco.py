"""The twelve COCO metrics of detections, for any data set.

Computed by pycocotools, the reference, from our own structures. That avoids problems of COCO files
that it does not detect: annotation id 0 or repeated ids (AP falls silently), a missing ``iscrowd``
or ``area``, unknown ids, and an empty result list.

*small* (up to 32 x 32 px), *medium* and *large* (from 96 x 96 px) refer to the ``area`` in the
annotations, which in COCO is that of the mask; to the area of the box where they have none. Ignored
objects (VOC *difficult*, COCO *crowd*) are crowds: a detection that lies in one by at least the IoU
threshold, as a fraction of its own area, is neither right nor wrong.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .columns import Columns, Floats, FoundColumns, TruthColumns
from .definitions import COCO_SIZES

#: In the order of ``COCOeval.stats``.
COCO_METRICS = (
    "coco_ap",
    "coco_ap50",
    "coco_ap75",
    "coco_ap_small",
    "coco_ap_medium",
    "coco_ap_large",
    "coco_ar1",
    "coco_ar10",
    "coco_ar100",
    "coco_ar_small",
    "coco_ar_medium",
    "coco_ar_large",
)


@dataclass(frozen=True)
class CocoScores:
    """``metrics`` by the names of COCO_METRICS and the AP of each class; nan without objects."""

    metrics: dict[str, float]
    class_ap: tuple[float, ...]


def coco_scores(columns: Columns, sizes: tuple[float, float] = COCO_SIZES) -> CocoScores:
    """Run pycocotools' box evaluation with its own parameters (100 detections per image, class),
    but for ``sizes``, the sides in px of the squares that part small, medium and large objects."""
    evaluator = matched(columns, sizes)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator.accumulate()
    return summarized(evaluator)


def summarized(evaluator: Any) -> CocoScores:
    """The numbers of a COCOeval whose ``eval`` is complete."""
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator.summarize()
    metrics = {
        name: _defined(value) for name, value in zip(COCO_METRICS, evaluator.stats, strict=True)
    }
    return CocoScores(metrics, _class_ap(evaluator.eval["precision"]))


def matched(columns: Columns, sizes: tuple[float, float]) -> Any:
    """A COCOeval that has matched detections and objects; their ids are their rows from 1 on."""
    from pycocotools.cocoeval import (
        COCOeval,  # late, with the rest of the library: a fifth of a second
    )

    objects = columns.truth
    truth = [
        {**row, "area": area, "iscrowd": int(ignore)}
        for row, area, ignore in zip(
            _rows(objects), objects.areas.tolist(), objects.ignore.tolist(), strict=True
        )
    ]
    found = [
        {**row, "iscrowd": 0, "score": score}
        for row, score in zip(_rows(columns.found), columns.found.scores.tolist(), strict=True)
    ]
    # pycocotools reports its progress with print().
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator = COCOeval(_index(columns, truth), _index(columns, found), "bbox")
        small, large = (side**2 for side in sizes)
        least, most = evaluator.params.areaRng[0]
        evaluator.params.areaRng = [[least, most], [least, small], [small, large], [large, most]]
        evaluator.evaluate()
    return evaluator


def _rows(boxes: TruthColumns | FoundColumns) -> Iterator[dict[str, Any]]:
    """Rows in COCO's form; ids of images, categories and rows start at 1."""
    corners = boxes.boxes[:, :2]
    sides = boxes.boxes[:, 2:] - corners
    columns = zip(
        (boxes.images + 1).tolist(),
        (boxes.labels + 1).tolist(),
        np.concatenate([corners, sides], axis=1).tolist(),
        sides.prod(axis=1).tolist(),
        strict=True,
    )
    for row, (image, category, box, area) in enumerate(columns, start=1):
        yield {"id": row, "image_id": image, "category_id": category, "bbox": box, "area": area}


def _index(columns: Columns, annotations: list[dict[str, Any]]) -> Any:
    from pycocotools.coco import COCO

    index = COCO()
    index.dataset = {
        "info": {},
        "images": [{"id": image + 1} for image in range(len(columns.image_ids))],
        "categories": [{"id": label + 1} for label in range(columns.num_classes)],
        "annotations": annotations,
    }
    index.createIndex()
    return index


def _class_ap(precision: Floats) -> tuple[float, ...]:
    """AP per class from ``precision`` (T IoUs, 101 recalls, K, 4 areas, 3 counts)."""
    per_class = precision[:, :, :, 0, -1].mean(axis=(0, 1))  # all areas, 100 detections
    return tuple(_defined(value) for value in per_class)


def _defined(value: float) -> float:
    """pycocotools writes -1 for undefined numbers."""
    return float("nan") if value < 0 else float(value)
