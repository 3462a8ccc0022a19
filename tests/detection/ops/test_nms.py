"""Suppression: by hand, and against plain loops."""

from __future__ import annotations

import math
from collections import defaultdict
from fractions import Fraction
from itertools import pairwise

import pytest
import torch
import torchvision.ops
from hypothesis import given, settings
from hypothesis import strategies as st
from resdet.detection.errors import ConfigError
from resdet.detection.ops import nms as nms_module
from resdet.detection.ops.nms import (
    FEW_BOXES_CPU,
    MAX_NMS_BOXES,
    Method,
    greedy_nms,
    suppress,
    vote,
)
from resdet.detection.structures import Detections

Box = tuple[float, float, float, float]
Row = tuple[Box, float, int]


def overlap(first: Box, second: Box) -> Fraction:
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    shared = Fraction(max(width, 0)) * Fraction(max(height, 0))
    areas = [Fraction(b[2] - b[0]) * Fraction(b[3] - b[1]) for b in (first, second)]
    return shared / (sum(areas) - shared)


def detections(rows: list[Row]) -> Detections:
    if not rows:
        return Detections.empty()
    boxes, scores, labels = zip(*rows, strict=True)
    return Detections(
        torch.tensor(boxes, dtype=torch.float32), torch.tensor(scores), torch.tensor(labels)
    )


def rows_of(found: Detections) -> list[Row]:
    columns = (found.boxes.tolist(), found.scores.tolist(), found.labels.tolist())
    return [(tuple(box), score, label) for box, score, label in zip(*columns, strict=True)]


def expect_equal(found: Detections, expected: list[Row]) -> None:
    """The same rows, sorted by score; rounding may swap rows of nearly the same score."""
    assert torch.equal(found.scores, found.scores.sort(descending=True).values)
    left = rows_of(found)
    for row in expected:
        same = [other for other in left if _close(other, row)]
        assert same, row
        left.remove(same[0])
    assert not left


def _close(one: Row, other: Row) -> bool:
    return one[2] == other[2] and (*one[0], one[1]) == pytest.approx(
        (*other[0], other[1]), rel=1e-4, abs=1e-5
    )


@st.composite
def candidates(draw: st.DrawFn, *, distinct: bool = False) -> list[Row]:
    """Up to twenty boxes of three classes on a small grid; scores that are often equal, or never
    so, also after a decay."""
    side, corner = st.integers(1, 8), st.integers(0, 8)
    score = st.integers(1, 9000) if distinct else st.sampled_from([1000, 2000, 4000, 6000])
    parts = st.tuples(corner, corner, side, side, st.integers(0, 2), score)
    unique = {"unique_by": lambda part: part[-1]} if distinct else {}
    return [
        ((x, y, x + w, y + h), value / 9973, label)
        for x, y, w, h, label, value in draw(st.lists(parts, max_size=20, **unique))
    ]


# ------------------------------------------------------------------------------------------- NMS


def plain_nms(rows: list[Row], threshold: Fraction, limit: int) -> list[Row]:
    """Best first, the earlier of equals first; a box must not overlap a kept one too much."""
    kept: list[Row] = []
    for box, score, label in sorted(rows, key=lambda row: -row[1]):
        overlapping = (other for other, _, theirs in kept if theirs == label)
        if all(overlap(box, other) <= threshold for other in overlapping):
            kept.append((box, score, label))
    return kept[:limit]


@given(candidates(), st.sampled_from([Fraction(1, 2), Fraction(1, 4)]), st.integers(1, 10))
def test_nms_equals_a_plain_loop(rows: list[Row], threshold: Fraction, limit: int) -> None:
    found = suppress(detections(rows), nms_iou=float(threshold), max_detections=limit)
    expected = detections(plain_nms(rows, threshold, limit))
    assert torch.equal(found.scores, expected.scores)
    assert sorted(zip(found.boxes.tolist(), found.labels.tolist(), strict=True)) == sorted(
        zip(expected.boxes.tolist(), expected.labels.tolist(), strict=True)
    ) or _cut_through_a_tie(rows, threshold, limit)


