"""What is wrong with detections: the error types of TIDE and what each of them costs.

D detections · R objects · K classes. The definitions are those of Bolya et al., "TIDE: A General
Toolbox for Identifying Object Detection Errors" (arXiv:2008.08115), with t_f = 0.5 and t_b = 0.1:

Detections are taken by falling score; each takes the free object of its class that it overlaps
most, if by an IoU of at least t_f (COCO's matching). A detection that takes none is wrong, and the
first of these that fits is its error type. An object that is not found and that no classification
or localization error is about is missed.

Objects to be ignored are taken by none; a detection with at least t_f of its area in one of its
class is neither right nor wrong. Whether a detection is right, and its type, depends only on
detections of higher scores, so that both hold for every score threshold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .columns import Bools, Columns, Floats, Ints
from .voc import mean_defined, paired_iou

#: TIDE's t_f and t_b.
FOREGROUND, BACKGROUND = 0.5, 0.1

#: The kinds of detections, `ErrorTypes.kinds` by number, with their definitions.
KINDS: Mapping[str, str] = {
    "right": "of the class of the object it takes, IoU >= 0.5",
    "localization": "right class, 0.1 <= IoU < 0.5",
    "classification": "wrong class, IoU >= 0.5",
    "duplicate": "right class, IoU >= 0.5, of an object that a detection of a higher score takes",
    "background": "IoU < 0.1 with every object",
    "both": "wrong class, 0.1 <= IoU < 0.5",
    "ignored": "half or more of its area in an object to be ignored of its class",
}
#: Error types, in the order in which they are shown, with their definitions.
ERRORS: Mapping[str, str] = {
    name: KINDS[name]
    for name in ("classification", "localization", "both", "duplicate", "background")
} | {"missed": "an object that is not found, and that no classification or localization error hits"}

_NUMBER = {name: number for number, name in enumerate(KINDS)}


@dataclass(frozen=True, eq=False)
class ErrorTypes:
    """``kinds`` (D,): the number in KINDS of each detection; ``targets`` (D,): the object that it
    takes or that its error is about, -1 for background and ignored; rows as in ``columns``."""

    columns: Columns
    kinds: Ints
    targets: Ints

    @cached_property
    def found_by(self) -> Ints:
        """(R,) the detection that takes each object; -1 without one."""
        found = np.full(len(self.columns.truth.labels), -1, dtype=np.int64)
        rows = np.flatnonzero(self.kinds == _NUMBER["right"])
        found[self.targets[rows]] = rows
        return found

    def missed(self, thresholds: Floats) -> Bools:
        """(R,) the missed objects where only detections of class k with a score of at least
        ``thresholds[k]`` (K,) count; nan: none of them."""
        taken = self.columns.truth.ignore.copy()
        kept = self.kept(thresholds)
        hit = np.isin(self.kinds, [_NUMBER[n] for n in ("right", "classification", "localization")])
        taken[self.targets[kept & hit]] = True
        return ~taken

    def kept(self, thresholds: Floats) -> Bools:
        """(D,) the detections that count."""
        found = self.columns.found
        return found.scores >= thresholds[found.labels]

    def counts(self, thresholds: Floats) -> dict[str, Ints]:
        """(K,) by error type: wrong detections by their class, missed objects by theirs."""
        found, truth, classes = self.columns.found, self.columns.truth, self.columns.num_classes
        kept, missed = self.kept(thresholds), self.missed(thresholds)
        rows = {name: kept & (self.kinds == _NUMBER[name]) for name in ERRORS if name != "missed"}
        counts = {name: np.bincount(found.labels[r], minlength=classes) for name, r in rows.items()}
        return counts | {"missed": np.bincount(truth.labels[missed], minlength=classes)}

    def costs(self) -> dict[str, float]:
        """TIDE's dAP: how much AP at IoU 0.5 (101 recalls, mean over classes with objects, all
        scores) would rise if the errors of one type alone were mended.

        A classification or localization error becomes right unless its object is found or hit by
        another of a higher score; all other wrong detections are dropped; missed objects are not
        asked for.
        """
        right = self.kinds == _NUMBER["right"]
        counts = self.kinds != _NUMBER["ignored"]
        truth, labels = self.columns.truth, self.columns.found.labels
        objects = np.bincount(truth.labels[~truth.ignore], minlength=self.columns.num_classes)
        own = self._mean_ap(labels, right, counts, objects)
        mended = self._mended()
        costs = {}
        for name in ERRORS:
            if name == "missed":
                every = self.missed(np.full(self.columns.num_classes, -np.inf))
                lost = np.bincount(truth.labels[every], minlength=len(objects))
                costs[name] = self._mean_ap(labels, right, counts, objects - lost) - own
                continue
            wrong = self.kinds == _NUMBER[name]
            become = wrong & mended
            classes = np.where(become, np.append(truth.labels, -1)[self.targets], labels)
            costs[name] = (
                self._mean_ap(classes, right | become, counts & (become | ~wrong), objects) - own
            )
        return costs

    def _mended(self) -> Bools:
        """(D,) the classification and localization errors that become right if mended: the first
        by score of each object that is not found."""
        scores = self.columns.found.scores
        hit = [_NUMBER[name] for name in ("classification", "localization")]
        rows = np.flatnonzero(np.isin(self.kinds, hit))
        rows = rows[self.found_by[self.targets[rows]] < 0]
        rows = rows[np.argsort(-scores[rows], kind="stable")]
        _, first = np.unique(self.targets[rows], return_index=True)
        best = np.zeros(len(scores), dtype=bool)
        best[rows[first]] = True
        return best

    def _mean_ap(self, labels: Ints, right: Bools, counts: Bools, objects: Ints) -> float:
        truth = self.columns.truth
        present = np.bincount(truth.labels[~truth.ignore], minlength=len(objects)) > 0
        order = self._ranked[counts[self._ranked]]
        order = order[np.argsort(labels[order], kind="stable")]
        starts = np.searchsorted(labels[order], np.arange(len(objects) + 1))
        return mean_defined(
            _sampled_ap(right[order[starts[label] : starts[label + 1]]], int(objects[label]))
            for label in np.flatnonzero(present)
        )

    @cached_property
    def _ranked(self) -> Ints:
        """(D,) the rows of all detections by falling score; equal ones by image and position."""
        return np.argsort(-self.columns.found.scores, kind="stable")


def error_types(columns: Columns) -> ErrorTypes:
    """Match each image's detections with its objects, whatever their class."""
    truth, found = columns.truth, columns.found
    order = np.argsort(-found.scores, kind="stable")  # equal scores by image and position
    rows, objects, overlaps, ignored = _pairs(columns, order)
    same = found.labels[order[rows]] == truth.labels[objects]
    fit = same & (overlaps >= FOREGROUND)
    taken = _take(rows[fit], objects[fit], len(order))
    own, own_target = _best(rows[same], objects[same], overlaps[same], len(order))
    other, other_target = _best(rows[~same], objects[~same], overlaps[~same], len(order))
    # The order of the conditions is that of tidecv; the last one is what remains.
    kinds, targets = np.full(len(order), _NUMBER["both"]), other_target
    for name, condition, target in (
        ("background", np.maximum(own, other) < BACKGROUND, -1),
        ("duplicate", own >= FOREGROUND, own_target),
        ("classification", other >= FOREGROUND, other_target),
        ("localization", (own >= BACKGROUND) & (own < FOREGROUND), own_target),
        ("ignored", ignored, -1),
        ("right", taken >= 0, taken),
    ):
        kinds, targets = (
            np.where(condition, _NUMBER[name], kinds),
            np.where(condition, target, targets),
        )
    placed_kinds, placed_targets = np.empty_like(kinds), np.empty_like(targets)
    placed_kinds[order], placed_targets[order] = kinds, targets
    return ErrorTypes(columns, placed_kinds, placed_targets)


