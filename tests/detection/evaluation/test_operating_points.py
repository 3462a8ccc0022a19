"""Precision, recall and F1 at score thresholds, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from resdet.detection.evaluation.operating_points import (
    at_threshold,
    best_f1,
    pooled,
    threshold_table,
)
from resdet.detection.evaluation.voc import PrecisionRecall


def curve(scores: list[float], hits: list[int], objects: int) -> PrecisionRecall:
    right = np.cumsum(np.array(hits, dtype=np.int64))
    return PrecisionRecall(np.array(scores), right, objects, 0, len(scores))


#: Four objects; the second and third detection cannot be told apart by a threshold.
CURVE = curve([0.9, 0.5, 0.5, 0.2], [1, 0, 1, 0], 4)


def test_by_hand() -> None:
    half = at_threshold(CURVE, 0.5)  # the threshold itself counts
    assert (half.detections, half.right) == (3, 2)
    assert (half.precision, half.recall) == (pytest.approx(2 / 3), 0.5)
    assert half.f1 == pytest.approx(2 * (2 / 3) * 0.5 / (2 / 3 + 0.5))
    assert at_threshold(CURVE, 0.50001).detections == 1
    none = at_threshold(CURVE, 0.95)
    assert math.isnan(none.precision) and (none.recall, none.f1) == (0, 0)
    assert best_f1(CURVE).score == 0.5
    assert [point.score for point in threshold_table(CURVE, [0.9, 0.1, 0.9])] == [0.1, 0.9]


def test_nothing_to_find_or_nothing_found() -> None:
    nothing = at_threshold(curve([], [], 0), 0.5)
    assert all(map(math.isnan, (nothing.precision, nothing.recall, nothing.f1)))
    wrong = at_threshold(curve([0.7], [0], 0), 0.5)
    assert wrong.precision == 0 and math.isnan(wrong.recall) and math.isnan(wrong.f1)
    assert math.isnan(best_f1(curve([0.7], [0], 3)).score)
    assert best_f1(curve([], [], 3)).recall == 0


def test_classes_together() -> None:
    together = pooled([CURVE, curve([0.6, 0.1], [1, 1], 2)])
    assert together.scores.tolist() == [0.9, 0.6, 0.5, 0.5, 0.2, 0.1]
    assert together.right.tolist() == [1, 2, 2, 3, 3, 4] and together.objects == 6
    point = at_threshold(together, 0.5)
    assert (point.precision, point.recall) == (3 / 4, 3 / 6)
    assert pooled([]).objects == 0 and len(pooled([]).scores) == 0
