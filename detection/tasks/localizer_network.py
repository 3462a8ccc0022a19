"""The networks of both stages of a localizer, assembled from a configuration."""

from __future__ import annotations

from functools import partial

from ...backbones.pixels import PixelNorm
from ..config.localizer import HeadConfig, LocalizerConfig, RegionConfig, RegionLocalizerConfig
from ..models.class_head import ClassHead
from ..models.localizer import HeadLoss, Localizer, RegionLocalizer, sample_anchors
from ..ops.anchors import AnchorGrid, cell_anchors
from ..ops.matching import match_images
from .seeded import seeded


def build_localizer(config: LocalizerConfig, classes: int) -> Localizer:
    """The first stage with random weights drawn from ``train.seed``."""
    return seeded(partial(_localizer, config, classes), config.train.seed)


def _localizer(config: LocalizerConfig, classes: int) -> Localizer:
    head = config.head
    backbone = config.network.build()
    trunk = backbone.trunk(whole=head.level == "conv5")
    cells = cell_anchors(head.anchor_sizes, head.anchor_ratios)
    shared = head.outputs == "shared"
    return Localizer(
        pixels=PixelNorm(backbone.pixels),
        trunk=trunk,
        head=ClassHead(trunk.channels, classes, len(cells), shared=shared),
        anchors=AnchorGrid(cells, trunk.stride),
        samples=partial(
            sample_anchors,
            matching=partial(
                match_images,
                positive_iou=head.positive_iou,
                negative_iou=head.negative_iou,
                low_quality=head.low_quality_matches,
            ),
            count=head.per_image,
        ),
        per_image=head.per_image,
        loss=_head_loss(head),
    )


def _head_loss(settings: HeadConfig | RegionConfig) -> HeadLoss:
    return HeadLoss(
        every_class=settings.classes_in_loss == "every",
        smooth_l1_beta=settings.smooth_l1_beta,
        box_loss_weight=settings.box_loss_weight,
    )


def build_region_localizer(config: RegionLocalizerConfig, classes: int) -> RegionLocalizer:
    """The second stage with random weights drawn from ``train.seed``."""
    return seeded(partial(_region_localizer, config, classes), config.train.seed)


def _region_localizer(config: RegionLocalizerConfig, classes: int) -> RegionLocalizer:
    region = config.region
    backbone = config.network.build()
    trunk = backbone.trunk(whole=True)
    return RegionLocalizer(
        pixels=PixelNorm(backbone.pixels),
        trunk=trunk,
        head=ClassHead(trunk.channels, classes, 1),
        size=region.size,
        padding=region.padding,
        positive_iou=region.positive_iou,
        loss=_head_loss(region),
    )
