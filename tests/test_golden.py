"""Parity with detectron2: features, proposals, detections and losses of one network.

Once as shipped, with norms folded into convolutions, and once with the norms apart, which is the
order of operations, and therefore the rounding, of the reference. Random weights on unscaled pixels
amplify rounding: the reference itself is 1e-3 from the same network in float64.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from resdet.backbones.norm import ConvNorm
from resdet.backbones.pixels import PIXELS, PixelNorm
from resdet.backbones.resnet import ResNet
from resdet.backbones.weights.load import check_binding, import_weights, load_into
from resdet.datasets.loading.transforms import EvalTransform
from resdet.detection.inference.pipeline import DetectorMember, Pipeline
from resdet.detection.models.faster_rcnn import Criterion, FasterRCNN, Select
from resdet.detection.models.roi_head import RoIHead, decode_regions, roi_loss, roi_targets
from resdet.detection.models.rpn import RPNHead, rpn_loss, rpn_targets, select_proposals
from resdet.detection.ops.anchors import AnchorGrid, cell_anchors
from resdet.detection.ops.matching import Sampler, sample
from resdet.detection.ops.nms import suppress
from resdet.detection.ops.roi_align import roi_align
from resdet.detection.structures import Annotation, Batch, Detections, Geometry, Sample
from torch import Tensor

IMAGES = (0, 1)
#: Proposals of 300 and detections of 100 whose NMS or rank may turn on a rounding.
SWAPPED = 3


@dataclass(frozen=True)
class Bounds:
    """How near: absolute on features (their spread is 2.4), logits and scores, px on boxes."""

    features: float
    logits: float
    scores: float
    pixels: float


BOUNDS = {
    "folded": Bounds(features=3e-3, logits=5e-3, scores=2e-3, pixels=0.1),
    "apart": Bounds(features=4e-4, logits=5e-4, scores=2e-4, pixels=1e-2),
}


def _assemble(settings: dict[str, Any]) -> FasterRCNN:
    backbone = ResNet(
        depth=settings["depth"],
        width=settings["width_per_group"],
        stem_width=settings["stem_channels"],
        stride_in="1x1" if settings["stride_in_1x1"] else "3x3",
    )
    assert backbone.channels_of("res2") == settings["res2_out_channels"]
    rpn, roi, classes = settings["rpn"], settings["roi"], settings["num_classes"]
    trunk = backbone.trunk()
    cells = cell_anchors(settings["anchor_sizes"], settings["aspect_ratios"])
    select = partial(select_proposals, nms_iou=rpn["nms"], min_size=0.0)
    return FasterRCNN(
        pixels=PixelNorm(PIXELS["msra"]),
        trunk=trunk,
        anchors=AnchorGrid(cells, trunk.stride),
        rpn_head=RPNHead(trunk.channels, trunk.channels, len(cells)),
        roi_head=RoIHead(
            backbone.tail(stride=2),
            channels=backbone.tail_channels,
            classes=classes,
            pool=partial(
                roi_align,
                size=roi["resolution"],
                stride=trunk.stride,
                sampling_ratio=roi["sampling_ratio"],
            ),
            pool_size=roi["resolution"],
            linear_pool=True,
        ),
        select=partial(select, pre_nms=rpn["pre_nms_test"], post_nms=rpn["post_nms_test"]),
        decode=partial(decode_regions, weights=tuple(roi["box_weights"])),
        criterion=_criterion(
            rpn,
            roi,
            classes,
            partial(select, pre_nms=rpn["pre_nms_train"], post_nms=rpn["post_nms_train"]),
        ),
    )


def _criterion(rpn: dict[str, Any], roi: dict[str, Any], classes: int, select: Select) -> Criterion:
    return Criterion(
        select=select,
        rpn_targets=partial(
            rpn_targets,
            sampler=Sampler(
                positive_iou=rpn["fg"],
                negative_iou=rpn["bg"],
                low_quality=True,
                sample=_sample(rpn),
            ),
            drop_border=False,
        ),
        roi_targets=partial(
            roi_targets,
            classes=classes,
            sampler=Sampler(positive_iou=roi["fg"], negative_iou=roi["fg"], sample=_sample(roi)),
            append_ground_truth=roi["append_gt"],
            weights=tuple(roi["box_weights"]),
        ),
        rpn_loss=partial(rpn_loss, beta=rpn["smooth_l1_beta"]),
        roi_loss=partial(roi_loss, beta=roi["smooth_l1_beta"]),
        box_loss_weights=(1.0, 1.0),
        rpn_normalizer=rpn["batch_per_image"],
    )


def _sample(stage: dict[str, Any]) -> partial:
    return partial(
        sample, count=stage["batch_per_image"], positive_fraction=stage["positive_fraction"]
    )


@pytest.fixture(scope="module")
def arrays(golden: Path) -> dict[str, np.ndarray]:
    with np.load(golden / "r50_c4_narrow.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def settings(golden: Path) -> dict[str, Any]:
    return json.loads((golden / "r50_c4_narrow.json").read_text())


@pytest.fixture(scope="module")
def network(golden: Path, settings: dict[str, Any]) -> FasterRCNN:
    """detectron2's checkpoint in our network; both sides accounted for to the last tensor."""
    model = _assemble(settings)
    converted = import_weights(golden / "r50_c4_narrow.pkl")
    check_binding(converted, pixels="msra", stride_in="1x1")
    load_into(model, converted.tensors)
    return model.to(memory_format=torch.channels_last).eval()


