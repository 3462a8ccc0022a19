"""Matching against a plain loop, its memory, and how many boxes are sampled."""

from __future__ import annotations

import subprocess
import sys
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from resdet.detection.ops.matching import (
    CHUNK,
    NEGATIVE,
    NEITHER,
    POSITIVE,
    Sampler,
    match,
    sample,
    sample_images_evenly,
)
from resdet.detection.structures import Annotation
from torch import Tensor
from torchvision.ops import box_iou

NONE = torch.zeros(0, 4)
TRUTH = torch.tensor([[0.0, 0.0, 10.0, 10.0]])


def plain(
    boxes: Tensor, truth: Tensor, *, high: float, low: float, lowest: float, low_quality: bool
) -> tuple[list[int], list[int]]:
    """``(index, state)`` box by box, as the papers say it."""
    overlaps = box_iou(boxes, truth).tolist()
    best_of_object = [max(row[g] for row in overlaps) for g in range(len(truth))]
    indices, states = [], []
    for row in overlaps:
        best = max(row)
        indices.append(row.index(best))
        state = NEITHER
        if lowest <= best < low:
            state = NEGATIVE
        if best >= high:
            state = POSITIVE
        for value, largest in zip(row, best_of_object, strict=True):
            if low_quality and value == largest and value > 0:
                state = POSITIVE
        states.append(state)
    return indices, states


@st.composite
def integer_boxes(draw: st.DrawFn, least: int, most: int) -> Tensor:
    """Small integers, so that equal overlaps are frequent."""
    side, corner = st.integers(1, 6), st.integers(0, 8)
    rows = draw(st.lists(st.tuples(corner, corner, side, side), min_size=least, max_size=most))
    return torch.tensor([[x, y, x + w, y + h] for x, y, w, h in rows], dtype=torch.float32)


@given(
    integer_boxes(1, 20),
    integer_boxes(1, 8),
    st.sampled_from([(0.7, 0.3, 0.0), (0.5, 0.5, 0.0), (0.5, 0.5, 0.1), (0.25, 0.5, 0.25)]),
    st.booleans(),
)
def test_equals_a_plain_loop(
    boxes: Tensor, truth: Tensor, thresholds: tuple[float, float, float], low_quality: bool
) -> None:
    high, low, lowest = thresholds
    found = match(
        boxes,
        truth,
        positive_iou=high,
        negative_iou=low,
        negative_iou_low=lowest,
        low_quality=low_quality,
    )
    index, state = plain(boxes, truth, high=high, low=low, lowest=lowest, low_quality=low_quality)
    assert found.index.tolist() == index
    assert found.state.tolist() == state


@pytest.mark.parametrize("objects", [CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5])
def test_more_objects_than_are_compared_at_a_time(objects: int) -> None:
    generator = torch.Generator().manual_seed(objects)

    def draw(count: int) -> Tensor:
        corner = torch.randint(0, 60, (count, 2), generator=generator)
        side = torch.randint(1, 30, (count, 2), generator=generator)
        return torch.cat([corner, corner + side], dim=1).float()

    boxes, truth = draw(300), draw(objects)
    found = match(boxes, truth, positive_iou=0.7, negative_iou=0.3, low_quality=True)
    index, state = plain(boxes, truth, high=0.7, low=0.3, lowest=0.0, low_quality=True)
    assert found.index.tolist() == index
    assert found.state.tolist() == state
    assert max(index) >= min(objects, CHUNK) - 8


def test_positive_threshold_is_inclusive_negative_threshold_exclusive() -> None:
    boxes = torch.tensor([[0.0, 0.0, 10.0, 5.0], [0.0, 0.0, 5.0, 5.0], [0.0, 0.0, 10.0, 4.0]])
    found = match(boxes, TRUTH, positive_iou=0.5, negative_iou=0.25)
    assert found.state.tolist() == [POSITIVE, NEITHER, NEITHER]
    found = match(boxes, TRUTH, positive_iou=0.6, negative_iou=0.5, negative_iou_low=0.25)
    assert found.state.tolist() == [NEITHER, NEGATIVE, NEGATIVE]


def test_all_best_boxes_of_an_object_are_positive_and_keep_their_own_best_object() -> None:
    boxes = torch.tensor([[0.0, 0.0, 10.0, 2.0], [0.0, 8.0, 10.0, 10.0], [0.0, 4.0, 5.0, 6.0]])
    found = match(boxes, TRUTH, positive_iou=0.7, negative_iou=0.3, low_quality=True)
    assert found.state.tolist() == [POSITIVE, POSITIVE, NEGATIVE]
    # The only box of a small object lies on a large one, to which it belongs.
    truth = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 2.0, 2.0]])
    found = match(truth[:1], truth, positive_iou=0.7, negative_iou=0.3, low_quality=True)
    assert (found.state.tolist(), found.index.tolist()) == ([POSITIVE], [0])


def test_an_object_that_touches_no_box_makes_none_positive() -> None:
    boxes = torch.tensor([[20.0, 20.0, 30.0, 30.0], [40.0, 40.0, 50.0, 50.0]])
    for positive_iou in (0.7, 0.0):
        found = match(boxes, TRUTH, positive_iou=positive_iou, negative_iou=0.3, low_quality=True)
        assert found.state.tolist() == [NEGATIVE, NEGATIVE]