def _cut_through_a_tie(rows: list[Row], threshold: Fraction, limit: int) -> bool:
    """Whether the last place is shared by equal scores, of which any may be taken."""
    every = plain_nms(rows, threshold, len(rows))
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


def test_the_last_of_a_thousand_classes_is_treated_as_the_first() -> None:
    """Two boxes of 12 px that overlap by 0.498, in the far corner of an image."""
    shift = 4.02
    pair = [[2000.0 + x, 1000.0, 2012.0 + x, 1012.0] for x in (0.0, shift)]
    for label in (0, 999):
        every = Detections(torch.tensor(pair), torch.tensor([0.9, 0.8]), torch.tensor([label] * 2))
        assert len(suppress(every, nms_iou=0.499, max_detections=10)) == 2
        assert len(suppress(every, nms_iou=0.497, max_detections=10)) == 1


# -------------------------------------------------------------------------------------- Soft-NMS


def plain_soft_nms(
    rows: list[Row], *, floor: float, limit: int, sigma: float | None, threshold: float
) -> list[Row]:
    """Of each class the best, then all others decayed by their overlap with it, and again."""
    classes = defaultdict(list)
    for box, score, label in rows:
        classes[label].append((box, score))
    kept: list[Row] = []
    for label, members in classes.items():
        while members:
            best = max(members, key=lambda member: member[1])
            members.remove(best)
            if best[1] < floor:
                break
            kept.append((*best, label))
            for index, (box, score) in enumerate(members):
                shared = float(overlap(box, best[0]))
                if sigma is not None:
                    score *= math.exp(-(shared**2) / sigma)
                elif shared > threshold:
                    score *= 1 - shared
                members[index] = (box, score)
    return sorted(kept, key=lambda row: -row[1])[:limit]


@pytest.mark.parametrize("method", ["soft_nms", "linear_soft_nms"])
@given(candidates(distinct=True), st.sampled_from([0.2, 0.5]), st.sampled_from([3, 100]))
def test_soft_nms_equals_a_plain_loop(
    method: Method, rows: list[Row], sigma: float, limit: int
) -> None:
    floor, threshold = 0.0301, 0.31  # away from every score and overlap of the grid
    expected = plain_soft_nms(
        rows,
        floor=floor,
        limit=limit,
        sigma=sigma if method == "soft_nms" else None,
        threshold=threshold,
    )
    found = suppress(
        detections(rows),
        nms_iou=threshold,
        max_detections=limit,
        method=method,
        soft_sigma=sigma,
        soft_floor=floor,
    )
    scores = [score for _, score, _ in expected]
    assert found.scores.tolist() == pytest.approx(scores, rel=1e-4)
    if all(a > b * 1.001 for a, b in pairwise(scores)):
        expect_equal(found, expected)


TWINS: list[Row] = [((0, 0, 4, 4), 0.8, 0), ((0, 0, 4, 2), 0.6, 0), ((0, 0, 4, 4), 0.5, 1)]


def test_soft_nms_by_hand() -> None:
    """The half box decays by exp(-0.5² / 0.5); the other class does not care."""
    soft = suppress(detections(TWINS), nms_iou=0.3, max_detections=9, method="soft_nms")
    assert soft.scores.tolist() == pytest.approx([0.8, 0.5, 0.6 * math.exp(-0.5)])
    linear = suppress(detections(TWINS), nms_iou=0.3, max_detections=9, method="linear_soft_nms")
    assert linear.scores.tolist() == pytest.approx([0.8, 0.5, 0.3])
    above = suppress(detections(TWINS), nms_iou=0.5, max_detections=9, method="linear_soft_nms")
    assert above.scores.tolist() == pytest.approx([0.8, 0.6, 0.5])


def test_soft_nms_drops_what_falls_below_the_floor() -> None:
    options = {"nms_iou": 0.3, "max_detections": 9, "method": "soft_nms"}
    assert len(suppress(detections(TWINS), **options, soft_floor=0.37)) == 2
    assert len(suppress(detections(TWINS), **options, soft_floor=0.36)) == 3
    assert len(suppress(detections(TWINS), **options, soft_floor=0.9)) == 0
    assert len(suppress(detections(TWINS), **options, soft_floor=0.0)) == 3


