"""The matching of detections with objects in the ILSVRC detection challenge.

D detections · R objects.

The rules are those of ``eval_detection.m`` in the ILSVRC2014 development kit:

- An object of w x h pixels is found by a detection of its class with an IoU of at least
  ``min(0.5, w h / ((w + 10) (h + 10)))``: small objects need less, as 10 pixels are tolerated.
- Detections of an image are taken by falling score. Each takes the object of the largest IoU among
  those that it finds and that no detection has taken yet; of equal IoUs the one listed first.
  (PASCAL VOC compares with all objects: a second detection of one is wrong there, even if it finds
  another one.)

The AP is the area under the envelope of precision over recall, as in PASCAL VOC since 2010. The
kit's list of image and class pairs that are not counted (the blacklist of 2014) is not applied.
Ignored objects, which the challenge does not have, are treated as in `voc.py`.
"""

from __future__ import annotations

import numpy as np

from .columns import Bools, Columns, Floats, Ints
from .voc import VOC_IOU, visit_objects

#: Pixels by which a box may be wider and higher than the object.
TOLERANCE = 10


def outcomes(columns: Columns, order: Ints, iou: float = VOC_IOU) -> tuple[Bools, Bools]:
    """For each detection in ``order`` (D,), by falling score: is it right; does it count at all."""
    needed = least_overlaps(columns.truth.boxes, iou)
    pairs: dict[int, list[tuple[float, int]]] = {}
    for rows, objects, overlaps in visit_objects(columns):
        hit = overlaps >= needed[objects]
        found = zip(rows[hit].tolist(), overlaps[hit].tolist(), objects[hit].tolist(), strict=True)
        for row, overlap, target in found:
            pairs.setdefault(row, []).append((overlap, target))
    right, counts = np.zeros(len(order), dtype=bool), np.ones(len(order), dtype=bool)
    taken = np.zeros(len(needed), dtype=bool)
    for place, row in enumerate(order.tolist()):
        if row not in pairs:
            continue
        free = [pair for pair in pairs[row] if not taken[pair[1]]]
        open_ = [pair for pair in free if not columns.truth.ignore[pair[1]]]
        if open_:
            # `max` returns the first of equal ones; objects are visited as they are listed.
            target = max(open_, key=lambda pair: pair[0])[1]
            taken[target] = right[place] = True
        else:
            counts[place] = not free
    return right, counts


def least_overlaps(boxes: Floats, iou: float = VOC_IOU) -> Floats:
    """(R,) the IoU with which each of the boxes (R, 4) is found; ``iou`` for large ones."""
    sides = boxes[:, 2:] - boxes[:, :2]
    return np.minimum(iou, sides.prod(axis=1) / (sides + TOLERANCE).prod(axis=1))
