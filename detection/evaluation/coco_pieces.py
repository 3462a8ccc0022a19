"""The COCO metrics of a data set that is matched in pieces.

pycocotools matches each piece. What its averages need of a detection is the score, its rank in the
image, and whether it is matched, and ignored, at each IoU and size of objects.

D detections · K classes · T IoUs · A sizes of objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from .coco import CocoScores, matched, summarized
from .columns import Bools, Columns, Floats, Ints

Bits = npt.NDArray[np.uint16]
#: The rank of detections that are not among the best of their image.
LEFT_OUT = 255


@dataclass(frozen=True, eq=False)
class CocoMatches:
    """By row of a piece's detections, ``rank`` (D,) among those of their image and class, and
    ``matches`` and ``ignored`` (D, A), a bit for each IoU; ``objects`` (K, A) are to be found."""

    rank: npt.NDArray[np.uint8]
    matches: Bits
    ignored: Bits
    objects: Ints


@dataclass(frozen=True, eq=False)
class CocoCurves:
    """One class: ``precision`` (T, 101 recalls, A, 3 counts of detections) and ``recall``
    (T, A, 3); -1 without objects."""

    precision: Floats
    recall: Floats


def coco_matches(columns: Columns, sizes: tuple[float, float]) -> CocoMatches:
    """Match the detections of a piece."""
    count = len(columns.found.scores)
    areas = len(_params().areaRng)
    rank = np.full(count, LEFT_OUT, dtype=np.uint8)
    matches, ignored = (np.zeros((count, areas), dtype=np.uint16) for _ in range(2))
    objects = np.zeros((columns.num_classes, areas), dtype=np.int64)
    if not columns.num_classes or not columns.image_ids:
        return CocoMatches(rank, matches, ignored, objects)
    evaluator = matched(columns, sizes)
    place = {tuple(each): number for number, each in enumerate(evaluator.params.areaRng)}
    for image in evaluator.evalImgs:
        if image is None:
            continue
        area = place[tuple(image["aRng"])]
        rows = np.array(image["dtIds"], dtype=np.int64) - 1
        rank[rows] = np.arange(len(rows))
        matches[rows, area] = _packed(image["dtMatches"] > 0)
        ignored[rows, area] = _packed(image["dtIgnore"])
        objects[image["category_id"] - 1, area] += np.count_nonzero(image["gtIgnore"] == 0)
    return CocoMatches(rank, matches, ignored, objects)


def coco_curves(rank: Any, matches: Bits, ignored: Bits, objects: Ints) -> CocoCurves:
    """The curves of one class from the matches of all its detections, best first, as
    `COCOeval.accumulate` computes them; ``objects`` (A,)."""
    params = _params()
    ious, areas, counts = len(params.iouThrs), len(params.areaRng), len(params.maxDets)
    precision = np.full((ious, len(params.recThrs), areas, counts), -1.0)
    recall = np.full((ious, areas, counts), -1.0)
    for count, most in enumerate(params.maxDets):
        kept = rank < most
        for area in np.flatnonzero(objects):
            pairs = matches[kept, area], ignored[kept, area]
            for iou in range(ious):
                right, passed = ((each >> iou & 1).astype(bool) for each in pairs)
                curve = _curve(right & ~passed, ~right & ~passed, int(objects[area]))
                precision[iou, :, area, count], recall[iou, area, count] = curve
    return CocoCurves(precision, recall)


def coco_scores_of(curves: Sequence[CocoCurves]) -> CocoScores:
    """The metrics of all classes, in label order."""
    from pycocotools.cocoeval import COCOeval

    evaluator = COCOeval(iouType="bbox")
    evaluator.eval = {
        "precision": np.stack([each.precision for each in curves], axis=2),
        "recall": np.stack([each.recall for each in curves], axis=1),
    }
    return summarized(evaluator)


def _curve(right: Bools, wrong: Bools, objects: int) -> tuple[Floats, float]:
    """(101,) the precision at each recall, and the largest recall."""
    found, failed = np.cumsum(right), np.cumsum(wrong)
    recall = found / objects
    precision = found / (failed + found + np.spacing(1))
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    reached = np.searchsorted(recall, _params().recThrs)
    return np.append(envelope, 0.0)[reached], float(recall[-1]) if len(recall) else 0.0


def _packed(outcomes: Any) -> Bits:
    """(D,) the outcomes (T, D) as bits."""
    weights = 1 << np.arange(len(outcomes))
    packed: Bits = (outcomes * weights[:, None]).sum(axis=0).astype(np.uint16)
    return packed


@cache
def _params() -> Any:
    from pycocotools.cocoeval import Params

    return Params("bbox")