# -------------------------------------------------------------------------- weighted-box fusion


def plain_fusion(rows: list[Row], threshold: Fraction, limit: int) -> list[Row]:
    """Lists of members, with their mean in exact fractions for every comparison."""
    groups: list[list[Row]] = []
    for row in sorted(rows, key=lambda row: -row[1]):
        overlapping = [group for group in groups if group[0][2] == row[2]]
        nearest = max(
            overlapping, key=lambda group: overlap(weighted_mean(group), row[0]), default=None
        )
        if nearest is not None and overlap(weighted_mean(nearest), row[0]) > threshold:
            nearest.append(row)
        else:
            groups.append([row])
    fused = [(tuple(map(float, weighted_mean(g))), g[0][1], g[0][2]) for g in groups]
    return sorted(fused, key=lambda row: -row[1])[:limit]


def weighted_mean(group: list[Row]) -> Box:
    scores = [Fraction(score) for _, score, _ in group]
    sides = zip(*(box for box, _, _ in group), strict=True)
    return tuple(
        sum(score * Fraction(value) for score, value in zip(scores, side, strict=True))
        / sum(scores)
        for side in sides
    )


@given(candidates(distinct=True), st.sampled_from([0.5503, 0.2503]), st.sampled_from([3, 100]))
def test_fusion_equals_a_plain_loop(rows: list[Row], threshold: float, limit: int) -> None:
    options = {"nms_iou": threshold, "max_detections": limit, "method": "wbf", "soft_floor": 0.0}
    expect_equal(
        suppress(detections(rows), **options), plain_fusion(rows, Fraction(threshold), limit)
    )


def test_fusion_by_hand() -> None:
    """Weights 3 : 1 of two boxes that overlap by 3/4. What they make overlaps the third by 0.53,
    which is less than the first alone does: each box is compared with the mean so far."""
    rows: list[Row] = [
        ((0, 0, 8, 8), 0.6, 0),
        ((0, 0, 8, 6), 0.2, 0),
        ((0, 3.5, 8, 8), 0.1, 0),
        ((0, 0, 8, 6), 0.3, 1),
    ]
    options = {"max_detections": 9, "method": "wbf"}
    found = suppress(detections(rows), nms_iou=0.55, **options)
    assert found.boxes.tolist() == [[0, 0, 8, 7.5], [0, 0, 8, 6], [0, 3.5, 8, 8]]
    assert found.scores.tolist() == pytest.approx([0.6, 0.3, 0.1])
    without = suppress(detections(rows), nms_iou=0.55, **options, soft_floor=0.25)
    assert without.boxes.tolist() == [[0, 0, 8, 8], [0, 0, 8, 6]]
    apart = suppress(detections(rows), nms_iou=0.76, **options)
    assert len(apart) == 4


# ---------------------------------------------------------------------------------------- voting


def plain_vote(survivors: list[Row], rows: list[Row], threshold: Fraction) -> list[tuple[Row, Row]]:
    """Each survivor after the vote: with its own score, and with the voters' mean score."""
    voted = []
    for box, score, label in survivors:
        voters = [
            (b, s) for b, s, theirs in rows if theirs == label and overlap(b, box) >= threshold
        ]
        total = sum(s for _, s in voters)
        mean = tuple(sum(b[side] * s for b, s in voters) / total for side in range(4))
        voted.append(((mean, score, label), (mean, total / len(voters), label)))
    return voted


@given(candidates(distinct=True), st.sampled_from([Fraction(1, 2), Fraction(1, 4), Fraction(0)]))
def test_voting_equals_a_plain_loop(rows: list[Row], threshold: Fraction) -> None:
    survivors = plain_nms(rows, Fraction(3, 10), 100)
    voted = plain_vote(survivors, rows, threshold)
    options = {"nms_iou": 0.3, "max_detections": 100, "vote_iou": float(threshold)}
    expect_equal(suppress(detections(rows), **options), [keep for keep, _ in voted])
    average = suppress(detections(rows), **options, vote_score="average")
    expect_equal(average, [mean for _, mean in voted])


