"""The data set of a configuration, as ``check-data`` takes it."""

from __future__ import annotations

from pathlib import Path

from ...datasets.checks.check import DataSet
from ...datasets.checks.sources import sources_data
from ...datasets.formats.format import Reading
from ..config.detector import DetectorConfig
from .base import image_rules
from .detector_network import anchors_in_training


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
