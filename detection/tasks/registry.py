"""The registry of tasks."""

from __future__ import annotations

from collections.abc import Mapping

from .base import Task
from .classifier import CLASSIFICATION
from .detector import DETECTION
from .localizer import LOCALIZATION
from .region_localizer import LOCALIZATION_RCNN

#: By ``task`` of configurations and checkpoints. To add a task, add its line here.
TASKS: Mapping[str, Task] = {
    "detection": DETECTION,
    "classification": CLASSIFICATION,
    "localization": LOCALIZATION,
    "localization_rcnn": LOCALIZATION_RCNN,
}
