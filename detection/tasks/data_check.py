"""Which data set does a configuration describe, as the data doctor takes it?"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from ...datasets.checks.check import DataSet
from ...datasets.checks.statistics import Anchors
from ...datasets.formats.layouts import coco_folder_checks
from ...datasets.formats.voc import inspect_voc_folder
from ..config.detector import DetectorConfig
from .detector import image_rules, inspect_source


def anchors_in_training(config: DetectorConfig) -> Anchors:
    """Of several training scales the middle one."""
    sides = sorted(config.image.short_side_train)
    return Anchors(
        config.rpn.anchor_sizes,
        config.rpn.anchor_ratios,
        sides[len(sides) // 2],
        config.image.long_side_max,
    )


def configured_data(config: DetectorConfig, origin: Path, *, workers: int = 0) -> DataSet:
    """``data.train`` and ``data.val`` with all objects, also the difficult ones."""
    data, rules = config.data, image_rules(config)
    splits = {"train": data.train, "val": data.val}
    sources = (*data.train, *data.val)
    pairs = [(source.images, source.annotations) for source in sources if source.format == "coco"]
    roots = dict.fromkeys(source.root for source in sources if source.format == "voc")
    return DataSet(
        origin,
        {
            name: [
                partial(inspect_source, source, "ignore", rules, workers=workers) for source in part
            ]
            for name, part in splits.items()
            if part
        },
        [
            *coco_folder_checks(pairs),
            *(partial(inspect_voc_folder, root) for root in roots),
        ],
        classes=data.classes,
        ignore_classes=data.ignore_classes,
        from_training=True,
        on_bad_box=data.on_bad_box,
        rules=rules,
        anchors=anchors_in_training(config),
    )
