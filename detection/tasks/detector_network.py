"""The detector's network and its prediction pipeline, assembled from a configuration."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from ...backbones.pixels import PixelNorm
from ...datasets.checks.statistics import Anchors
from ...datasets.loading.transforms import EvalTransform, TrainTransform
from ..config.detector import (
    DetectorConfig,
    RoiConfig,
    RpnConfig,
    TestConfig,
)
from ..inference.pipeline import DetectorMember, Pipeline
from ..models.faster_rcnn import Criterion, FasterRCNN
from ..models.roi_head import RegionPool, RoIHead, decode_regions, roi_loss, roi_targets
from ..models.rpn import RPNHead, rpn_loss, rpn_targets, select_proposals
from ..ops.anchors import AnchorGrid, cell_anchors
from ..ops.matching import Sampler, sample
from ..ops.nms import suppress
from ..ops.roi_align import roi_align, roi_pool
from .base import Loaded, seeded


def build_detector(config: DetectorConfig, classes: int) -> FasterRCNN:
    """The network with random weights drawn from ``train.seed``."""
    return seeded(partial(_assemble, config, classes), config.train.seed)


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


def anchors_in_training(config: DetectorConfig) -> Anchors:
    """The anchors at the training scale, of several scales the middle one."""
    sides = sorted(config.image.short_side_train)
    return Anchors(
        config.rpn.anchor_sizes,
        config.rpn.anchor_ratios,
        sides[len(sides) // 2],
        config.image.long_side_max,
        config.backbone.build().stride,
    )


def train_transform(config: DetectorConfig) -> TrainTransform:
    image = config.image
    return TrainTransform(
        image.short_side_train,
        image.long_side_max,
        image.flip,
        image.augment,
    )


def eval_transform(config: DetectorConfig, short_side: int | None = None) -> EvalTransform:
    """The resize of testing, or that to another ``short_side``, with the limit of the longer side
    in proportion."""
    image = config.image
    side = short_side or image.short_side_test
    limit = round(image.long_side_max * side / image.short_side_test)
    return EvalTransform(side, limit)


def build_pipeline(members: Sequence[Loaded[FasterRCNN, DetectorConfig]]) -> Pipeline:
    """The pipeline of one or several members, with ``config.test`` of the first one."""
    test = members[0].config.test
    return Pipeline(
        [_member(member, test) for member in members],
        suppress=_suppress(test),
        score_threshold=test.score_threshold,
        flip=test.flip,
        rounds=test.refine.rounds,
        region_side=test.pyramid_region,
    )


def _member(detector: Loaded[FasterRCNN, DetectorConfig], test: TestConfig) -> DetectorMember:
    scales = test.scales or (detector.config.image.short_side_test,)
    return DetectorMember(
        detector.model,
        tuple(eval_transform(detector.config, side) for side in scales),
        tuple(eval_transform(detector.config, side) for side in test.pyramid),
    )
