"""Class-wise suppression against a plain loop."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from resdet.detection.ops.suppress import suppress
from resdet.detection.structures import Detections

Row = tuple[tuple[int, int, int, int], float, int]


def _overlap(first: tuple[int, ...], second: tuple[int, ...]) -> Fraction:
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    shared = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return Fraction(shared, sum(areas) - shared)


def plain(rows: list[Row], threshold: Fraction, limit: int) -> list[Row]:
    """Best first, the earlier of equals first; a box must not overlap a kept one too much."""
    kept: list[Row] = []
    for box, score, label in sorted(rows, key=lambda row: -row[1]):
        rivals = (other for other, _, theirs in kept if theirs == label)
        if all(_overlap(box, other) <= threshold for other in rivals):
            kept.append((box, score, label))
    return kept[:limit]


def detections(rows: list[Row]) -> Detections:
    if not rows:
        return Detections.empty()
    boxes, scores, labels = zip(*rows, strict=True)
    return Detections(
        torch.tensor(boxes, dtype=torch.float32), torch.tensor(scores), torch.tensor(labels)
    )


@st.composite
def candidates(draw: st.DrawFn) -> list[Row]:
    side = st.integers(1, 8)
    corner = st.integers(0, 8)
    score = st.sampled_from([0.125, 0.25, 0.5, 0.75])  # ties are frequent
    parts = st.tuples(corner, corner, side, side, score, st.integers(0, 2))
    return [
        ((x, y, x + w, y + h), value, label)
        for x, y, w, h, value, label in draw(st.lists(parts, max_size=20))
    ]


@given(candidates(), st.sampled_from([Fraction(1, 2), Fraction(1, 4)]), st.integers(1, 10))
def test_equals_a_plain_loop(rows: list[Row], threshold: Fraction, limit: int) -> None:
    found = suppress(detections(rows), nms_iou=float(threshold), max_detections=limit)
    expected = detections(plain(rows, threshold, limit))
    assert torch.equal(found.scores, expected.scores)
    assert sorted(zip(found.boxes.tolist(), found.labels.tolist(), strict=True)) == sorted(
        zip(expected.boxes.tolist(), expected.labels.tolist(), strict=True)
    ) or _cut_through_a_tie(rows, threshold, limit)


def _cut_through_a_tie(rows: list[Row], threshold: Fraction, limit: int) -> bool:
    """Whether the last place is shared by equal scores, of which any may be taken."""
    every = plain(rows, threshold, len(rows))
    return len(every) > limit and every[limit - 1][1] == every[limit][1]


def test_overlap_at_the_threshold_is_kept_and_above_it_is_not() -> None:
    rows: list[Row] = [((0, 0, 4, 4), 0.9, 0), ((0, 0, 4, 2), 0.8, 0), ((0, 0, 4, 3), 0.7, 0)]
    found = suppress(detections(rows), nms_iou=0.5, max_detections=100)
    assert found.scores.tolist() == pytest.approx([0.9, 0.8])


def test_the_best_hundred_of_many_classes_sorted() -> None:
    generator = torch.Generator().manual_seed(0)
    corner = torch.arange(400.0)[:, None] * 20
    every = Detections(
        torch.cat([corner, corner, corner + 10, corner + 10], dim=1),
        torch.rand(400, generator=generator),
        torch.arange(400) % 80,
    )
    found = suppress(every, nms_iou=0.5, max_detections=100)
    assert torch.equal(found.scores, every.scores.sort(descending=True).values[:100])


def test_nothing_to_suppress() -> None:
    assert len(suppress(Detections.empty(), nms_iou=0.5, max_detections=100)) == 0