@pytest.fixture(scope="module", params=list(BOUNDS))
def order(request: pytest.FixtureRequest) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "apart":
            patch.setattr(ConvNorm, "fixed_factors", lambda self: None)
        yield request.param


@pytest.fixture(scope="module")
def model(network: FasterRCNN, order: str) -> FasterRCNN:
    return network


@pytest.fixture(scope="module")
def pipeline(model: FasterRCNN, settings: dict[str, Any]) -> Pipeline:
    """The plain detector; the images are given at network size, so no transform runs."""
    roi = settings["roi"]
    return Pipeline(
        [DetectorMember(model, (EvalTransform(256, 320),))],
        suppress=partial(suppress, nms_iou=roi["nms"], max_detections=roi["detections"]),
        score_threshold=roi["score_threshold"],
    )


@pytest.fixture(scope="module")
def bounds(order: str) -> Bounds:
    return BOUNDS[order]


@pytest.fixture(scope="module")
def batch(arrays: dict[str, np.ndarray]) -> Batch:
    samples = []
    for i in IMAGES:
        rgb = torch.from_numpy(arrays[f"image{i}_bgr"][..., ::-1].copy())
        labels = torch.from_numpy(arrays[f"gt_labels{i}"])
        boxes = torch.from_numpy(arrays[f"gt_boxes{i}"])
        truth = Annotation(boxes, labels, torch.zeros(len(labels), dtype=torch.bool))
        size = (rgb.shape[0], rgb.shape[1])
        samples.append(Sample(rgb, truth, Geometry(size), image_id=str(i)))
    return Batch.collate(samples)


@pytest.fixture(scope="module")
def features(model: FasterRCNN, batch: Batch) -> Tensor:
    with torch.no_grad():
        return model.extract(batch.images, batch.sizes)


def test_features(features: Tensor, arrays: dict[str, np.ndarray], bounds: Bounds) -> None:
    expected = torch.from_numpy(arrays["features"])
    torch.testing.assert_close(features.contiguous(), expected, atol=bounds.features, rtol=0)


def test_features_are_as_exact_as_the_reference(
    features: Tensor, network: FasterRCNN, batch: Batch, arrays: dict[str, np.ndarray]
) -> None:
    with torch.no_grad():
        exact = deepcopy(network.trunk).double()(network.pixels(batch.images, batch.sizes).double())
    error, theirs = features - exact, torch.from_numpy(arrays["features"]) - exact
    assert error.square().mean().sqrt() < 1.2 * theirs.square().mean().sqrt()


