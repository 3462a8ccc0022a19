"""Correctness checks of the GPU report: each part yields rows of differences with their limits."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from functools import partial

import torch
from golden_network import partners
from gpu_cases import full_precision, golden, relative, resume
from gpu_rows import Part, Row, Setup
from measuring import timed
from resdet.backbones import blocks
from resdet.detection.evaluation.prediction import autocast
from resdet.detection.models.faster_rcnn import FasterRCNN
from resdet.detection.models.roi_head import RoIHead
from resdet.detection.ops.nms import greedy_nms
from resdet.detection.ops.roi_align import roi_align, roi_pool
from resdet.detection.structures import Batch
from sides import make_batch as smooth_images
from sides import make_config, make_model
from torch import Tensor

Size = tuple[int, int]


def rms(found: Tensor, expected: Tensor) -> float:
    """Root mean square of the difference, relative to that of the values."""
    found, expected = found.double().cpu(), expected.double().cpu()
    return float((found - expected).norm() / expected.norm())


def unmatched(found: Tensor, expected: Tensor) -> float:
    """Fraction of the boxes (P, 4) without a partner within 0.1 px."""
    pairs = partners(found.cpu(), expected.cpu(), within=0.1)
    return 1 - len(pairs) / max(len(found), len(expected), 1)


def detector(
    setup: Setup, *, depth: int, images: int, sampled: bool = True
) -> tuple[FasterRCNN, Batch]:
    """A detector with random weights whose activations stay near 1, and smooth images.

    Without ``sampled`` all anchors and proposals count in the losses.
    """
    args = argparse.Namespace(
        size=(64, 96) if setup.small else (600, 1000),
        batch=images,
        depth=18 if setup.small else depth,
        classes=20,
        proposals=setup.pick(300, 20),
        rois=512,
        device=setup.device,
    )
    config = make_config(args)
    if setup.small:
        backbone = config.backbone.model_copy(update={"width": 16})
        config = config.model_copy(update={"backbone": backbone})
    if not sampled:
        every = {"batch_per_image": 1_000_000, "positive_fraction": 1.0}
        rpn = config.rpn.model_copy(update={**every, "post_nms_train": setup.pick(500, 50)})
        roi = config.roi.model_copy(update=every)
        config = config.model_copy(update={"rpn": rpn, "roi": roi})
    return make_model(config, args.classes).to(setup.device).eval(), smooth_images(args)


def random_boxes(count: int, size: Size, device: str, *, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    height, width = size
    extent = torch.tensor([width, height])
    corner = torch.rand(count, 2, generator=generator) * extent * 0.8
    sides = (torch.rand(count, 2, generator=generator) * 0.5 + 0.02) * extent
    return torch.cat([corner, corner + sides], dim=1).to(device)


def pooling(setup: Setup) -> Iterator[Row]:
    """RoIAlign and RoIPool, forwards and backwards, against the same on a CPU."""
    size = (160, 208)
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 16, 10, 13, generator=generator)
    boxes = [random_boxes(40, size, "cpu", seed=seed) for seed in (1, 2)]
    align = {
        f"RoIAlign, step {step}, {ratio or 'adaptive'} samples": partial(
            roi_align, size=14, stride=16, sampling_ratio=ratio, step=step
        )
        for step in (1, 2)
        for ratio in (0, 2)
    }
    for name, pool in {**align, "RoIPool": partial(roi_pool, size=14, stride=16)}.items():
        crops, grads = [], []
        for device in ("cpu", setup.device):
            own = maps.detach().to(device).requires_grad_()
            crop = pool(own, [each.to(device) for each in boxes])
            crop.square().sum().backward()
            crops.append(crop.detach())
            grads.append(own.grad)
        values = {"crops": relative(crops[1], crops[0]), "gradient": relative(grads[1], grads[0])}
        yield Row(name, values, dict.fromkeys(values, 1e-4))


def suppression(setup: Setup) -> Iterator[Row]:
    """NMS against the same on a CPU: ties of overlap may turn on a rounding."""
    count = setup.pick(12000, 500)
    boxes = random_boxes(count, (600, 1000), "cpu").round()
    scores = torch.rand(count, generator=torch.Generator().manual_seed(1))
    kept = [
        set(greedy_nms(boxes.to(device), scores.to(device), iou=0.7).tolist())
        for device in ("cpu", setup.device)
    ]
    share = len(kept[0] ^ kept[1]) / len(kept[0])
    yield Row("NMS", {"kept by one only": share, "kept": len(kept[0])}, {"kept by one only": 0.005})


def large_pass(setup: Setup) -> Iterator[Row]:
    """R101's region head on 11 images x 512 regions at once, which counts more than 2^31 elements
    in some orders, against two images at a time and a CPU."""
    images, regions = setup.pick(11, 3), setup.pick(512, 60)
    model, batch = detector(setup, depth=101, images=images)
    head, size = model.roi_head, batch.sizes[0]
    boxes = [random_boxes(regions, size, setup.device, seed=seed) for seed in range(images)]
    with full_precision():
        with torch.no_grad():
            features = model.extract(batch.images, batch.sizes)
        whole = _head_pass(head, features, boxes, [range(images)], size)
        parts = [range(start, min(start + 2, images)) for start in range(0, images, 2)]
        small = _head_pass(head, features, boxes, parts, size)
        few = [own[:1].cpu() for own in boxes]
        with torch.no_grad():
            theirs = deepcopy(head).cpu()(features.cpu(), few, batch.sizes)[0]
            ours = head(features, [own[:1] for own in boxes], batch.sizes)[0]
            at_once = whole[0].unflatten(0, (images, regions))[:, 0]
    limits = {"logits": 1e-4, "map's gradient": 1e-3, "weights' gradient": 1e-3}
    values = {
        name: relative(one, other) for name, one, other in zip(limits, whole, small, strict=True)
    }
    values["arg-max"] = float((whole[0].argmax(1) != small[0].argmax(1)).float().mean())
    yield Row("large pass, small passes", values, {**limits, "arg-max": 1e-3})
    values = {"logits": relative(at_once, theirs), "few regions": relative(ours, theirs)}
    yield Row("large pass, CPU", values, dict.fromkeys(values, 1e-3))


def _head_pass(
    head: RoIHead, features: Tensor, boxes: Sequence[Tensor], parts: Sequence[range], size: Size
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, the gradient of the map, and that of conv5_1, over ``parts`` of the images."""
    head.zero_grad(set_to_none=True)
    maps = features.detach().clone().requires_grad_()
    outputs = []
    for part in parts:
        logits, _ = head(
            maps[part.start : part.stop], [boxes[i] for i in part], [size for _ in part]
        )
        logits.square().sum().backward()
        outputs.append(logits.detach())
    assert maps.grad is not None  # noqa: S101  narrows types
    first = torch.cat([p.grad.flatten() for p in head.res5[0].parameters() if p.grad is not None])
    return torch.cat(outputs), maps.grad, first


