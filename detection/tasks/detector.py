"""From a configuration to objects: the only place that knows both."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch

from ...backbones.pixels import PixelNorm
from ...datasets.catalog import DataSplit, label_images
from ...datasets.findings import refuse
from ...datasets.formats import inspect_all
from ...datasets.formats.format import Difficult, Reading
from ...datasets.image import ImageRules
from ...datasets.loading.transforms import EvalTransform, TrainTransform
from ..config.detector import (
    DetectorConfig,
    RoiConfig,
    RpnConfig,
    TestConfig,
)
from ..inference.pipeline import Member, Pipeline
from ..models.faster_rcnn import Criterion, FasterRCNN
from ..models.roi_head import RegionPool, RoIHead, decode_regions, roi_loss, roi_targets
from ..models.rpn import RPNHead, rpn_loss, rpn_targets, select_proposals
from ..ops.anchors import AnchorGrid, cell_anchors
from ..ops.matching import Sampler, sample
from ..ops.nms import suppress
from ..ops.roi_align import roi_align, roi_pool


@dataclass(frozen=True)
class Detector:
    """A network with what it needs to be used: its configuration and class names."""

    model: FasterRCNN
    config: DetectorConfig
    classes: tuple[str, ...]
    #: Further members of an ensemble, with their classes in the order of this one's.
    others: tuple[Detector, ...] = ()


def build_model(config: DetectorConfig, classes: int) -> FasterRCNN:
    """The network with random weights, in channels-last memory, drawn from ``train.seed``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.train.seed)
        model = _assemble(config, classes)
    return model.to(memory_format=torch.channels_last)


def _assemble(config: DetectorConfig, classes: int) -> FasterRCNN:
    backbone = config.backbone.build()
    trunk = backbone.trunk(frozen_stages=config.backbone.frozen_stages)
    cells = cell_anchors(config.rpn.anchor_sizes, config.rpn.anchor_ratios)
    rpn, roi = config.rpn, config.roi
    return FasterRCNN(
        pixels=PixelNorm(backbone.pixels),
        trunk=trunk,
        anchors=AnchorGrid(cells, trunk.stride),
        rpn_head=RPNHead(trunk.channels, rpn.channels, len(cells)),
        roi_head=RoIHead(
            backbone.tail(stride=roi.tail_stride),
            channels=backbone.tail_channels,
            classes=classes,
            pool=_region_pool(roi, trunk.stride),
            pool_size=roi.pool_size,
            linear_pool=roi.pool == "align",
            class_agnostic=roi.class_agnostic_boxes,
            context=roi.context,
        ),
        select=_select(rpn, rpn.pre_nms_test, rpn.post_nms_test),
        decode=partial(decode_regions, weights=roi.box_weights),
        criterion=_criterion(rpn, roi, classes),
    )


def _criterion(rpn: RpnConfig, roi: RoiConfig, classes: int) -> Criterion:
    return Criterion(
        select=_select(rpn, rpn.pre_nms_train, rpn.post_nms_train),
        rpn_targets=partial(
            rpn_targets,
            sampler=Sampler(
                positive_iou=rpn.positive_iou,
                negative_iou=rpn.negative_iou,
                low_quality=rpn.low_quality_matches,
                sample=_sample(rpn),
            ),
            drop_border=rpn.border_anchors == "drop",
        ),
        roi_targets=partial(
            roi_targets,
            classes=classes,
            sampler=Sampler(
                positive_iou=roi.positive_iou,
                negative_iou=roi.positive_iou,
                negative_iou_low=roi.negative_iou_low,
                sample=_sample(roi),
            ),
            append_ground_truth=roi.append_ground_truth,
            weights=roi.box_weights,
        ),
        rpn_loss=partial(rpn_loss, beta=rpn.smooth_l1_beta),
        roi_loss=partial(roi_loss, beta=roi.smooth_l1_beta),
        box_loss_weights=(rpn.box_loss_weight, roi.box_loss_weight),
        rpn_normalizer=rpn.batch_per_image if rpn.normalizer == "fixed" else None,
    )


def _select(rpn: RpnConfig, pre_nms: int, post_nms: int) -> partial:
    return partial(
        select_proposals,
        pre_nms=pre_nms,
        post_nms=post_nms,
        nms_iou=rpn.nms_iou,
        min_size=rpn.min_size,
    )


def _sample(stage: RpnConfig | RoiConfig) -> partial:
    return partial(sample, count=stage.batch_per_image, positive_fraction=stage.positive_fraction)