def _partners(first: Tensor, second: Tensor, *, within: float) -> list[tuple[int, int]]:
    """Greedy one-to-one pairs of equal boxes, by largest coordinate difference."""
    distance = (first[:, None] - second[None]).abs().amax(dim=-1)
    free = torch.ones(len(second), dtype=torch.bool)
    pairs = []
    for row in range(len(first)):
        column = int(torch.where(free, distance[row], torch.inf).argmin())
        if free[column] and distance[row, column] <= within:
            free[column] = False
            pairs.append((row, column))
    return pairs


@pytest.mark.parametrize("i", IMAGES)
def test_proposals(
    i: int,
    model: FasterRCNN,
    batch: Batch,
    features: Tensor,
    arrays: dict[str, np.ndarray],
    bounds: Bounds,
) -> None:
    with torch.no_grad():
        logits, deltas = model.rpn_head(features)
        every = model.select(logits, deltas, model.anchors(features), batch.sizes)
        assert torch.equal(model.propose(features, batch.sizes)[i], every[0][i])
    proposals, scores = every[0][i], every[1][i]
    expected = torch.from_numpy(arrays[f"proposals{i}"])
    assert proposals.shape == expected.shape
    pairs = _partners(proposals, expected, within=bounds.pixels)
    assert len(pairs) >= len(expected) - SWAPPED
    rows, columns = (list(side) for side in zip(*pairs, strict=True))
    wanted = torch.from_numpy(arrays[f"objectness{i}"])[columns]
    torch.testing.assert_close(scores[rows], wanted, atol=bounds.logits, rtol=0)
    assert (scores[:-1] >= scores[1:]).all()


def _expected_detections(arrays: dict[str, np.ndarray], i: int) -> Detections:
    return Detections(
        *(torch.from_numpy(arrays[f"{field}{i}"]) for field in ("boxes", "scores", "labels"))
    )


@pytest.mark.parametrize("i", IMAGES)
def test_detections(
    i: int, pipeline: Pipeline, batch: Batch, arrays: dict[str, np.ndarray], bounds: Bounds
) -> None:
    """As sets: neighbours with equal scores may swap.

    Image 0 is given four boxes of no height by detectron2; they can be no objects and we leave
    them out, which makes room for four that score less than all of theirs.
    """
    found, expected = pipeline.predict(batch)[i], _expected_detections(arrays, i)
    assert len(found) == len(expected) == 100
    extent = expected.boxes[:, 2:] - expected.boxes[:, :2]
    real = expected[(extent > 0).all(dim=1)]
    assert len(real) == (96, 100)[i]
    apart = 1e4 * torch.arange(5)  # boxes of different labels are never near
    pairs = _partners(
        real.boxes + apart[real.labels, None],
        found.boxes + apart[found.labels, None],
        within=2 * bounds.pixels,
    )
    assert len(pairs) >= len(real) - SWAPPED
    rows, columns = (list(side) for side in zip(*pairs, strict=True))
    torch.testing.assert_close(found.scores[columns], real.scores[rows], atol=bounds.scores, rtol=0)
    others = sorted(set(range(len(found))) - set(columns))
    assert (found.scores[others] <= real.scores.min() + bounds.scores).sum() >= 100 - len(real)


@pytest.mark.parametrize("mode", [True, False])
def test_losses(mode: bool, model: FasterRCNN, batch: Batch, arrays: dict[str, np.ndarray]) -> None:
    try:
        with torch.no_grad():
            losses = model.train(mode)(batch)
    finally:
        model.eval()
    ours = {
        "loss_rpn_cls": "loss_rpn_cls",
        "loss_rpn_loc": "loss_rpn_box",
        "loss_cls": "loss_cls",
        "loss_box_reg": "loss_box",
    }
    assert losses.keys() == set(ours.values())
    for theirs, name in ours.items():
        assert float(losses[name]) == pytest.approx(float(arrays[theirs]), rel=2e-4), name
