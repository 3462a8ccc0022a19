"""From a configuration to objects: the only place that knows both."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch

from ..backbones.c4 import STRIDE, C4Trunk, make_tail
from ..backbones.pixels import PIXELS, PixelNorm
from ..backbones.resnet import ResNetSpec
from ..datasets.catalog import DataSplit, assemble
from ..datasets.coco import read_coco
from ..datasets.image import ImageRules
from ..datasets.raw import RawImage
from ..datasets.transforms import TestTransform, TrainTransform
from ..datasets.voc import Difficult, read_voc
from .models.faster_rcnn import FasterRCNN
from .models.roi_head import RegionPool, RoIHead, roi_targets
from .models.rpn import RPNHead, rpn_targets, select_proposals
from .ops.anchors import cell_anchors
from .ops.roi_align import roi_align, roi_pool
from .ops.suppress import suppress
from .schema import BackboneConfig, DetectorConfig, RoiConfig, RpnConfig, Source


@dataclass(frozen=True)
class Detector:
    """A network with what it needs to be used: its configuration and class names."""

    model: FasterRCNN
    config: DetectorConfig
    classes: tuple[str, ...]


def resnet_spec(backbone: BackboneConfig) -> ResNetSpec:
    return ResNetSpec(
        depth=backbone.depth,
        width=backbone.width,
        norm=backbone.norm,
        stride_in=backbone.stride_in,
    )


def build_model(config: DetectorConfig, classes: int) -> FasterRCNN:
    """The network with random weights, in channels-last memory, drawn from ``train.seed``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.train.seed)
        model = _assemble(config, classes)
    return model.to(memory_format=torch.channels_last)


def _assemble(config: DetectorConfig, classes: int) -> FasterRCNN:
    spec = resnet_spec(config.backbone)
    trunk = C4Trunk(spec, frozen_stages=config.backbone.frozen_stages)
    cells = cell_anchors(config.rpn.anchor_sizes, config.rpn.anchor_ratios)
    rpn, roi, test = config.rpn, config.roi, config.test
    return FasterRCNN(
        pixels=PixelNorm(PIXELS[config.backbone.pixels]),
        trunk=trunk,
        rpn_head=RPNHead(trunk.channels, rpn.channels, len(cells)),
        roi_head=RoIHead(
            make_tail(spec, stride=roi.tail_stride),
            channels=spec.channels(5),
            classes=classes,
            pool=_region_pool(roi),
            pool_size=roi.pool_size,
            linear_pool=roi.pool == "align",
            class_agnostic=roi.class_agnostic_boxes,
        ),
        cell_anchors=cells,
        select_train=_select(rpn, rpn.pre_nms_train, rpn.post_nms_train),
        select_test=_select(rpn, rpn.pre_nms_test, rpn.post_nms_test),
        rpn_targets=partial(
            rpn_targets,
            positive_iou=rpn.positive_iou,
            negative_iou=rpn.negative_iou,
            low_quality=rpn.low_quality_matches,
            drop_border=rpn.border_anchors == "drop",
            count=rpn.batch_per_image,
            positive_fraction=rpn.positive_fraction,
        ),
        roi_targets=partial(
            roi_targets,
            classes=classes,
            positive_iou=roi.positive_iou,
            negative_iou_low=roi.negative_iou_low,
            append_ground_truth=roi.append_ground_truth,
            count=roi.batch_per_image,
            positive_fraction=roi.positive_fraction,
            weights=roi.box_weights,
        ),
        rpn_normalizer=rpn.batch_per_image if rpn.normalizer == "fixed" else None,
        smooth_l1_beta=(rpn.smooth_l1_beta, roi.smooth_l1_beta),
        box_loss_weights=(rpn.box_loss_weight, roi.box_loss_weight),
        box_weights=roi.box_weights,
        score_threshold=test.score_threshold,
        suppress=partial(suppress, nms_iou=test.nms_iou, max_detections=test.max_detections),
    )


def _select(rpn: RpnConfig, pre_nms: int, post_nms: int) -> partial:
    return partial(
        select_proposals,
        pre_nms=pre_nms,
        post_nms=post_nms,
        nms_iou=rpn.nms_iou,
        min_size=rpn.min_size,
    )


def _region_pool(roi: RoiConfig) -> RegionPool:
    if roi.pool == "pool":
        return partial(roi_pool, size=roi.pool_size, stride=STRIDE)
    return partial(roi_align, size=roi.pool_size, stride=STRIDE, sampling_ratio=roi.sampling_ratio)


def image_rules(config: DetectorConfig) -> ImageRules:
    data = config.data
    return ImageRules(exif=data.exif, on_truncated=data.on_truncated, max_pixels=data.max_pixels)


def build_split(
    config: DetectorConfig, which: str, *, classes: tuple[str, ...] | None = None
) -> DataSplit:
    """The pictures of ``train`` or ``val``, labelled by name.

    ``classes`` (of a checkpoint, or of the training split) go before the configured ones. In
    training ``data.difficult`` decides about difficult objects; evaluation ignores them always.
    """
    data = config.data
    difficult: Difficult = data.difficult if which == "train" else "ignore"
    rules = image_rules(config)
    images: list[RawImage] = []
    for source in data.train if which == "train" else data.val:
        images += _read(source, difficult, rules)
    return assemble(
        images,
        classes=classes or data.classes,
        ignore_classes=data.ignore_classes,
        on_bad_box=data.on_bad_box,
    )


def _read(source: Source, difficult: Difficult, rules: ImageRules) -> list[RawImage]:
    if source.format == "coco":
        return read_coco(source.images, source.annotations, rules=rules)
    return read_voc(
        source.root, source.split, coordinates=source.coordinates, difficult=difficult, rules=rules
    )


def train_transform(config: DetectorConfig) -> TrainTransform:
    image = config.image
    return TrainTransform(
        image.short_side_train,
        image.long_side_max,
        image.flip,
        image.augment,
    )


def test_transform(config: DetectorConfig) -> TestTransform:
    return TestTransform(config.image.short_side_test, config.image.long_side_max)
