"""Targets, sampling and losses of both stages of the localizer, worked out by hand."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from resdet.backbones.pixels import PIXELS, PixelNorm
from resdet.detection.models.class_head import ClassHead
from resdet.detection.models.localizer import (
    REGION_WEIGHTS,
    HeadLoss,
    Localizer,
    RegionLocalizer,
    sample_anchors,
)
from resdet.detection.models.rpn import RpnTargets, rpn_targets
from resdet.detection.ops.anchors import AnchorGrid, cell_anchors, grid_anchors
from resdet.detection.ops.boxes import encode, iou
from resdet.detection.ops.matching import NEGATIVE, POSITIVE, Sampler, match_images
from resdet.detection.structures import Annotation, Batch
from torch import Tensor, nn

#: Two cells, 32 px apart, with one square anchor each.
ANCHORS = torch.tensor([[-16.0, -16.0, 16.0, 16.0], [16.0, -16.0, 48.0, 16.0]])
MATCHING = partial(match_images, positive_iou=0.7, negative_iou=0.3, low_quality=True)


def annotation(*boxes: tuple[float, float, float, float], ignore: bool = False) -> Annotation:
    count = len(boxes)
    return Annotation(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.zeros(count, dtype=torch.int64),
        torch.full((count,), ignore),
    )


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def targets(
    anchors: Tensor,
    truth: Annotation,
    size: tuple[int, int] = (32, 64),
    *,
    count: int,
    generator: torch.Generator,
) -> RpnTargets:
    """Those of one image by itself."""

    def draw(state: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Half of each kind; where there are too few, again from the first on."""
        positives, negatives = (
            torch.nonzero(state == kind).flatten() for kind in (POSITIVE, NEGATIVE)
        )
        turns = torch.arange(count // 2)
        if len(positives):
            order = torch.randperm(len(positives), generator=generator)
            positives = positives[order[turns % len(positives)]]
        if len(negatives):
            order = torch.randperm(len(negatives), generator=generator)
            negatives = negatives[order[turns % len(negatives)]]
        return positives, negatives

    sampler = Sampler(0.7, 0.3, draw, low_quality=True)
    return rpn_targets(
        anchors, truth, size, sampler=sampler, drop_border=False, generator=generator
    )


class GivenMap(nn.Module):
    """A trunk that has seen everything before: the first channels of the pixels at cell corners."""

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.features = features

    def forward(self, images: Tensor) -> Tensor:
        return self.features.expand(len(images), -1, -1, -1)


def make_head(anchors: int) -> ClassHead:
    """Two classes on one channel; the first has weight 0.5, the second -1."""
    head = ClassHead(1, 2, anchors)
    with torch.no_grad():
        head.cls_logits.weight.copy_(torch.tensor([0.5, -1.0])[:, None, None])
        head.box_deltas.weight.zero_()
        head.box_deltas.weight[0, :4, 0] = torch.tensor([0.1, 0.0, -0.2, 0.0])
    return head


def make_localizer(*, every_class: bool = False, per_image: int = 2) -> Localizer:
    return Localizer(
        pixels=PixelNorm(PIXELS["torchvision"]),
        trunk=GivenMap(torch.tensor([[[[1.0, 2.0]]]])),
        head=make_head(1),
        anchors=AnchorGrid(ANCHORS[:1], 32),
        samples=partial(sample_anchors, matching=MATCHING, count=per_image),
        per_image=per_image,
        loss=HeadLoss(every_class, 1.0, 1.0),
    )


def make_batch(*annotations: Annotation, label: int = 0) -> Batch:
    count = len(annotations)
    return Batch(
        torch.zeros(count, 3, 32, 64, dtype=torch.uint8),
        [(32, 64)] * count,
        list(annotations),
        [],
        [str(index) for index in range(count)],
        list(range(count)),
        torch.full((count,), label),
    )


# -------------------------------------------------------------------------------------- stage one


def test_an_object_on_an_anchor() -> None:
    """The second anchor is the object; the first touches it at one side: IoU 0."""
    found = targets(ANCHORS, annotation((16, -16, 48, 16)), count=2, generator=generator())
    assert found.positives.tolist() == [1] and found.negatives.tolist() == [0]
    assert found.deltas.tolist() == [[0.0, 0.0, 0.0, 0.0]]


def test_target_deltas_by_hand() -> None:
    """Twice as wide, 8 px to the right: dx = 8 / 32, dw = ln 2; IoU is 0.5, the object's best."""
    found = targets(ANCHORS, annotation((8, -16, 72, 16)), count=2, generator=generator())
    assert found.positives.tolist() == [1]
    expected = torch.tensor([[8 / 32, 0.0, math.log(2), 0.0]])
    torch.testing.assert_close(found.deltas, expected)


def test_both_kinds_are_sampled_equally_and_few_anchors_repeatedly() -> None:
    row = torch.tensor([[16.0 * i, 0.0, 16.0 * i + 16, 16.0] for i in range(20)])
    found = targets(row, annotation((0, 0, 16, 16)), count=8, generator=generator())
    assert found.positives.tolist() == [0] * 4 and found.deltas.shape == (4, 4)
    assert len(set(found.negatives.tolist())) == 4 and 0 not in found.negatives
    many = annotation(*[(16.0 * i, 0.0, 16.0 * i + 16, 16.0) for i in range(10)])
    both = targets(row, many, count=8, generator=generator())
    assert len(set(both.positives.tolist())) == 4 and set(both.positives.tolist()) < set(range(10))
    assert len(set(both.negatives.tolist())) == 4
    assert set(both.negatives.tolist()) < set(range(10, 20))


def test_crops_without_an_object_or_without_background() -> None:
    none = targets(ANCHORS, annotation(), count=4, generator=generator())
    assert none.positives.tolist() == [] and sorted(none.negatives.tolist()) == [0, 1]
    assert none.deltas.shape == (0, 4)
    full = targets(ANCHORS[:1], annotation((-16, -16, 16, 16)), count=4, generator=generator())
    assert full.positives.tolist() == [0, 0] and full.negatives.tolist() == []


def test_anchors_in_an_ignored_object_are_not_negative() -> None:
    hidden = annotation((16, -16, 48, 16), ignore=True)
    found = targets(ANCHORS, hidden, count=4, generator=generator())
    assert found.positives.tolist() == [] and found.negatives.tolist() == [0, 0]


@pytest.mark.parametrize("seed", range(4))
def test_a_batch_has_the_samples_of_its_images(seed: int) -> None:
    """To the last bit, and in the same order: images without objects, with ignored ones, with more
    than are compared at a time."""
    draw = torch.Generator().manual_seed(seed)
    anchors = grid_anchors(cell_anchors([32, 64], [0.5, 1, 2]), (10, 12), 16)
    annotations = []
    for count in (0, 1, 3, 80, 2):
        corners = torch.rand(count, 2, generator=draw) * 150
        boxes = torch.cat([corners, corners + 5 + torch.rand(count, 2, generator=draw) * 70], 1)
        ignore = torch.rand(count, generator=draw) < 0.3
        annotations.append(Annotation(boxes, torch.zeros(count, dtype=torch.int64), ignore))
    seeds = range(seed, seed + len(annotations))
    found = sample_anchors(anchors, annotations, seeds, matching=MATCHING, count=64)
    alone = [
        targets(anchors, each, count=64, generator=torch.Generator().manual_seed(own))
        for each, own in zip(annotations, seeds, strict=True)
    ]
    expected = [torch.cat([each.positives, each.negatives]) for each in alone]
    assert found.anchors.tolist() == torch.cat(expected).tolist()
    owners = [image for image, each in enumerate(expected) for _ in each]
    assert found.images.tolist() == owners
    positive = [
        torch.arange(len(samples)) < len(each.positives)
        for samples, each in zip(expected, alone, strict=True)
    ]
    assert found.positives.tolist() == torch.cat(positive).nonzero().flatten().tolist()
    assert torch.equal(found.deltas, torch.cat([each.deltas for each in alone]))
    assert all(len(each.positives) for each in alone[2:])


def test_losses_by_hand() -> None:
    """Features 1 and 2; class 0 has weight 0.5: logits 0.5 (negative) and 1 (positive).

    ln(1 + e^0.5) = 0.974077, ln(1 + e^-1) = 0.313262; over 2 anchors 0.643670. Deltas at the
    positive are (0.2, 0, -0.4, 0), the goal is 0: (0.04 + 0.16) / 2 = 0.1; over 2 anchors 0.05.
    """
    losses = make_localizer()(make_batch(annotation((16, -16, 48, 16))))
    assert losses["loss_cls"].item() == pytest.approx(0.643670, abs=1e-5)
    assert losses["loss_box"].item() == pytest.approx(0.05, abs=1e-6)


def test_losses_of_every_class_by_hand() -> None:
    """Class 1 has logits -1 and -2 and is negative: ln(1 + e^-1) + ln(1 + e^-2) = 0.440190 more."""
    losses = make_localizer(every_class=True)(make_batch(annotation((16, -16, 48, 16))))
    assert losses["loss_cls"].item() == pytest.approx((1.287339 + 0.440190) / 2, abs=1e-5)
    assert losses["loss_box"].item() == pytest.approx(0.05, abs=1e-6)


def test_an_image_of_the_other_class_uses_its_weights() -> None:
    """Class 1 has logits -1 (negative) and -2 (positive): 0.313262 + 2.126928, over 2."""
    losses = make_localizer()(make_batch(annotation((16, -16, 48, 16)), label=1))
    assert losses["loss_cls"].item() == pytest.approx(1.220095, abs=1e-5)
    assert losses["loss_box"].item() == 0.0


def test_a_batch_is_the_mean_of_its_images() -> None:
    model = make_localizer(per_image=8)
    parts = [annotation((16, -16, 48, 16)), annotation(), annotation((-16, -16, 20, 16))]
    together = model(make_batch(*parts))
    alone = [model(make_batch(part)) for part in parts]
    for name, loss in together.items():
        mean = sum(one[name].item() for one in alone) / 3
        assert loss.item() == pytest.approx(mean, abs=1e-6), name


def test_perfect_outputs_are_decoded_to_the_object() -> None:
    """With the deltas of both anchors to the object, the decoded boxes are the object."""
    model = make_localizer()
    goal = torch.tensor([[3.0, 5.0, 41.0, 30.0]])
    with torch.no_grad():
        model.trunk.features = torch.eye(2).t().reshape(1, 2, 1, 2)  # one channel for each cell
        model.head = ClassHead(2, 2, 1)
        model.head.cls_logits.weight.copy_(torch.tensor([[[2.0, 3.0]], [[0.0, 0.0]]]))
        ways = encode(goal.expand(2, 4), ANCHORS, (1.0, 1.0, 1.0, 1.0))
        model.head.box_deltas.weight[0] = ways.t()
        scores, boxes = model.score(
            torch.zeros(1, 3, 32, 64, dtype=torch.uint8), torch.tensor([0, 1])
        )
    assert scores.shape == (2, 2) and boxes.shape == (2, 2, 4)
    torch.testing.assert_close(scores[0], torch.tensor([2.0, 3.0]).sigmoid())
    torch.testing.assert_close(iou(boxes[0], goal), torch.ones(2, 1), atol=1e-5, rtol=0)


# -------------------------------------------------------------------------------------- stage two


def make_region_localizer(*, every_class: bool = False) -> RegionLocalizer:
    return RegionLocalizer(
        pixels=PixelNorm(PIXELS["torchvision"]),
        trunk=GivenMap(torch.tensor([[[[1.0, 3.0]]]])),  # whose mean is 2
        head=make_head(1),
        size=64,
        padding=16,
        positive_iou=0.5,
        loss=HeadLoss(every_class, 1.0, 1.0),
    )


def test_region_losses_by_hand() -> None:
    """The region is (16, 16, 48, 48). One object is it (positive), one lies beside it (negative).

    Logits are 1: ln(1 + e^-1) = 0.313262 and ln(1 + e) = 1.313262, mean 0.813262. The positive's
    deltas are (0.2, 0, -0.4, 0), its goal 0: 0.1, mean over both regions 0.05.
    """
    batch = make_batch(annotation((16, 16, 48, 48)), annotation((48, 48, 64, 64)))
    losses = make_region_localizer()(batch)
    assert losses["loss_cls"].item() == pytest.approx(0.813262, abs=1e-5)
    assert losses["loss_box"].item() == pytest.approx(0.05, abs=1e-6)


def test_region_losses_of_every_class_by_hand() -> None:
    """Class 1 has logit -2 and is negative in both: ln(1 + e^-2) = 0.126928 more each."""
    batch = make_batch(annotation((16, 16, 48, 48)), annotation())
    losses = make_region_localizer(every_class=True)(batch)
    assert losses["loss_cls"].item() == pytest.approx(0.813262 + 0.126928, abs=1e-5)


def test_the_target_is_the_object_that_overlaps_most() -> None:
    """8 px to the right of the region, of its size: IoU 24 / 40; a weighted delta of 10 x 8/32."""
    batch = make_batch(annotation((0, 0, 20, 20), (24, 16, 56, 48)))
    losses = make_region_localizer()(batch)
    goal = encode(
        torch.tensor([[24.0, 16, 56, 48]]), torch.tensor([[16.0, 16, 48, 48]]), REGION_WEIGHTS
    )
    assert goal.tolist() == [[2.5, 0.0, 0.0, 0.0]]
    # |0.2 - 2.5| - 0.5 and 0.4^2 / 2
    assert losses["loss_box"].item() == pytest.approx(1.8 + 0.08, abs=1e-6)


def test_a_region_on_an_ignored_object_is_negative() -> None:
    losses = make_region_localizer()(make_batch(annotation((16, 16, 48, 48), ignore=True)))
    assert losses["loss_cls"].item() == pytest.approx(1.313262, abs=1e-5)
    assert losses["loss_box"].item() == 0.0


def test_perfect_regions_are_decoded_to_the_object() -> None:
    model = make_region_localizer()
    goal = torch.tensor([[20.0, 10.0, 60.0, 44.0]])
    with torch.no_grad():
        way = encode(goal, model.region, REGION_WEIGHTS)
        model.head.box_deltas.weight[1, :, 0] = way[0] / 2
        scores, boxes = model.score(
            torch.zeros(3, 3, 64, 64, dtype=torch.uint8), torch.tensor([1, 0, 1])
        )
    torch.testing.assert_close(scores, torch.tensor([-2.0, 1.0, -2.0]).sigmoid())
    overlap = iou(boxes, goal)[:, 0]
    assert overlap[[0, 2]].min() > 1 - 1e-5 and overlap[1] < 0.9
