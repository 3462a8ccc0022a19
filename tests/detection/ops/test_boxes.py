"""Overlap, deltas and clipping, worked by hand and as properties."""

from __future__ import annotations

import math

import pytest
import torch
import torchvision.ops
from hypothesis import given
from hypothesis import strategies as st
from resdet.detection.ops import boxes as box_ops
from torch import Tensor

UNIT = (1.0, 1.0, 1.0, 1.0)
WEIGHTS = (10.0, 10.0, 5.0, 5.0)
NONE = torch.zeros(0, 4)


def random_boxes(count: int, *, seed: int, extent: float = 200.0) -> Tensor:
    """Boxes of 1 px or more in a square of ``extent`` and 101 px."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * extent
    return torch.cat([corner, corner + 1 + torch.rand(count, 2, generator=generator) * 100], dim=1)


@st.composite
def box_sets(draw: st.DrawFn) -> Tensor:
    side = st.floats(1.0, 300.0, width=32)
    corner = st.floats(-100.0, 600.0, width=32)
    rows = draw(st.lists(st.tuples(corner, corner, side, side), min_size=1, max_size=5))
    x, y, w, h = torch.tensor(rows).unbind(1)
    return torch.stack([x, y, x + w, y + h], dim=1)


def test_areas_and_overlaps_by_hand() -> None:
    first = torch.tensor([[0.0, 0.0, 4.0, 2.0], [1.0, 1.0, 2.0, 2.0]])
    second = torch.tensor(
        [[2.0, 0.0, 6.0, 2.0], [0.0, 0.0, 4.0, 2.0], [4.0, 0.0, 5.0, 2.0], [9.0, 9.0, 10.0, 10.0]]
    )
    assert box_ops.area(first).tolist() == [8.0, 1.0]
    assert box_ops.intersection(first, second).tolist() == [[4.0, 8.0, 0.0, 0.0], [0, 1, 0, 0]]
    expected = torch.tensor([[1 / 3, 1.0, 0.0, 0.0], [0.0, 1 / 8, 0.0, 0.0]])
    torch.testing.assert_close(box_ops.iou(first, second), expected)


def test_overlap_of_empty_boxes_is_zero_not_nan() -> None:
    point = torch.tensor([[3.0, 3.0, 3.0, 3.0]])
    line = torch.tensor([[3.0, 0.0, 3.0, 9.0]])
    assert box_ops.iou(point, point).tolist() == [[0.0]]
    assert box_ops.iou(line, torch.tensor([[0.0, 0.0, 9.0, 9.0]])).tolist() == [[0.0]]


def test_overlap_equals_torchvision() -> None:
    first, second = random_boxes(50, seed=0), random_boxes(70, seed=1)
    torch.testing.assert_close(
        box_ops.iou(first, second), torchvision.ops.box_iou(first, second), atol=1e-6, rtol=1e-5
    )


@given(box_sets(), box_sets())
def test_overlap_is_a_symmetric_share(first: Tensor, second: Tensor) -> None:
    overlap = box_ops.iou(first, second)
    assert torch.equal(overlap, box_ops.iou(second, first).T)
    assert (overlap >= 0).all()
    assert (overlap <= 1 + 1e-5).all()
    torch.testing.assert_close(box_ops.iou(first, first).diagonal(), torch.ones(len(first)))


def test_covered_is_the_largest_share_in_one_region() -> None:
    boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [8.0, 8.0, 9.0, 9.0], [0.0, 0.0, 0.0, 4.0]])
    halves = torch.tensor([[0.0, 0.0, 2.0, 4.0], [2.0, 0.0, 4.0, 3.0], [0.0, 0.0, 1.0, 1.0]])
    assert box_ops.covered(boxes, halves).tolist() == [0.5, 0.0, 0.0]
    assert box_ops.covered(boxes, NONE).tolist() == [0.0, 0.0, 0.0]
    assert box_ops.covered(NONE, halves).shape == (0,)


def test_clip_cuts_each_side_to_the_size_in_rows_and_columns() -> None:
    boxes = torch.tensor([[-5.0, -6.0, 50.0, 60.0], [1.0, 2.0, 3.0, 4.0], [40.0, 50.0, 70.0, 80.0]])
    expected = [[0.0, 0.0, 30.0, 20.0], [1.0, 2.0, 3.0, 4.0], [30.0, 20.0, 30.0, 20.0]]
    assert box_ops.clip(boxes, (20, 30)).tolist() == expected
    assert box_ops.clip(boxes[:, None], (20, 30)).shape == (3, 1, 4)


def test_encode_by_hand() -> None:
    reference = torch.tensor([[10.0, 20.0, 30.0, 60.0]])  # centre (20, 40), 20 x 40
    target = torch.tensor([[20.0, 20.0, 60.0, 40.0]])  # centre (40, 30), 40 x 20
    expected = [[1.0, -0.25, math.log(2), math.log(0.5)]]
    torch.testing.assert_close(box_ops.encode(target, reference, UNIT), torch.tensor(expected))
    expected = [[10.0, -2.5, 5 * math.log(2), 5 * math.log(0.5)]]
    torch.testing.assert_close(box_ops.encode(target, reference, WEIGHTS), torch.tensor(expected))


def test_decode_by_hand() -> None:
    reference = torch.tensor([[10.0, 20.0, 30.0, 60.0]])
    deltas = torch.tensor([[10.0, -2.5, 5 * math.log(2), 5 * math.log(0.5)]])
    expected = torch.tensor([[20.0, 20.0, 60.0, 40.0]])
    torch.testing.assert_close(box_ops.decode(deltas, reference, WEIGHTS), expected)
    assert torch.equal(box_ops.decode(torch.zeros(1, 4), reference, WEIGHTS), reference)


@given(st.data(), st.sampled_from([UNIT, WEIGHTS]))
def test_decoding_what_was_encoded(data: st.DataObject, weights: tuple[float, ...]) -> None:
    targets = data.draw(box_sets())
    references = random_boxes(len(targets), seed=len(targets))
    deltas = box_ops.encode(targets, references, weights)
    assert deltas.isfinite().all()
    # A 300-px side from one of 1 px is beyond the clamp only at 62.5 times: keep within it.
    sides = (targets[:, 2:] - targets[:, :2]) / (references[:, 2:] - references[:, :2])
    near = (sides < 60).all(dim=1)
    decoded = box_ops.decode(deltas, references, weights)
    torch.testing.assert_close(decoded[near], targets[near], atol=5e-2, rtol=1e-4)


@given(box_sets(), st.floats(0.25, 4.0, width=32))
def test_deltas_are_invariant_to_scale_and_change_sign_with_a_flip(
    targets: Tensor, scale: float
) -> None:
    references = random_boxes(len(targets), seed=7)
    deltas = box_ops.encode(targets, references, UNIT)
    scaled = box_ops.encode(targets * scale, references * scale, UNIT)
    torch.testing.assert_close(scaled, deltas, atol=2e-3, rtol=1e-3)

    def flip(boxes: Tensor) -> Tensor:
        return torch.stack([-boxes[:, 2], boxes[:, 1], -boxes[:, 0], boxes[:, 3]], dim=1)

    flipped = box_ops.encode(flip(targets), flip(references), UNIT)
    expected = deltas * torch.tensor([-1.0, 1.0, 1.0, 1.0])
    torch.testing.assert_close(flipped, expected, atol=2e-3, rtol=1e-3)


def test_scale_deltas_are_clamped_from_above_only() -> None:
    reference = torch.tensor([[0.0, 0.0, 16.0, 16.0]])
    huge = box_ops.decode(torch.tensor([[0.0, 0.0, 1e30, 1e30]]), reference, UNIT)
    torch.testing.assert_close(huge, torch.tensor([[-492.0, -492.0, 508.0, 508.0]]))
    tiny = box_ops.decode(torch.tensor([[0.0, 0.0, -1e30, -1e30]]), reference, UNIT)
    assert tiny.tolist() == [[8.0, 8.0, 8.0, 8.0]]


def test_decode_is_exact_in_float32_from_half_precision_deltas() -> None:
    references = random_boxes(20, seed=3, extent=2000)
    decoded = box_ops.decode(torch.zeros(20, 4, dtype=torch.bfloat16), references, WEIGHTS)
    assert decoded.dtype == torch.float32
    torch.testing.assert_close(decoded, references, atol=1e-3, rtol=0)


def test_decode_of_several_deltas_per_reference() -> None:
    references = random_boxes(6, seed=4)
    deltas = torch.randn(6, 3, 4, generator=torch.Generator().manual_seed(0))
    together = box_ops.decode(deltas, references, WEIGHTS)
    assert together.shape == (6, 3, 4)
    for k in range(3):
        assert torch.equal(together[:, k], box_ops.decode(deltas[:, k], references, WEIGHTS))


@pytest.mark.parametrize("middle", [(), (1,), (3,)])
def test_no_boxes(middle: tuple[int, ...]) -> None:
    some = random_boxes(3, seed=0)
    assert box_ops.iou(NONE, some).shape == (0, 3)
    assert box_ops.iou(some, NONE).shape == (3, 0)
    assert box_ops.clip(NONE, (4, 4)).shape == (0, 4)
    assert box_ops.encode(NONE, NONE, WEIGHTS).shape == (0, 4)
    assert box_ops.decode(torch.zeros(0, *middle, 4), NONE, WEIGHTS).shape == (0, *middle, 4)