def large_batch(setup: Setup) -> Iterator[Row]:
    """Detections of a batch against those of its images one at a time."""
    images = setup.pick(16, 3)
    model, batch = detector(setup, depth=101, images=images)
    values = {"features": 0.0, "proposals": 0.0, "probabilities": 0.0}
    with full_precision(), torch.no_grad():
        features = model.extract(batch.images, batch.sizes)
        proposals = model.propose(features, batch.sizes)
        together = model.score(features, proposals, batch.sizes)[0]
        for i in range(images):
            alone = model.extract(batch.images[i : i + 1], batch.sizes[:1])
            own = model.propose(alone, batch.sizes[:1])[0]
            scored = model.score(alone, proposals[i : i + 1], batch.sizes[:1])[0][0]
            for name, value in (
                ("features", relative(features[i], alone[0])),
                ("proposals", unmatched(proposals[i], own)),
                ("probabilities", float((scored - together[i]).abs().max())),
            ):
                values[name] = max(values[name], value)
    limits = {"features": 1e-4, "proposals": 0.05, "probabilities": 1e-3}
    yield Row(f"batch of {images}", values, limits)


def half_precision(setup: Setup) -> Iterator[Row]:
    """bf16 against float32, on the same proposals; one gradient of the whole loss."""
    model, batch = detector(setup, depth=50, images=2, sampled=False)
    size, device = batch.sizes[0], torch.device(setup.device)
    boxes = [random_boxes(setup.pick(300, 30), size, setup.device, seed=seed) for seed in (1, 2)]
    outputs = []
    for precision in ("fp32", "bf16"):
        with full_precision(), autocast(device, precision), torch.no_grad():
            features = model.extract(batch.images, batch.sizes)
            logits, deltas = model.roi_head(features, boxes, batch.sizes)
        outputs.append((features, logits.softmax(dim=1), deltas))
    exact, half = outputs
    values = {"features rms": rms(half[0], exact[0]), "deltas rms": rms(half[2], exact[2])}
    values["probabilities"] = float((half[1] - exact[1]).abs().max())
    limits = {"features rms": 0.02, "deltas rms": 0.02, "probabilities": 0.01}
    yield Row("bf16 outputs", values, limits)
    (loss, grads), (other, half_grads) = (
        _gradients(model, batch, device, precision) for precision in ("fp32", "bf16")
    )
    cosine = float(torch.dot(grads, half_grads) / (grads.norm() * half_grads.norm()))
    values = {"loss": abs(other / loss - 1), "1 - cosine of gradients": 1 - cosine}
    yield Row("bf16 training", values, {"loss": 0.01, "1 - cosine of gradients": 0.01})


