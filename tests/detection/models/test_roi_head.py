"""The region head: two orders of computation, targets, loss, decoding."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any

import pytest
import torch
import torchvision.ops
from resdet.backbones import blocks
from resdet.backbones.resnet import ResNet
from resdet.detection.models.roi_head import (
    RoIHead,
    RoiTargets,
    decode_regions,
    roi_loss,
    roi_targets,
)
from resdet.detection.ops.boxes import clip
from resdet.detection.ops.matching import Sampler, sample
from resdet.detection.ops.roi_align import roi_align, roi_pool
from resdet.detection.structures import Annotation
from torch import Tensor, nn

WEIGHTS = (10.0, 10.0, 5.0, 5.0)
CLASSES = 3
SIZES = [(96, 128), (80, 100)]


def make_head(
    *,
    depth: int = 50,
    stride_in: str = "3x3",
    norm: str = "frozen",
    stride: int = 2,
    size: int = 14,
    agnostic: bool = False,
    context: bool = False,
) -> RoIHead:
    backbone = ResNet(depth=depth, width=2, norm=norm, stride_in=stride_in)
    return RoIHead(
        backbone.tail(stride=stride),
        channels=backbone.tail_channels,
        classes=CLASSES,
        pool=partial(roi_align, size=size, stride=backbone.stride, sampling_ratio=0),
        pool_size=size,
        linear_pool=True,
        class_agnostic=agnostic,
        context=context,
    )


def regions(count: int, *, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 100 - 10
    return torch.cat([corner, corner + 1 + torch.rand(count, 2, generator=generator) * 90], dim=1)


def randomise_norms(module: nn.Module) -> None:
    for name, tensor in module.state_dict().items():
        if ".norm." in name and tensor.is_floating_point():
            offset = 0.5 if name.endswith(("weight", "running_var")) else -0.5
            tensor.copy_(torch.rand_like(tensor) + offset)


@pytest.mark.parametrize(("stride", "size"), [(2, 14), (1, 7), (2, 7)])
@pytest.mark.parametrize(
    ("norm", "training"),
    [("frozen", True), ("batch", True), ("batch", False), ("group", True)],
)
@pytest.mark.parametrize(("depth", "stride_in"), [(18, "3x3"), (50, "3x3"), (50, "1x1")])
def test_on_the_map_equals_the_papers_order(
    depth: int, stride_in: str, norm: str, training: bool, stride: int, size: int
) -> None:
    head = make_head(depth=depth, stride_in=stride_in, norm=norm, stride=stride, size=size)
    randomise_norms(head)
    head = head.double().train(training)
    other = deepcopy(head)
    channels = head.res5[0].conv1.in_channels
    features = torch.randn(2, channels, 6, 8, dtype=torch.float64)
    first, second = features.clone().requires_grad_(), features.clone().requires_grad_()
    boxes = [regions(5), regions(3, seed=1)]
    found, expected = head.on_map(first, boxes), other.plain(second, boxes)
    torch.testing.assert_close(found, expected)
    upstream = torch.randn_like(expected)
    found.backward(upstream)
    expected.backward(upstream)
    torch.testing.assert_close(first.grad, second.grad)
    for (name, ours), theirs in zip(
        head.res5.named_parameters(), other.res5.parameters(), strict=True
    ):
        torch.testing.assert_close(ours.grad, theirs.grad, msg=name)
    for ours, theirs in zip(head.buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("norm", ["frozen", "batch", "group"])
@pytest.mark.parametrize(("depth", "stride_in"), [(18, "3x3"), (50, "3x3"), (50, "1x1")])
def test_pooling_first_as_on_a_gpu_equals_the_papers_order(
    depth: int, stride_in: str, norm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = make_head(depth=depth, stride_in=stride_in, norm=norm)
    randomise_norms(head)
    head = head.double().train()
    other = deepcopy(head)
    features = torch.randn(2, head.res5[0].conv1.in_channels, 6, 8, dtype=torch.float64)
    first, second = features.clone().requires_grad_(), features.clone().requires_grad_()
    boxes = [regions(5), regions(3, seed=1)]
    order = blocks.convolves_first
    monkeypatch.setattr(
        blocks, "convolves_first", lambda conv, device: order(conv, torch.device("cuda"))
    )
    found, expected = head.on_map(first, boxes), other.plain(second, boxes)
    torch.testing.assert_close(found, expected)
    upstream = torch.randn_like(expected)
    found.backward(upstream)
    expected.backward(upstream)
    torch.testing.assert_close(first.grad, second.grad)
    for (name, ours), theirs in zip(
        head.res5.named_parameters(), other.res5.parameters(), strict=True
    ):
        torch.testing.assert_close(ours.grad, theirs.grad, msg=name)


def test_a_gpu_pools_the_side_with_fewer_channels() -> None:
    """By hand: conv5_1 of R101 reduces 1024 channels to 512, its shortcut makes 2048 of them."""
    block = ResNet(depth=101).tail(stride=2)[0]
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    assert [blocks.convolves_first(block.conv1, device) for device in (gpu, cpu)] == [True, True]
    assert [blocks.convolves_first(block.shortcut, device) for device in (gpu, cpu)] == [
        False,
        True,
    ]


@pytest.mark.parametrize("pool", [roi_align, roi_pool])
@pytest.mark.parametrize(("depth", "stride_in"), [(18, "3x3"), (101, "3x3"), (101, "1x1")])
def test_no_tensor_of_a_kernel_exceeds_its_counter(
    depth: int, stride_in: str, pool: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """24 images of 600 x 1000 px with 512 regions, at full size on the meta device, which takes the
    path of a GPU."""
    backbone = ResNet(depth=depth, stride_in=stride_in)
    settings = {"sampling_ratio": 0} if pool is roi_align else {}
    head = RoIHead(
        backbone.tail(stride=2),
        channels=backbone.tail_channels,
        classes=20,
        pool=partial(pool, size=14, stride=16, **settings),
        pool_size=14,
        linear_pool=pool is roi_align,
    ).to("meta")
    sizes = []
    for name in ("roi_align", "roi_pool"):
        kernel = getattr(torchvision.ops, name)

        def recorded(
            maps: Tensor, *rest: Any, kernel: Callable[..., Tensor] = kernel, **options: Any
        ) -> Tensor:
            crops = kernel(maps, *rest, **options)
            sizes.extend([maps.numel(), crops.numel()])
            return crops

        monkeypatch.setattr(torchvision.ops, name, recorded)
    features = torch.empty(24, backbone.channels, 38, 63, device="meta")
    logits, _ = head(features, [torch.empty(512, 4, device="meta")] * 24, [(600, 1000)] * 24)
    assert len(logits) == 24 * 512
    assert 2**28 < max(sizes) < 2**31 - 2**21


@pytest.mark.parametrize("count", [1, 40])
def test_forward_is_the_same_function_whichever_order_is_less_work(count: int) -> None:
    head = make_head()
    nn.init.normal_(head.cls_logits.weight)
    features, boxes = torch.randn(1, 32, 6, 8), [regions(count)]
    logits, deltas = head(features, boxes, SIZES[: len(boxes)])
    assert (logits.shape, deltas.shape) == ((count, CLASSES + 1), (count, CLASSES, 4))
    expected = head.cls_logits(head.plain(features, boxes))
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)


def test_a_pool_that_is_not_linear_always_comes_first() -> None:
    head = make_head()
    head.pool = partial(roi_pool, size=14, stride=16)
    head.linear_pool = False
    features, boxes = torch.randn(1, 32, 2, 3), [regions(30)]
    crops = torchvision.ops.roi_pool(features, boxes, 14, 1 / 16)
    expected = head.cls_logits(head.res5(crops).mean(dim=(2, 3)))
    torch.testing.assert_close(
        head(features, boxes, SIZES[: len(boxes)])[0], expected, rtol=1e-4, atol=1e-5
    )


def test_context_is_the_whole_image_beside_each_region() -> None:
    head, alone = make_head(context=True), make_head()
    alone.res5 = head.res5
    features, boxes = torch.randn(2, 32, 6, 8), [regions(3), regions(2, seed=1)]
    vectors = head.roi_features(features, boxes, SIZES)
    own, context = vectors.chunk(2, dim=1)
    torch.testing.assert_close(
        own, alone.roi_features(features, boxes, SIZES), rtol=1e-4, atol=1e-5
    )
    whole = [torch.tensor([[0.0, 0.0, 128.0, 96.0]]), torch.tensor([[0.0, 0.0, 100.0, 80.0]])]
    expected = alone.roi_features(features, whole, SIZES)[[0, 0, 0, 1, 1]]
    torch.testing.assert_close(context, expected, rtol=1e-4, atol=1e-5)
    assert head.cls_logits.in_features == 2 * alone.cls_logits.in_features


@pytest.mark.parametrize("context", [True, False])
@pytest.mark.parametrize("agnostic", [True, False])
def test_no_regions_still_give_every_weight_a_gradient(agnostic: bool, context: bool) -> None:
    head = make_head(agnostic=agnostic, context=context)
    logits, deltas = head(torch.randn(2, 32, 4, 4), [torch.zeros(0, 4)] * 2, SIZES)
    assert logits.shape == (0, CLASSES + 1)
    assert deltas.shape == (0, 1 if agnostic else CLASSES, 4)
    (logits.sum() + deltas.sum()).backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert not parameter.grad.any(), name


def test_decoding_gives_every_image_its_regions_inside_it() -> None:
    proposals = [regions(2), torch.zeros(0, 4), regions(3, seed=1)]
    logits, deltas = torch.randn(5, CLASSES + 1), torch.zeros(5, 1, 4)
    sizes = [(96, 128), (96, 128), (80, 100)]
    probs, boxes = decode_regions(logits, deltas, proposals, sizes, weights=WEIGHTS)
    assert [len(p) for p in probs] == [len(b) for b in boxes] == [2, 0, 3]
    torch.testing.assert_close(torch.cat(probs).sum(dim=1), torch.ones(5))
    for decoded, original, size in zip(boxes, proposals, sizes, strict=True):
        expected = clip(original, size)[:, None].expand(-1, CLASSES, 4)
        torch.testing.assert_close(decoded, expected, atol=1e-4, rtol=0)


PROPOSALS = torch.tensor(
    [
        [0.0, 0.0, 10.0, 9.0],  # 0 object 0, IoU 0.9
        [0.0, 0.0, 10.0, 5.0],  # 1 object 0, IoU 0.5
        [0.0, 0.0, 10.0, 4.0],  # 2 IoU 0.4
        [50.0, 50.0, 60.0, 60.0],  # 3 IoU 0
        [21.0, 20.0, 31.0, 40.0],  # 4 object 1
        [70.0, 70.0, 80.0, 80.0],  # 5 in the ignored region
    ]
)
TRUTH = Annotation(
    torch.tensor([[0.0, 0.0, 10.0, 10.0], [20.0, 20.0, 30.0, 40.0], [65.0, 65.0, 95.0, 95.0]]),
    torch.tensor([2, 0, 1]),
    torch.tensor([False, False, True]),
)


def targets(
    truth: Annotation = TRUTH,
    *,
    append_ground_truth: bool = False,
    negative_iou_low: float = 0.0,
    count: int = 100,
    positive_fraction: float = 0.5,
) -> RoiTargets:
    draw = partial(sample, count=count, positive_fraction=positive_fraction)
    return roi_targets(
        PROPOSALS,
        truth,
        classes=CLASSES,
        sampler=Sampler(0.5, 0.5, draw, negative_iou_low),
        append_ground_truth=append_ground_truth,
        weights=WEIGHTS,
        generator=torch.Generator().manual_seed(0),
    )


def test_targets_by_hand() -> None:
    found = targets()
    assert torch.equal(found.boxes, PROPOSALS[[0, 1, 4, 2, 3]])  # 5 is ignored
    assert found.labels.tolist() == [2, 2, 0, CLASSES, CLASSES]
    expected = torch.tensor(
        [
            [0.0, 10 * 0.5 / 9, 0.0, 5 * math.log(10 / 9)],
            [0.0, 10 * 2.5 / 5, 0.0, 5 * math.log(2)],
            [-1.0, 0.0, 0.0, 0.0],
        ]
    )
    torch.testing.assert_close(found.deltas, expected, atol=1e-6, rtol=1e-5)


def test_ground_truth_is_appended_without_what_is_ignored() -> None:
    found = targets(append_ground_truth=True)
    assert torch.equal(found.boxes[3:5], TRUTH.boxes[:2])
    assert found.labels.tolist() == [2, 2, 0, 2, 0, CLASSES, CLASSES]
    assert not found.deltas[3:].any()


def test_the_range_of_negatives_and_the_counts() -> None:
    assert targets(negative_iou_low=0.1).labels.tolist() == [2, 2, 0, CLASSES]
    found = targets(count=4, positive_fraction=0.25)
    assert [label < CLASSES for label in found.labels.tolist()] == [True, False, False]
    assert len(found.deltas) == 1


def test_an_image_without_objects_is_all_background() -> None:
    found = targets(Annotation.empty(), append_ground_truth=True)
    assert torch.equal(found.boxes, PROPOSALS)
    assert found.labels.tolist() == [CLASSES] * 6
    assert found.deltas.shape == (0, 4)


def test_loss_reads_the_columns_of_the_class_and_counts_all_regions() -> None:
    """By hand: uniform logits cost log 4 each; L1 (beta 0) of one positive of label 2."""
    logits = torch.zeros(3, CLASSES + 1)
    deltas = torch.full((3, CLASSES, 4), 100.0)
    deltas[0, 2] = torch.tensor([1.0, -2.0, 0.5, 0.0])
    found = [
        RoiTargets(regions(2), torch.tensor([2, CLASSES]), torch.tensor([[0.0, 0.0, 0.5, 3.0]])),
        RoiTargets(regions(1), torch.tensor([CLASSES]), torch.zeros(0, 4)),
    ]
    cls, box = roi_loss(logits, deltas, found, normalizer=3.0, beta=0.0)
    assert float(cls) == pytest.approx(math.log(4))
    assert float(box) == pytest.approx((1 + 2 + 0 + 3) / 3)
    cls, box = roi_loss(logits, deltas[:, 2:], found, normalizer=6.0, beta=1.0)
    assert float(cls) == pytest.approx(math.log(4) / 2)
    assert float(box) == pytest.approx((0.5 + 1.5 + 0 + 2.5) / 6)  # class-agnostic, smooth L1


def test_loss_of_no_regions_is_zero() -> None:
    logits = torch.zeros(0, CLASSES + 1, requires_grad=True)
    none = [RoiTargets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4))]
    cls, box = roi_loss(logits, torch.zeros(0, CLASSES, 4), none, normalizer=1.0, beta=0.0)
    (cls + box).backward()
    assert cls.item() == box.item() == 0
