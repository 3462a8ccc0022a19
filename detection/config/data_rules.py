"""What the reading and the checks of data take from a config."""

from __future__ import annotations

from typing import Any

from ...datasets.checks.statistics import Anchors
from ...datasets.image import ImageRules
from .detector import DetectorConfig


def image_rules(config: Any) -> ImageRules:
    """How the images of ``config.data`` are read."""
    data = config.data
    names = ("exif", "on_bad_image", "on_truncated", "max_pixels", "min_side", "max_aspect")
    return ImageRules(**{name: getattr(data, name) for name in names})


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