def _suppress(test: TestConfig) -> partial:
    return partial(
        suppress,
        nms_iou=test.nms_iou,
        max_detections=test.max_detections,
        method=test.suppress.method,
        soft_sigma=test.suppress.soft_sigma,
        soft_floor=test.suppress.soft_floor,
        vote_iou=test.vote.iou,
        vote_score=test.vote.score,
    )


def _region_pool(roi: RoiConfig, stride: int) -> RegionPool:
    if roi.pool == "pool":
        return partial(roi_pool, size=roi.pool_size, stride=stride)
    return partial(roi_align, size=roi.pool_size, stride=stride, sampling_ratio=roi.sampling_ratio)


def image_rules(config: DetectorConfig) -> ImageRules:
    data = config.data
    return ImageRules(exif=data.exif, on_truncated=data.on_truncated, max_pixels=data.max_pixels)


def build_split(
    config: DetectorConfig, which: str, *, classes: tuple[str, ...] | None = None
) -> DataSplit:
    """The images of ``train`` or ``val``, labelled by name.

    ``classes`` (of a checkpoint, or of the training split) go before the configured ones. In
    training ``data.difficult`` decides about difficult objects; evaluation ignores them always.

    Raises:
        DataError: anything in the annotations, ids or headers of the images is an error.
    """
    data = config.data
    difficult: Difficult = data.difficult if which == "train" else "ignore"
    sources = data.train if which == "train" else data.val
    images, findings = inspect_all(sources, Reading(image_rules(config), difficult))
    known = classes or data.classes
    if known is None:
        refuse(findings, "data")  # half of the data would make half a class list
    split = label_images(
        images, classes=known, ignore_classes=data.ignore_classes, on_bad_box=data.on_bad_box
    )
    findings += split.findings
    refuse(findings, "data")
    return replace(split, findings=tuple(findings))


def train_transform(config: DetectorConfig) -> TrainTransform:
    image = config.image
    return TrainTransform(
        image.short_side_train,
        image.long_side_max,
        image.flip,
        image.augment,
    )


def test_transform(config: DetectorConfig, short_side: int | None = None) -> EvalTransform:
    """The resize of testing, or the same to another shorter side: the longer one's limit follows,
    so that the aspect ratios it cuts short stay the same."""
    image = config.image
    side = short_side or image.short_side_test
    limit = round(image.long_side_max * side / image.short_side_test)
    return EvalTransform(side, limit)


def build_pipeline(detector: Detector) -> Pipeline:
    """What finds objects as ``detector.config.test`` says, alone or as an ensemble."""
    test = detector.config.test
    return Pipeline(
        [_member(member, test) for member in (detector, *detector.others)],
        suppress=_suppress(test),
        score_threshold=test.score_threshold,
        flip=test.flip,
        rounds=test.refine.rounds,
        region_side=test.pyramid_region,
    )


def _member(detector: Detector, test: TestConfig) -> Member:
    scales = test.scales or (detector.config.image.short_side_test,)
    return Member(
        detector.model,
        tuple(test_transform(detector.config, side) for side in scales),
        tuple(test_transform(detector.config, side) for side in test.pyramid),
    )


def describe_testing(detector: Detector) -> str:
    """One line that says which sizes, networks and options make the detections."""
    test = detector.config.test
    scales = test.scales or (detector.config.image.short_side_test,)
    parts = ["shorter side " + ", ".join(map(str, scales))]
    if detector.others:
        parts.append(f"ensemble of {1 + len(detector.others)}")
    if test.flip:
        parts.append("mirrored too")
    if test.pyramid:
        parts.append("regions on the pyramid " + ", ".join(map(str, test.pyramid)))
    if any(member.config.roi.context for member in (detector, *detector.others)):
        parts.append("global context")
    if test.refine.rounds:
        parts.append(f"{test.refine.rounds} round(s) of refinement")
    parts.append(_describe_suppression(test))
    if test.vote.iou is not None:
        mean = ", mean score" if test.vote.score == "average" else ""
        parts.append(f"box voting at {test.vote.iou:g}{mean}")
    return "; ".join(parts)


def _describe_suppression(test: TestConfig) -> str:
    if test.suppress.method == "soft_nms":  # the only one without a threshold
        return f"soft_nms with sigma {test.suppress.soft_sigma:g}"
    return f"{test.suppress.method} at {test.nms_iou:g}"
