"""detectron2's reference case: its settings and weights as our network, and comparison of boxes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
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
from resdet.detection.structures import Annotation, Batch, Geometry, Sample
from torch import Tensor

NAME = "r50_c4_narrow"
IMAGES = (0, 1)
#: Proposals of 300 and detections of 100 whose NMS or rank may turn on a rounding.
SWAPPED = 3
#: The names of detectron2's losses and ours.
LOSSES = {
    "loss_rpn_cls": "loss_rpn_cls",
    "loss_rpn_loc": "loss_rpn_box",
    "loss_cls": "loss_cls",
    "loss_box_reg": "loss_box",
}


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


def assemble(settings: dict[str, Any]) -> FasterRCNN:
    backbone = ResNet(
        depth=settings["depth"],
        width=settings["width_per_group"],
        stem_width=settings["stem_channels"],
        stride_in="1x1" if settings["stride_in_1x1"] else "3x3",
    )
    if backbone.channels_of("res2") != settings["res2_out_channels"]:
        raise ValueError(f"{NAME}: not a network of this width")
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


def read_settings(folder: Path) -> dict[str, Any]:
    """The settings of the case in ``folder``."""
    return json.loads((folder / f"{NAME}.json").read_text())


def read_arrays(folder: Path) -> dict[str, np.ndarray]:
    """Inputs and outputs that detectron2 computed."""
    with np.load(folder / f"{NAME}.npz") as file:
        return dict(file)


def read_network(folder: Path) -> FasterRCNN:
    """detectron2's checkpoint in our network; both sides accounted for to the last tensor."""
    model = assemble(read_settings(folder))
    converted = import_weights(folder / f"{NAME}.pkl")
    check_binding(converted, pixels="msra", stride_in="1x1")
    load_into(model, converted.tensors)
    return model.to(memory_format=torch.channels_last).eval()


def make_pipeline(model: FasterRCNN, settings: dict[str, Any]) -> Pipeline:
    """The plain detector; the images are given at network size, so no transform runs."""
    roi = settings["roi"]
    return Pipeline(
        [DetectorMember(model, (EvalTransform(256, 320),))],
        suppress=partial(suppress, nms_iou=roi["nms"], max_detections=roi["detections"]),
        score_threshold=roi["score_threshold"],
    )


def make_batch(arrays: dict[str, np.ndarray]) -> Batch:
    samples = []
    for i in IMAGES:
        rgb = torch.from_numpy(arrays[f"image{i}_bgr"][..., ::-1].copy())
        labels = torch.from_numpy(arrays[f"gt_labels{i}"])
        boxes = torch.from_numpy(arrays[f"gt_boxes{i}"])
        truth = Annotation(boxes, labels, torch.zeros(len(labels), dtype=torch.bool))
        size = (rgb.shape[0], rgb.shape[1])
        samples.append(Sample(rgb, truth, Geometry(size), image_id=str(i)))
    return Batch.collate(samples)


def partners(first: Tensor, second: Tensor, *, within: float) -> list[tuple[int, int]]:
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
