"""Which data set does a configuration describe, as the data doctor takes it?"""

from __future__ import annotations

from pathlib import Path

from ...datasets.checks.check import DataSet
from ...datasets.checks.sources import sources_data
from ...datasets.checks.statistics import Anchors
from ...datasets.formats.format import Reading
from ..config.detector import DetectorConfig
from .detector import image_rules


def anchors_in_training(config: DetectorConfig) -> Anchors:
    """Of several training scales the middle one."""
    sides = sorted(config.image.short_side_train)
    return Anchors(
        config.rpn.anchor_sizes,
        config.rpn.anchor_ratios,
        sides[len(sides) // 2],
        config.image.long_side_max,
        config.backbone.build().stride,
    )


def configured_data(config: DetectorConfig, origin: Path, *, workers: int = 0) -> DataSet:
    """``data.train`` and ``data.val`` with all objects, also the difficult ones."""
    data = config.data
    return sources_data(
        origin,
        {"train": data.train, "val": data.val},
        Reading(image_rules(config), workers=workers),
        classes=data.classes,
        ignore_classes=data.ignore_classes,
        on_bad_box=data.on_bad_box,
        anchors=anchors_in_training(config),
    )
