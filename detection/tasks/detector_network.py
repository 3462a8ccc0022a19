"""The detector's network and its prediction pipeline, assembled from a configuration."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from ...backbones.pixels import PixelNorm
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
from ..ops.nms import suppress, suppress_across_classes
from ..ops.roi_align import roi_align, roi_pool
from .base import Loaded
from .describing import describe_members
from .seeded import seeded


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
        suppress_across_classes if test.suppress.class_agnostic else suppress,
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
    """The pipeline of one or several members. Each is tested on its own sizes; what comes after
    their scores are averaged is set by ``config.test`` of the first one."""
    test = members[0].config.test
    return Pipeline(
        [_member(member) for member in members],
        suppress=_suppress(test),
        score_threshold=test.score_threshold,
        rounds=test.refine.rounds,
    )


def _member(detector: Loaded[FasterRCNN, DetectorConfig]) -> DetectorMember:
    config, test = detector.config, detector.config.test
    return DetectorMember(
        detector.model,
        tuple(eval_transform(config, side) for side in _scales(config)),
        tuple(eval_transform(config, side) for side in test.pyramid),
        flip=test.flip,
        region_side=test.pyramid_region,
    )


def _scales(config: DetectorConfig) -> tuple[int, ...]:
    return config.test.scales or (config.image.short_side_test,)


def describe_pipeline(members: Sequence[Loaded[FasterRCNN, DetectorConfig]]) -> str:
    """The settings of `build_pipeline` in words."""
    test = members[0].config.test
    parts = describe_members([_describe_views(member.config) for member in members])
    if any(member.config.roi.context for member in members):
        parts.append("global context")
    if test.refine.rounds:
        parts.append(f"{test.refine.rounds} round(s) of refinement")
    parts.append(_describe_suppression(test))
    if test.vote.iou is not None:
        mean = ", mean score" if test.vote.score == "average" else ""
        parts.append(f"box voting at {test.vote.iou:g}{mean}")
    return "; ".join(parts)


def _describe_views(config: DetectorConfig) -> list[str]:
    test = config.test
    words = ["shorter side " + ", ".join(map(str, _scales(config)))]
    words += ["flipped too"] if test.flip else []
    if test.pyramid:
        words.append("regions on the pyramid " + ", ".join(map(str, test.pyramid)))
    return words


def _describe_suppression(test: TestConfig) -> str:
    if test.suppress.method == "soft_nms":  # the only one without a threshold
        return f"soft_nms with sigma {test.suppress.soft_sigma:g}"
    across = " over all classes together" if test.suppress.class_agnostic else ""
    return f"{test.suppress.method} at {test.nms_iou:g}{across}"
