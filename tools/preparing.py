"""The reading of the data of a run, with what they contradict in a base of its config."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from resdet.datasets.findings import RefusedData
from resdet.detection.config.inherited import Inherited, contradicted
from resdet.detection.tasks.banner import classes_without_objects
from resdet.detection.tasks.base import Task
from resdet.detection.tasks.start import Start
from resdet.detection.tasks.training import Training


def prepared(task: Task, config: Any, start: Start, inherited: Sequence[Inherited]) -> Training:
    """The training, ready to run; its errors and notes name what is ``inherited`` and not true of
    the data."""
    try:
        training = Training(task, config, start)
    except RefusedData as error:
        lines = contradicted(inherited, error.findings)
        raise RefusedData("; ".join([str(error), *lines]), error.findings) from error
    if classes_without_objects(training.splits):
        training.notes += [each.line for each in inherited if each.key == "classes"]
    return training