def test_voting_by_hand() -> None:
    """Weights 3 : 1 of two boxes that overlap by 3/4; the far box and the other class are left."""
    rows: list[Row] = [
        ((0, 0, 8, 8), 0.6, 0),
        ((0, 0, 8, 6), 0.2, 0),
        ((0, 6, 8, 8), 0.5, 0),
        ((0, 0, 8, 6), 0.3, 1),
    ]
    options = {"nms_iou": 0.3, "max_detections": 9}
    found = suppress(detections(rows), **options, vote_iou=0.75)
    assert found.boxes.tolist() == [[0, 0, 8, 7.5], [0, 6, 8, 8], [0, 0, 8, 6]]
    assert found.scores.tolist() == pytest.approx([0.6, 0.5, 0.3])
    above = suppress(detections(rows), **options, vote_iou=0.76)
    assert above.boxes[0].tolist() == [0, 0, 8, 8]
    average = suppress(detections(rows), **options, vote_iou=0.75, vote_score="average")
    assert average.scores.tolist() == pytest.approx([0.5, 0.4, 0.3])  # sorted again
    assert average.boxes[1].tolist() == [0, 0, 8, 7.5]


def test_all_candidates_vote_also_those_that_soft_nms_or_the_limit_left_out() -> None:
    rows: list[Row] = [((0, 0, 8, 8), 0.6, 0), ((0, 0, 8, 6), 0.2, 0)]
    options = {"nms_iou": 0.9, "vote_iou": 0.5}
    limited = suppress(detections(rows), **options, max_detections=1)
    soft = suppress(
        detections(rows), **options, max_detections=9, method="soft_nms", soft_floor=0.3
    )
    assert limited.boxes.tolist() == soft.boxes.tolist() == [[0, 0, 8, 7.5]]


def test_the_average_of_voters_does_not_undo_soft_nms() -> None:
    """A box found three times: 0.9, 0.8 and 0.7. Of the twins exp(-1 / 0.5) and its square are
    left, whatever the voters say, so that the lone second object stays ahead of them."""
    rows: list[Row] = [((0, 0, 8, 8), score, 0) for score in (0.9, 0.8, 0.7)]
    rows.append(((50, 50, 58, 58), 0.3, 0))
    found = suppress(
        detections(rows),
        nms_iou=0.5,
        max_detections=9,
        method="soft_nms",
        vote_iou=0.5,
        vote_score="average",
    )
    once, twice = 0.8 * math.exp(-2), 0.8 * math.exp(-4)
    assert found.scores.tolist() == pytest.approx([0.8, 0.3, once, twice])
    assert found.boxes[1].tolist() == [50, 50, 58, 58]


def test_a_box_without_neighbours_or_area_keeps_its_place() -> None:
    boxes = torch.tensor([[0.1, 0.3, 33.3, 77.7], [1e3, 1e3, 1e3 + 0.7, 1e3 + 0.9], [5, 5, 5, 9.0]])
    alone = Detections(boxes, torch.tensor([0.9, 1e-30, 0.1]), torch.zeros(3, dtype=torch.int64))
    for score in ("keep", "average"):
        voted = vote(alone, alone, iou=0.5, score=score)
        torch.testing.assert_close(voted.boxes, alone.boxes, rtol=1e-6, atol=0)
        torch.testing.assert_close(voted.scores, alone.scores, rtol=1e-6, atol=0)


def test_a_half_precision_network_does_not_round_the_boxes() -> None:
    """Autocast would turn the weighted sum into a bfloat16 product, exact to 1/256."""
    rows: list[Row] = [((500.5, 500.5, 803.25, 801.75), 0.6, 0), ((500, 500, 803, 802), 0.2, 0)]
    options = {"nms_iou": 0.5, "max_detections": 9, "vote_iou": 0.5}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = suppress(detections(rows), **options)
    assert found.boxes[0].tolist() == pytest.approx([500.375, 500.375, 803.1875, 801.8125])


# ----------------------------------------------------------------------------------------- total

