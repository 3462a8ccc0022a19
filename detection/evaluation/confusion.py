"""The confusion matrix of detections.

K classes; index K is the background: not found (as a row), or no object (as a column).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .columns import Columns, Ints
from .voc import paired_iou

#: Thresholds of detections that are usually shown; mAP counts all scores.
SCORE, IOU = 0.25, 0.5


@dataclass(frozen=True, eq=False)
class Confusion:
    """``counts`` (K + 1, K + 1): row predicted class, column true class.

    A column of a class sums to its objects. Detections with ``score`` or more count; an object goes
    to the best overlap of at least ``iou``, whatever its class. Detections that lie on nothing but
    ignored objects are left out.
    """

    counts: Ints
    score: float
    iou: float


def confusion(columns: Columns, *, score: float = SCORE, iou: float = IOU) -> Confusion:
    """Match each image's detections, by falling score, to its objects one to one."""
    truth, found, background = columns.truth, columns.found, columns.num_classes
    kept = np.flatnonzero(found.scores >= score)
    kept = kept[np.argsort(-found.scores[kept], kind="stable")]
    rows, objects = _overlapping(columns, kept, iou)
    ignored = truth.ignore[objects]
    taken = _assign(rows[~ignored], objects[~ignored], len(kept))
    on_ignored = np.zeros(len(kept), dtype=bool)
    on_ignored[rows[ignored]] = True
    counted = (taken >= 0) | ~on_ignored
    missed = ~truth.ignore
    missed[taken[taken >= 0]] = False

    counts: Ints = np.zeros((background + 1, background + 1), dtype=np.int64)
    true_labels = np.append(truth.labels, background)[taken]
    np.add.at(counts, (found.labels[kept][counted], true_labels[counted]), 1)
    counts[background, :background] = np.bincount(truth.labels[missed], minlength=background)
    return Confusion(counts, score, iou)


def _overlapping(columns: Columns, kept: Ints, iou: float) -> tuple[Ints, Ints]:
    """Pairs (row of ``kept``, object) of one image with at least ``iou``; by row, best first."""
    images = np.arange(len(columns.image_ids) + 1)
    starts = np.searchsorted(columns.truth.images, images)
    boxes, where = columns.found.boxes[kept], columns.found.images[kept]
    first, end = starts[where], starts[where + 1]
    pairs = []
    # One object of every image at a time: memory stays at a few arrays of the detections.
    for visit in range(int((end - first).max(initial=0))):
        active = np.flatnonzero(first + visit < end)
        objects = first[active] + visit
        overlap = paired_iou(boxes[active], columns.truth.boxes[objects])
        close = overlap >= iou
        pairs.append((active[close], objects[close], overlap[close]))
    if not pairs:
        return kept[:0], kept[:0]
    rows, objects, overlap = (np.concatenate(part) for part in zip(*pairs, strict=True))
    order = np.lexsort((-overlap, rows))
    return rows[order], objects[order]


def _assign(rows: Ints, objects: Ints, count: int) -> Ints:
    """(count,) the object of each row, -1 without one: the first of its pairs still free."""
    taken = [-1] * count
    free = dict.fromkeys(objects.tolist(), True)
    for row, target in zip(rows.tolist(), objects.tolist(), strict=True):
        if taken[row] < 0 and free[target]:
            taken[row], free[target] = target, False
    return np.array(taken, dtype=np.int64)
