"""Proposal selection, RPN targets and loss, by hand and against torchvision's losses."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from resdet.detection.models.rpn import RPNHead, RpnTargets, rpn_loss, rpn_targets, select_proposals
from resdet.detection.ops.matching import Sampler, sample
from resdet.detection.structures import Annotation
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

ANCHORS = torch.tensor(
    [
        [0.0, 0.0, 10.0, 10.0],  # 0 the object
        [0.0, 0.0, 10.0, 20.0],  # 1 half of it
        [40.0, 40.0, 60.0, 60.0],  # 2 background
        [-5.0, 50.0, 5.0, 60.0],  # 3 across the left border
        [90.0, 90.0, 101.0, 100.0],  # 4 across the right border
        [70.0, 0.0, 90.0, 20.0],  # 5 background, in the ignored region
        [80.0, 20.0, 100.0, 40.0],  # 6 background, a quarter in the ignored region
    ]
)
SIZE = (100, 100)


def annotation(boxes: list[list[float]], ignore: list[bool]) -> Annotation:
    return Annotation(
        torch.tensor(boxes).reshape(-1, 4),
        torch.zeros(len(boxes), dtype=torch.int64),
        torch.tensor(ignore, dtype=torch.bool),
    )


def sampler(count: int) -> Sampler:
    return Sampler(0.7, 0.3, partial(sample, count=count, positive_fraction=0.5), low_quality=True)


def targets(truth: Annotation, *, drop_border: bool = False, count: int = 100) -> RpnTargets:
    return rpn_targets(
        ANCHORS,
        truth,
        SIZE,
        sampler=sampler(count),
        drop_border=drop_border,
        generator=torch.Generator().manual_seed(0),
    )


def test_targets_by_hand() -> None:
    found = targets(annotation([[1.0, 0.0, 10.0, 10.0]], [False]))
    assert found.positives.tolist() == [0]
    assert found.negatives.tolist() == [2, 3, 4, 5, 6]  # anchor 1 has IoU 0.45
    expected = torch.tensor([[0.05, 0.0, math.log(0.9), 0.0]])
    torch.testing.assert_close(found.deltas, expected, atol=1e-6, rtol=1e-5)


def test_anchors_across_the_border_are_dropped() -> None:
    found = targets(annotation([[1.0, 0.0, 10.0, 10.0]], [False]), drop_border=True)
    assert found.positives.tolist() == [0]
    assert found.negatives.tolist() == [2, 5, 6]
    # Across the border even the anchor that is the object does not count, though it does with them.
    found = targets(annotation([[-5.0, 50.0, 5.0, 60.0]], [False]), drop_border=True)
    assert found.positives.tolist() == []
    whole = targets(annotation([[-5.0, 50.0, 5.0, 60.0]], [False]))
    assert whole.positives.tolist() == [3]


def test_no_anchor_inside_is_no_target() -> None:
    nothing = rpn_targets(
        ANCHORS[3:5],
        annotation([[0.0, 50.0, 5.0, 60.0]], [False]),
        SIZE,
        sampler=sampler(8),
        drop_border=True,
        generator=torch.Generator(),
    )
    assert (len(nothing.positives), len(nothing.negatives), len(nothing.deltas)) == (0, 0, 0)


def test_ignored_regions_are_neither_positive_nor_negative() -> None:
    truth = annotation([[1.0, 0.0, 10.0, 10.0], [65.0, 0.0, 90.0, 25.0]], [False, True])
    found = targets(truth)
    assert found.positives.tolist() == [0]
    assert found.negatives.tolist() == [2, 3, 4, 6]
    only = targets(annotation([[65.0, 0.0, 90.0, 25.0]], [True]))
    assert only.positives.tolist() == []
    assert only.negatives.tolist() == [0, 1, 2, 3, 4, 6]


def test_an_image_without_objects_has_negatives_only() -> None:
    found = targets(Annotation.empty(), count=4)
    assert (len(found.positives), len(found.negatives)) == (0, 4)
    assert found.deltas.shape == (0, 4)


@pytest.mark.parametrize("beta", [0.0, 1 / 9, 1.0])
def test_loss_equals_torch_on_the_sampled_anchors(beta: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 7, generator=generator)
    deltas = torch.randn(2, 7, 4, generator=generator)
    wanted = torch.randn(3, 4, generator=generator)
    sampled = [
        RpnTargets(torch.tensor([0, 4]), torch.tensor([1, 2, 6]), wanted[:2]),
        RpnTargets(torch.tensor([5]), torch.tensor([3]), wanted[2:]),
    ]
    objectness, boxes = rpn_loss(logits, deltas, sampled, normalizer=8.0, beta=beta)
    scores = torch.cat([logits[0, [0, 4, 1, 2, 6]], logits[1, [5, 3]]])
    truth = torch.tensor([1.0, 1, 0, 0, 0, 1, 0])
    # Without focusing and balance the focal loss is the cross-entropy.
    expected = sigmoid_focal_loss(scores, truth, alpha=-1, gamma=0, reduction="sum") / 8
    torch.testing.assert_close(objectness, expected)
    errors = (torch.cat([deltas[0, [0, 4]], deltas[1, [5]]]) - wanted).abs().flatten().tolist()
    total = sum(e - beta / 2 if e >= beta else e * e / (2 * beta) for e in errors)
    assert float(boxes) == pytest.approx(total / 8, rel=1e-5)


def test_loss_without_samples_is_zero_and_differentiable() -> None:
    logits = torch.randn(1, 7, requires_grad=True)
    deltas = torch.randn(1, 7, 4, requires_grad=True)
    none = torch.zeros(0, dtype=torch.int64)
    losses = rpn_loss(
        logits, deltas, [RpnTargets(none, none, torch.zeros(0, 4))], normalizer=1.0, beta=0.0
    )
    sum(losses).backward()
    assert [loss.item() for loss in losses] == [0.0, 0.0]
    assert logits.grad is not None
    assert not logits.grad.any()


def test_head_orders_its_outputs_like_the_anchors() -> None:
    head = RPNHead(3, 6, 2)
    features = torch.randn(2, 3, 4, 5)
    logits, deltas = head(features)
    assert (logits.shape, deltas.shape) == ((2, 40), (2, 40, 4))
    hidden = F.relu(head.conv(features))
    for y, x, anchor in ((0, 0, 1), (2, 3, 0), (3, 4, 1)):
        index = (y * 5 + x) * 2 + anchor
        torch.testing.assert_close(logits[:, index], head.logits(hidden)[:, anchor, y, x])
        rows = head.deltas(hidden)[:, 4 * anchor : 4 * anchor + 4, y, x]
        torch.testing.assert_close(deltas[:, index], rows)


def select(
    logits: Tensor, deltas: Tensor, sizes: list[tuple[int, int]], **changes: float
) -> tuple[list[Tensor], list[Tensor]]:
    settings = {"pre_nms": 100, "post_nms": 100, "nms_iou": 0.7, "min_size": 0.0} | changes
    return select_proposals(logits, deltas, ANCHORS, sizes, **settings)


def test_selection_by_hand() -> None:
    logits = torch.tensor([[3.0, 2.0, 5.0, 1.0, 4.0, -1.0, math.nan]])
    proposals, scores = select(logits, torch.zeros(1, 7, 4), [SIZE])
    assert scores[0].tolist() == [5.0, 4.0, 3.0, 2.0, 1.0, -1.0]  # not finite: left out
    expected = ANCHORS[[2, 4, 0, 1, 3, 5]].clamp(0, 100)
    assert torch.equal(proposals[0], expected)
    few, _ = select(logits[:, :6].repeat(1, 1), torch.zeros(1, 6, 4), [SIZE], post_nms=2)
    assert torch.equal(few[0], expected[:2])
    few, _ = select(logits[:, :6], torch.zeros(1, 6, 4), [SIZE], pre_nms=3)
    assert torch.equal(few[0], expected[:3])
    overlapping, _ = select(logits[:, :6], torch.zeros(1, 6, 4), [SIZE], nms_iou=0.4)
    assert torch.equal(overlapping[0], expected[[0, 1, 2, 4, 5]])
    wide, _ = select(logits[:, :6], torch.zeros(1, 6, 4), [SIZE], min_size=5.0)
    assert torch.equal(wide[0], expected[[0, 1, 2, 3, 5]])  # anchor 3 is 5 px wide when clipped


def test_proposals_of_each_image_are_selected_separately() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, deltas = torch.randn(3, 7, generator=generator), torch.randn(3, 7, 4) * 0.1
    sizes = [(100, 100), (50, 80), (20, 20)]
    together, _ = select(logits, deltas, sizes)
    for i, size in enumerate(sizes):
        alone, _ = select(logits[i : i + 1], deltas[i : i + 1], [size])
        assert torch.equal(alone[0], together[i])
        assert (alone[0] >= 0).all()
        assert (alone[0][:, 2:] <= torch.tensor([size[1], size[0]])).all()


@pytest.mark.parametrize("value", [1e30, -1e30, math.inf, -math.inf, math.nan])
def test_any_delta_gives_finite_proposals_inside_the_image(value: float) -> None:
    proposals, _ = select(torch.zeros(1, 7), torch.full((1, 7, 4), value), [SIZE])
    assert proposals[0].isfinite().all()
    assert ((proposals[0] >= 0) & (proposals[0] <= 100)).all()
    assert (proposals[0][:, 2:] > proposals[0][:, :2]).all()
