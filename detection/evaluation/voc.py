"""The PASCAL VOC average precision of each class, by area and by eleven points.

D detections · R objects · K classes · M detections of a class that count.

The rules are those of ``VOCevaldet.m`` in the VOC development kit:

- Detections are taken by falling score. Each is compared with the object of its class and image of
  the largest IoU, *difficult* objects included; of equal IoUs the object listed first wins.
- It is right where that IoU is at least 0.5 and the object has not been found before. A second
  detection of an object is wrong, even if another object would have been free.
- A detection on a difficult object is neither right nor wrong; such objects need not be found.

``>=`` is the kit's comparison; its Python ports use ``>``. They differ on an IoU of exactly 0.5.
The kit counts pixels from 1 and adds 1 to every side; a kit box (x1, y1, x2, y2) is
(x1 - 1, y1 - 1, x2, y2) in our continuous coordinates, so that the plain x2 - x1 here is the same
width and the IoU is the same number.

Two things that the kit leaves open are fixed here. Equal scores are ordered by image id, then by
the position in the image's Detections, so that the order of the images does not matter. The eleven
recalls are exactly 0/10 .. 10/10, compared as integers; `FLOAT_RECALLS` has those that the kit and
its ports compute, some of which a recall of exactly that many tenths does not reach.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from .columns import Bools, Columns, Floats, Ints

#: The least overlap of a right detection.
VOC_IOU = 0.5

_TENTHS: Floats = 0.1 * np.arange(6, dtype=np.float64)
#: The eleven recalls in floating point. ``matlab``: 0:0.1:1 of the kit, which MATLAB computes from
#: both ends; its fourth is 0.30000000000000004. ``python``: numpy.arange(0, 1.1, 0.1) of the ports,
#: whose 0.6 and 0.7 are too large as well.
FLOAT_RECALLS: Mapping[str, Floats] = {
    "matlab": np.concatenate([_TENTHS, 1 - _TENTHS[4::-1]]),
    "python": np.arange(0.0, 1.1, 0.1, dtype=np.float64),
}


@dataclass(frozen=True, eq=False)
class PrecisionRecall:
    """The ranked detections of one class.

    ``scores`` (M,) fall; ``right`` (M,) counts the true positives up to and including each row.
    Detections on ignored objects are not among the M rows. ``objects`` are those to be found,
    ``ignored`` those that need not be, and ``detections`` all that were given.
    """

    scores: Floats
    right: Ints
    objects: int
    ignored: int
    detections: int

    @property
    def recall(self) -> Floats:
        """(M,) share of the objects found so far; nan without objects."""
        if self.objects == 0:
            return np.full(len(self.right), np.nan)
        return self.right / self.objects

    @property
    def precision(self) -> Floats:
        """(M,) share of the detections so far that are right."""
        return self.right / np.arange(1, len(self.right) + 1)

    @property
    def envelope(self) -> Floats:
        """(M,) the best precision at this recall or a larger one."""
        return np.maximum.accumulate(self.precision[::-1])[::-1]


#: A function like `outcomes`: columns, order and IoU to (is it right, does it count).
Matching = Callable[[Columns, Ints, float], tuple[Bools, Bools]]


def precision_recall(
    columns: Columns, *, iou: float = 0.5, match: Matching | None = None
) -> tuple[PrecisionRecall, ...]:
    """Match the detections of a whole data set; one entry per class, in label order.

    ``iou`` in (0, 1] is the least overlap of a right detection; ``match`` replaces the rules of
    VOC. Time and memory are those of a few
    sorts of D numbers and one pass per object of the fullest (image, class).
    """
    truth, found = columns.truth, columns.found
    # A stable sort: the rows of a class by falling score, equal scores by image id and position.
    order = np.lexsort((-found.scores, found.labels))
    right, counts = (match or outcomes)(columns, order, iou)
    scores, labels = found.scores[order], found.labels[order]
    starts = np.searchsorted(labels, np.arange(columns.num_classes + 1))
    objects = np.bincount(truth.labels[~truth.ignore], minlength=columns.num_classes)
    ignored = np.bincount(truth.labels[truth.ignore], minlength=columns.num_classes)

    def curve(label: int) -> PrecisionRecall:
        rows = slice(starts[label], starts[label + 1])
        kept = counts[rows]
        return PrecisionRecall(
            scores=scores[rows][kept],
            right=np.cumsum(right[rows][kept], dtype=np.int64),
            objects=int(objects[label]),
            ignored=int(ignored[label]),
            detections=len(kept),
        )

    return tuple(curve(label) for label in range(columns.num_classes))


def area_ap(curve: PrecisionRecall) -> float:
    """Area under the envelope over recall (VOC 2010 and later); nan without objects."""
    if curve.objects == 0:
        return float("nan")
    # Recall rises by 1 / objects at each right detection and nowhere else.
    rises = np.diff(curve.right, prepend=0) > 0
    return float(curve.envelope[rises].sum() / curve.objects)


def eleven_point_ap(curve: PrecisionRecall, recalls: Floats | None = None) -> float:
    """Mean envelope at the recalls 0, 0.1 .. 1 (VOC 2007); nan without objects.

    ``recalls`` (11,), such as those of `FLOAT_RECALLS`, replace the exact ones.
    """
    if curve.objects == 0:
        return float("nan")
    if recalls is None:
        needed = -(-np.arange(11) * curve.objects // 10)  # the least count, count/objects >= k/10
    else:
        needed = np.searchsorted(np.arange(curve.objects + 1) / curve.objects, recalls)
    reached = np.searchsorted(curve.right, needed)
    # The row after the last is for recalls that are never reached.
    return float(np.append(curve.envelope, 0.0)[reached].mean())


def eleven_point_means(curves: Iterable[PrecisionRecall]) -> dict[str, float]:
    """The mean 11-point AP with each of `FLOAT_RECALLS`."""
    every = list(curves)
    return {
        name: mean_defined(eleven_point_ap(curve, recalls) for curve in every)
        for name, recalls in FLOAT_RECALLS.items()
    }


def mean_defined(values: Iterable[float]) -> float:
    """Mean of the values that are not nan; nan when there are none."""
    defined = [value for value in values if not math.isnan(value)]
    return math.fsum(defined) / len(defined) if defined else math.nan


def outcomes(columns: Columns, order: Ints, iou: float) -> tuple[Bools, Bools]:
    """For each detection in ``order`` (D,): is it right; does it count at all."""
    overlap, target = best_objects(columns)
    overlap, target = overlap[order], target[order]
    hit = overlap >= iou
    # A detection without any object has the target -1: the entry appended here.
    on_ignored = hit & np.append(columns.truth.ignore, False)[target]
    claims = np.flatnonzero(hit & ~on_ignored)
    _, first = np.unique(target[claims], return_index=True)
    right = np.zeros(len(order), dtype=bool)
    right[claims[first]] = True
    return right, ~on_ignored


def best_objects(columns: Columns) -> tuple[Floats, Ints]:
    """The object of the same image and class that each detection overlaps most.

    Returns the IoUs (D,) and the rows (D,) in ``columns.truth``; 0 and -1 where nothing overlaps.
    """
    best = np.zeros(len(columns.found.labels))
    target = np.full(len(best), -1, dtype=np.int64)
    for rows, objects, overlap in visit_objects(columns):
        better = overlap > best[rows]
        best[rows[better]] = overlap[better]
        target[rows[better]] = objects[better]
    return best, target


def visit_objects(columns: Columns) -> Iterator[tuple[Ints, Ints, Floats]]:
    """Pairs of a detection and an object of its image and class: their rows in ``columns.found``
    and ``columns.truth``, and their IoUs.

    The objects of a group are visited one after the other, as they are listed, for all detections
    at once: memory stays at a few arrays of D, however crowded an image is.
    """
    truth, found = columns.truth, columns.found
    groups = truth.labels * len(columns.image_ids) + truth.images
    by_group = np.argsort(groups, kind="stable")
    groups = groups[by_group]
    wanted = found.labels * len(columns.image_ids) + found.images
    start = np.searchsorted(groups, wanted, side="left")
    size = np.searchsorted(groups, wanted, side="right") - start

    visit = 0
    active = np.flatnonzero(size)
    while len(active):
        candidate = by_group[start[active] + visit]
        yield active, candidate, paired_iou(found.boxes[active], truth.boxes[candidate])
        visit += 1
        active = active[size[active] > visit]


def paired_iou(a: Floats, b: Floats) -> Floats:
    """IoU of row i of ``a`` (M, 4) with row i of ``b`` (M, 4); 0 where they do not overlap."""
    sides = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    shared = np.where((sides > 0).all(axis=1), sides.prod(axis=1), 0.0)
    union = (a[:, 2:] - a[:, :2]).prod(axis=1) + (b[:, 2:] - b[:, :2]).prod(axis=1) - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=shared > 0)
