"""Precision and recall at score thresholds, and the threshold with the largest F1.

F1 is the harmonic mean of precision and recall, 2 right / (taken + objects). What is not defined,
such as the precision where nothing is taken, is nan.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from .columns import Floats
from .voc import PrecisionRecall

#: The scores of the table of thresholds.
THRESHOLDS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True)
class OperatingPoint:
    """The detections with a score of at least ``score``: how many, and how many are right at
    IoU >= 0.5 by VOC's rules. Those of ignored objects do not count."""

    score: float
    detections: int
    right: int
    precision: float
    recall: float
    f1: float


def at_threshold(curve: PrecisionRecall, score: float) -> OperatingPoint:
    """The operating point at a score; nan, at which nothing is taken, is a score like any other."""
    taken = int(np.searchsorted(-curve.scores, -score, side="right")) if score == score else 0
    right = int(curve.right[taken - 1]) if taken else 0
    return point_of(score, taken, right, curve.objects)


def point_of(score: float, taken: int, right: int, objects: int) -> OperatingPoint:
    """The operating point where so many detections are ``taken``, of which ``right`` are right."""
    return OperatingPoint(
        score,
        taken,
        right,
        right / taken if taken else math.nan,
        right / objects if objects else math.nan,
        2 * right / (taken + objects) if objects else math.nan,
    )


def best_f1(curve: PrecisionRecall) -> OperatingPoint:
    """The operating point where F1 is largest; of equal F1 the highest threshold.

    A threshold cannot separate equal scores, so only the last of them is considered.
    """
    if curve.objects == 0:
        return OperatingPoint(math.nan, 0, 0, math.nan, math.nan, math.nan)
    if not curve.right.any():
        precision = 0.0 if len(curve.right) else math.nan
        return OperatingPoint(math.nan, 0, 0, precision, 0.0, 0.0)
    last = np.flatnonzero(np.diff(curve.scores, append=-np.inf))
    # 2PR / (P + R) with P = right / taken and R = right / objects.
    f1: Floats = 2 * curve.right[last] / (last + 1 + curve.objects)
    return at_threshold(curve, float(curve.scores[last[f1.argmax()]]))


def pooled(curves: Sequence[PrecisionRecall]) -> PrecisionRecall:
    """All classes as one: their detections in one ranking."""
    scores = np.concatenate([np.zeros(0), *(curve.scores for curve in curves)])
    rights = [np.diff(curve.right, prepend=0) for curve in curves]
    right = np.concatenate([np.zeros(0, dtype=np.int64), *rights])
    order = np.argsort(-scores, kind="stable")
    return PrecisionRecall(
        scores=scores[order],
        right=np.cumsum(right[order], dtype=np.int64),
        objects=sum(curve.objects for curve in curves),
        ignored=sum(curve.ignored for curve in curves),
        detections=sum(curve.detections for curve in curves),
    )


def threshold_table(curve: PrecisionRecall, scores: Iterable[float]) -> list[OperatingPoint]:
    """The operating points at several scores, rising."""
    return [at_threshold(curve, score) for score in sorted(set(scores))]