VARIANTS = [
    {"method": method} | voting
    for method in ("nms", "soft_nms", "linear_soft_nms", "wbf")
    for voting in ({}, {"vote_iou": 0.5}, {"vote_iou": 0.5, "vote_score": "average"})
]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_nothing_and_a_single_detection(variant: dict) -> None:
    options = variant | {"nms_iou": 0.5, "max_detections": 100}
    assert len(suppress(Detections.empty(), **options)) == 0
    found = suppress(detections([((1, 2, 3, 5), 0.25, 7)]), **options)
    assert rows_of(found) == [((1, 2, 3, 5), 0.25, 7)]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@given(rows=candidates())
@settings(max_examples=25)
def test_every_variant_is_sorted_limited_and_inside_its_candidates(
    variant: dict, rows: list[Row]
) -> None:
    every = detections(rows)
    found = suppress(every, nms_iou=0.5, max_detections=5, **variant)
    assert len(found) == min(5, len(found)) <= len(every)
    assert torch.equal(found.scores, found.scores.sort(descending=True).values)
    for box, score, label in rows_of(found):
        own = [row for row in rows if row[2] == label]
        assert score <= max(s for _, s, _ in own) + 1e-6
        for side in range(4):
            sides = [b[side] for b, _, _ in own]
            assert min(sides) - 1e-4 <= box[side] <= max(sides) + 1e-4


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_a_thousand_classes(variant: dict) -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(1000).repeat_interleave(20)
    corner = torch.rand(20_000, 2, generator=generator) * 50
    size = torch.rand(20_000, 2, generator=generator) * 50 + 10
    scores = torch.rand(20_000, generator=generator)
    every = Detections(torch.cat([corner, corner + size], dim=1), scores, labels)
    options = variant | {"nms_iou": 0.5, "max_detections": 100, "soft_floor": 0.75}
    found = suppress(every, **options)
    assert len(found) == 100
    if variant.get("vote_score") == "average":
        return  # resorts its hundred, which are then not the best of each class
    for label in found.labels.unique()[:5]:  # as if there were no other class
        apart = suppress(every[labels == label], **options)
        mine = found[found.labels == label]
        torch.testing.assert_close(mine.boxes, apart.boxes[: len(mine)])
        torch.testing.assert_close(mine.scores, apart.scores[: len(mine)])


def test_nms_that_a_gpu_cannot_count_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: n boxes take n x ceil(n / 64) words, below 2^31 for the largest n allowed."""
    assert MAX_NMS_BOXES * math.ceil(MAX_NMS_BOXES / 64) < 2**31
    count = MAX_NMS_BOXES + 1
    boxes, scores = torch.empty(count, 4, device="meta"), torch.empty(count, device="meta")
    with pytest.raises(ConfigError, match=f"NMS of {count} boxes.*rpn.pre_nms"):
        greedy_nms(boxes, scores, iou=0.5)
    monkeypatch.setattr(nms_module, "MAX_NMS_BOXES", 1)
    apart = torch.tensor([[0.0, 0.0, 1.0, 1.0], [5.0, 5.0, 6.0, 6.0]])
    assert greedy_nms(apart, torch.tensor([0.1, 0.9]), iou=0.5).tolist() == [1, 0], "a CPU can"


@pytest.mark.parametrize("count", [0, 1, FEW_BOXES_CPU, FEW_BOXES_CPU + 1, 3000])
def test_class_wise_nms_equals_torchvision(count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    corners = torch.rand(count, 2, generator=generator) * 200
    sides = torch.rand(count, 2, generator=generator) * 100 + 1
    found = Detections(
        torch.cat([corners, corners + sides], dim=1),
        torch.rand(count, generator=generator),
        torch.randint(0, 7, (count,), generator=generator),
    )
    kept = torchvision.ops.batched_nms(
        found.boxes.double(), found.scores.double(), found.labels, 0.4
    )
    survivors = nms_module.nms(found, iou=0.4)
    expected = found[kept]
    assert torch.equal(survivors.boxes, expected.boxes)
    assert torch.equal(survivors.scores, expected.scores)
    assert torch.equal(survivors.labels, expected.labels)
    assert len(kept) < count or count < 2