@pytest.mark.parametrize("low_quality", [True, False])
def test_empty_sides(low_quality: bool) -> None:
    nothing = match(TRUTH, NONE, positive_iou=0.0, negative_iou=0.3, low_quality=low_quality)
    assert nothing.state.tolist() == [NEGATIVE]
    nothing = match(NONE, TRUTH, positive_iou=0.7, negative_iou=0.3, low_quality=low_quality)
    assert nothing.state.shape == nothing.index.shape == (0,)
    nothing = match(NONE, NONE, positive_iou=0.7, negative_iou=0.3, low_quality=low_quality)
    assert nothing.state.shape == (0,)


PEAK = """
import resource, torch
from resdet.detection.ops.matching import match
def crowd(count):
    corner = torch.rand(count, 2) * 900
    return torch.cat([corner, corner + torch.rand(count, 2) * 99 + 1], dim=1)
boxes, truth = crowd(20_000), crowd(2_000)
match(boxes[:500], truth[:70], positive_iou=0.7, negative_iou=0.3, low_quality=True)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
match(boxes, truth, positive_iou=0.7, negative_iou=0.3, low_quality=True)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ru_maxrss is in KiB on Linux")
def test_memory_does_not_grow_with_the_crowd() -> None:
    """One number for each of 2,000 x 20,000 pairs is 153 MiB; the whole call stays below."""
    done = subprocess.run(
        [sys.executable, "-c", PEAK], capture_output=True, text=True, check=True, timeout=60
    )
    assert int(done.stdout) < 128


def states(positives: int, negatives: int, neither: int) -> Tensor:
    values = [POSITIVE] * positives + [NEGATIVE] * negatives + [NEITHER] * neither
    order = torch.randperm(len(values), generator=torch.Generator().manual_seed(1))
    return torch.tensor(values, dtype=torch.int64)[order]


@pytest.mark.parametrize(
    ("available", "expected"),
    [
        ((50, 500, 9), (16, 48)),  # positives are cut to the fraction
        ((5, 500, 9), (5, 59)),  # negatives fill the rest
        ((5, 20, 9), (5, 20)),  # fewer than asked for: all
        ((50, 0, 9), (16, 0)),  # positives never fill the place of negatives
        ((0, 0, 9), (0, 0)),
        ((0, 0, 0), (0, 0)),
    ],
)
def test_sample_counts(available: tuple[int, int, int], expected: tuple[int, int]) -> None:
    state = states(*available)
    positives, negatives = sample(
        state, count=64, positive_fraction=0.25, generator=torch.Generator().manual_seed(0)
    )
    assert (len(positives), len(negatives)) == expected
    assert (state[positives] == POSITIVE).all()
    assert (state[negatives] == NEGATIVE).all()
    assert len(positives.unique()) + len(negatives.unique()) == sum(expected)


def test_sampling_depends_on_the_generator_only_and_reaches_every_box() -> None:
    state = states(40, 40, 0)
    seen = torch.zeros(80)
    for seed in range(200):
        draws = []
        for _ in range(2):
            generator = torch.Generator().manual_seed(seed)
            draws.append(sample(state, count=20, positive_fraction=0.5, generator=generator))
            torch.rand(1)  # the global generator moves on and must not matter
        assert all(torch.equal(a, b) for a, b in zip(*draws, strict=True))
        seen[torch.cat(draws[0])] += 1
    # 50 times each on average, with a std of 6.1
    assert seen.min() > 20
    assert seen.max() < 80


@pytest.mark.parametrize(
    ("available", "expected"),
    [
        ((50, 500, 9), (32, 32)),
        ((5, 500, 9), (32, 32)),  # each of the five at least six times
        ((5, 0, 9), (32, 0)),
        ((0, 20, 9), (0, 32)),
        ((0, 0, 9), (0, 0)),
    ],
)
def test_sample_evenly_counts(available: tuple[int, int, int], expected: tuple[int, int]) -> None:
    state = states(*available)
    generator = torch.Generator().manual_seed(0)
    [found] = sample_images_evenly(state[None], count=64, generators=[generator])
    positives, negatives = found
    assert (len(positives), len(negatives)) == expected
    assert (state[positives] == POSITIVE).all()
    assert (state[negatives] == NEGATIVE).all()
    for drawn in (positives, negatives):
        times = drawn.unique(return_counts=True)[1]
        assert len(times) == 0 or times.max() - times.min() <= 1


def test_a_sampler_gives_each_positive_its_object_and_leaves_out_ignored_regions() -> None:
    truth = Annotation(
        torch.tensor([[50.0, 50.0, 60.0, 60.0], [0.0, 0.0, 10.0, 10.0], [20.0, 0.0, 30.0, 10.0]]),
        torch.tensor([7, 8, 9]),
        torch.tensor([True, False, False]),
    )
    boxes = torch.tensor(
        [
            [20.0, 0.0, 30.0, 9.0],  # the last object
            [51.0, 51.0, 59.0, 59.0],  # in the ignored region
            [80.0, 80.0, 90.0, 90.0],  # background
            [0.0, 0.0, 10.0, 4.0],  # the second object, IoU 0.4
        ]
    )
    draw = partial(sample, count=10, positive_fraction=0.5)
    generator = torch.Generator()
    found = Sampler(0.5, 0.5, draw, low_quality=True)(boxes, truth, generator)
    assert [part.tolist() for part in found[:2]] == [[0, 3], [2]]
    assert found[2].labels.tolist() == [9, 8]
    found = Sampler(0.5, 0.5, draw, negative_iou_low=0.1)(boxes, truth, generator)
    assert [part.tolist() for part in found[:2]] == [[0], [3]]
    found = Sampler(0.5, 0.5, draw)(boxes, Annotation.empty(), generator)
    assert (len(found[0]), len(found[1]), len(found[2])) == (0, 4, 0)