def _gradients(
    model: FasterRCNN, batch: Batch, device: torch.device, precision: str
) -> tuple[float, Tensor]:
    model.zero_grad(set_to_none=True)
    with full_precision():
        with autocast(device, precision):
            loss = torch.stack(list(model(batch).values())).sum()
        loss.backward()
    grads = [p.grad.flatten().double() for p in model.parameters() if p.grad is not None]
    return float(loss.detach()), torch.cat(grads)


def orders(setup: Setup) -> Iterator[Row]:
    """Time of the region head, forwards and backwards, with either order of conv5_1's shortcut."""
    model, batch = detector(setup, depth=101, images=2)
    head, size = model.roi_head, batch.sizes[0]
    boxes = [random_boxes(setup.pick(512, 60), size, setup.device, seed=seed) for seed in (1, 2)]
    with torch.no_grad():
        features = model.extract(batch.images, batch.sizes)
    usual = blocks.convolves_first
    order: dict[str, Callable[..., bool]] = {
        "pool first": lambda conv, device: conv.out_channels <= conv.in_channels,
        "convolve first": lambda conv, device: True,
    }
    milliseconds = {}
    for name, first in order.items():
        blocks.convolves_first = first
        try:
            call = partial(_half_pass, head, features, boxes, size)
            milliseconds[f"{name} ms"] = 1e3 * min(timed(call, setup.device) for _ in range(5))
        finally:
            blocks.convolves_first = usual
    chosen = "convolve first" if usual(head.res5[0].shortcut, features.device) else "pool first"
    yield Row("order of the shortcut", milliseconds, note=f"this device: {chosen}")


def _half_pass(head: RoIHead, features: Tensor, boxes: Sequence[Tensor], size: Size) -> None:
    maps = features.detach().clone().requires_grad_()
    with autocast(features.device, "bf16"):
        logits, _ = head(maps, boxes, [size for _ in boxes])
    logits.sum().backward()


#: In the order of what they say when a run is stopped early.
CHECKS: dict[str, Part] = {
    "golden": golden,
    "large_pass": large_pass,
    "pooling": pooling,
    "suppression": suppression,
    "half_precision": half_precision,
    "resume": resume,
    "large_batch": large_batch,
    "orders": orders,
}