def _pairs(columns: Columns, order: Ints) -> tuple[Ints, Ints, Floats, Bools]:
    """The pairs of a detection and an object of one image with an IoU of at least BACKGROUND:
    places in ``order``, objects and IoUs, by place and falling IoU; and (D,) who is ignored."""
    truth, found = columns.truth, columns.found
    starts = np.searchsorted(truth.images, np.arange(len(columns.image_ids) + 1))
    where, ignored = found.images[order], np.zeros(len(order), dtype=bool)
    first, end = starts[where], starts[where + 1]
    parts = [(order[:0], order[:0], np.zeros(0))]
    # One object of every image at a time: memory stays at a few arrays of the detections.
    for visit in range(int((end - first).max(initial=0))):
        active = np.flatnonzero(first + visit < end)
        objects = first[active] + visit
        boxes, other = found.boxes[order[active]], truth.boxes[objects]
        left_out = truth.ignore[objects]
        same = found.labels[order[active]] == truth.labels[objects]
        ignored[active] |= left_out & same & (_inside(boxes, other) >= FOREGROUND)
        overlap = paired_iou(boxes, other)
        close = ~left_out & (overlap >= BACKGROUND)
        parts.append((active[close], objects[close], overlap[close]))
    rows, objects, overlaps = (np.concatenate(part) for part in zip(*parts, strict=True))
    by_overlap = np.lexsort((objects, -overlaps, rows))
    return rows[by_overlap], objects[by_overlap], overlaps[by_overlap], ignored


def _inside(boxes: Floats, other: Floats) -> Floats:
    """(M,) the share of the area of each box that lies in the other one."""
    sides = np.minimum(boxes[:, 2:], other[:, 2:]) - np.maximum(boxes[:, :2], other[:, :2])
    shared = np.where((sides > 0).all(axis=1), sides.prod(axis=1), 0.0)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return np.divide(shared, areas, out=np.zeros_like(shared), where=shared > 0)


def _take(rows: Ints, objects: Ints, count: int) -> Ints:
    """(count,) the object that each row takes, its first one that is still free; -1 without."""
    taken, free = [-1] * count, dict.fromkeys(objects.tolist(), True)
    for row, target in zip(rows.tolist(), objects.tolist(), strict=True):
        if taken[row] < 0 and free[target]:
            taken[row], free[target] = target, False
    return np.array(taken, dtype=np.int64)


def _best(rows: Ints, objects: Ints, overlaps: Floats, count: int) -> tuple[Floats, Ints]:
    """(count,) the largest IoU of each row and its object; 0 and -1 without a pair."""
    best, target = np.zeros(count), np.full(count, -1, dtype=np.int64)
    each, first = np.unique(rows, return_index=True)
    best[each], target[each] = overlaps[first], objects[first]
    return best, target


def _sampled_ap(right: Bools, objects: int) -> float:
    """AP at the 101 recalls 0, 0.01 .. 1 of ranked detections; 0 without objects."""
    if objects == 0:
        return 0.0
    hits = np.cumsum(right)
    precision = hits / np.arange(1, len(right) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    reached = np.searchsorted(hits / objects, np.linspace(0, 1, 101), side="left")
    return float(np.append(envelope, 0.0)[reached].mean())
